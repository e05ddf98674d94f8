// What keys and mouse do.

// Findings, search, save, help

/** Go to where a finding is. */
function fly(at) {
  const finding = page.findings[at];
  if (!finding) return;
  state.finding = at;
  finding.card.scrollIntoView({ block: "nearest" });
  const map = isOf(finding, current() || { name: "" }) ? state.map : maps.findIndex((each) => isOf(finding, each));
  if (map < 0) {
    page.findings.forEach((each, index) => each.card.setAttribute("aria-current", index === at));
    return;
  }
  const place = placesOf(finding)[0], [, , queries, keys] = maps[map].shape;
  const [q0, q1] = (place.queries || [[0, queries]])[0], [k0, k1] = (place.keys || [[0, keys]])[0];
  const head = place.heads ? place.heads[0] : firstHead();
  const same = map === state.map && covers(place, state.sample, firstHead());
  go({ map, sample: place.batch ? place.batch[0] : state.sample, head: same ? firstHead() : head, q: q0, k: k0 });
  const { width, height } = panes()[0];
  const cell = Math.min(width / (Math.min(k1, k0 + 40) - k0 + 8), height / (Math.min(q1, q0 + 40) - q0 + 8), 32);
  state.view = bounded({ cell, q: q0 - 4, k: k0 - 4 });
  draw();
}

function search() {
  const wanted = ui.search.value.toLowerCase().trim(), found = [];
  const add = (text, act) => { if (found.length < 30) found.push(button(text, text, () => { act(); ui.results.hidden = true; ui.canvas.focus(); })); };
  if (wanted) {
    page.findings.forEach((finding, at) => { if (`${finding.code} ${finding.name} ${finding.message}`.toLowerCase().includes(wanted)) add(`${finding.code} ${finding.name}`, () => fly(at)); });
    maps.forEach((map, at) => { if (map.name.toLowerCase().includes(wanted)) add(map.name, () => go({ map: at })); });
    if (maps.length && current().keys.tokens) {
      current().keys.tokens.forEach((row, sample) => row.forEach((token, k) => { if (token.toLowerCase().includes(wanted)) add(`${token} (sample ${sample}, key ${k})`, () => { go({ sample, k }); reveal(); }); }));
    }
    document.querySelectorAll(".line").forEach((line) => line.classList.toggle("found", line.textContent.toLowerCase().includes(wanted)));
    if (!maps.length) document.querySelector(".line.found")?.scrollIntoView({ block: "center" });
  } else document.querySelectorAll(".line.found").forEach((line) => line.classList.remove("found"));
  ui.results.hidden = !wanted || !maps.length;
  ui.results.replaceChildren(...(found.length ? found : ["nothing found"]));
}

function goTo() {
  const said = prompt("Go to query,key such as 17,23", `${state.q},${state.k}`);
  const match = /^\s*(\d+)\s*[,: ]\s*(\d+)\s*$/.exec(said || "");
  if (match) { go({ q: +match[1], k: +match[2] }); reveal(); }
}

function save() {
  ui.canvas.toBlob((blob) => {
    const link = element("a", { href: URL.createObjectURL(blob), download: "map.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

const system = matchMedia("(prefers-color-scheme: dark)");
function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  repaint();
}
const otherTheme = () => theme(document.documentElement.dataset.theme !== "dark");

function repaint() {
  if (!maps.length) return;
  draw();
  tell();
  document.querySelectorAll(".tree canvas").forEach((canvas) => canvas.whenSeen());
}

function blink() {
  clearInterval(state.blinking);
  state.blinking = state.blinking || !possible(MEANT) ? 0 : setInterval(() => {
    const first = possible(MASK) ? MASK : WEIGHTS;
    state.mode = state.mode === MEANT ? first : MEANT;
    refresh();
  }, 700);
}

const HELP = [
  ["arrows", "move the cell; with Shift ten at once"], ["1 … 5", "weights, mask, should be, difference, reasons"], ["[  ]", "head before, after"],
  ["PageUp PageDown", "layer before, after"], [",  .", "sample before, after"], ["m  x", "mean, maximum over heads"], ["+  -  0", "nearer, farther, the whole map; the wheel zooms, dragging moves"],
  ["n  p", "next, previous finding"], ["/", "search"], ["g", "go to a cell"], ["v", "both side by side"], ["b", "blink between both"], ["s", "save as PNG"], ["t", "dark or light"], ["?", "this list; Escape closes it"],
];
function helpDialog() {
  const made = element("dialog", {}, element("h2", { textContent: "Keys" }), element("dl", {}, ...HELP.flatMap(([key, text]) => [element("dt", { textContent: key }), element("dd", { textContent: text })])));
  made.append(button("Close", "Close (Escape)", () => made.close()));
  return made;
}
const help = () => (ui.help.open ? ui.help.close() : ui.help.showModal());

// Keys and mouse

function nextFinding(step) {
  const count = page.findings.length;
  if (count) fly((Math.max(state.finding, step > 0 ? -1 : 0) + step + count) % count);
}

const move = (q, k) => { go({ q: state.q + q, k: state.k + k }); reveal(); };
const KEYS = {
  "[": () => go({ head: firstHead() - 1 }), "]": () => go({ head: firstHead() + 1 }), ",": () => go({ sample: state.sample - 1 }), ".": () => go({ sample: state.sample + 1 }),
  PageUp: () => go({ map: state.map - 1 }), PageDown: () => go({ map: state.map + 1 }), m: () => go({ head: "mean" }), x: () => go({ head: "max" }),
  "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: fit, g: goTo, s: save, b: blink,
  v: () => { state.split = possible(MEANT) && !state.split; state.view = null; draw(); },
};
const ALWAYS = { n: () => nextFinding(1), p: () => nextFinding(-1), t: otherTheme, "?": help, "/": () => ui.search.focus() };

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || ui.help.open) return;
  if (event.target === ui.search) {
    if (event.key === "Escape") { ui.search.value = ""; search(); ui.search.blur(); }
    if (event.key === "Enter") ui.results.querySelector("button")?.click();
    return;
  }
  if (event.target.tagName === "SELECT") return;
  const far = event.shiftKey ? 10 : 1;
  const arrows = { ArrowUp: [-far, 0], ArrowDown: [far, 0], ArrowLeft: [0, -far], ArrowRight: [0, far] };
  const key = event.key, act = ALWAYS[key] || (maps.length ? KEYS[key] : null);
  if (maps.length && arrows[key]) move(...arrows[key]);
  else if (maps.length && key >= "1" && key <= "5") setMode(+key - 1);
  else if (act) act();
  else return;
  event.preventDefault();
}

function cellAt(event) {
  const box = ui.canvas.getBoundingClientRect(), { q, k, cell } = state.view, [, , queries, keys] = current().shape;
  const x = event.clientX - box.left, y = event.clientY - box.top;
  const pane = panes().find((each) => x >= each.left && x < each.left + each.width);
  if (!pane || y < pane.top) return null;
  const at = { q: Math.floor(q + (y - pane.top) / cell), k: Math.floor(k + (x - pane.left) / cell) };
  return at.q < queries && at.k < keys ? at : null;
}

function listen() {
  let drag = null, wasDark;
  addEventListener("keydown", pressed);
  addEventListener("hashchange", () => go(fromHash()));
  const print = (dark) => { theme(dark); if (state.tinted) { tint(...state.tinted); paintNow(); } };
  addEventListener("beforeprint", () => { wasDark = document.documentElement.dataset.theme === "dark"; print(false); });
  addEventListener("afterprint", () => print(wasDark));
  ui.search.addEventListener("input", search);
  system.addEventListener("change", () => theme(system.matches));
  if (!maps.length) return;
  new ResizeObserver(() => { state.view = null; draw(); }).observe(ui.canvas);
  ui.canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = ui.canvas.getBoundingClientRect();
    zoomBy(1.0015 ** -event.deltaY, event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  ui.canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, y: event.clientY, view: state.view }; ui.canvas.setPointerCapture(event.pointerId); });
  ui.canvas.addEventListener("pointerup", () => { drag = null; });
  ui.canvas.addEventListener("pointermove", (event) => {
    if (drag) {
      state.view = bounded({ ...drag.view, q: drag.view.q - (event.clientY - drag.y) / drag.view.cell, k: drag.view.k - (event.clientX - drag.x) / drag.view.cell });
      draw();
      return;
    }
    const at = state.view && cellAt(event);
    if (at && (at.q !== state.q || at.k !== state.k)) go(at);
  });
}

document.documentElement.dataset.theme = system.matches ? "dark" : "light";
for (const [name, [fill]] of Object.entries(page.colours)) document.documentElement.style.setProperty(`--${name}`, fill);
build();
listen();
if (maps.length) {
  const start = page.start || {};
  const shown = { sample: start.sample ?? 0, head: start.head ?? 0, q: start.rows ? start.rows[0] : 0, k: start.keys ? start.keys[0] : 0 };
  const worst = maps.findIndex((map) => page.findings.some((finding) => isOf(finding, map)));
  const first = worst < 0 ? maps.findIndex((map) => map.planes.length) : worst;
  // The frame is seen before weights are read.
  requestAnimationFrame(() => setTimeout(() => {
    go({ map: Math.max(first, 0), ...shown, ...fromHash() });
    ui.canvas.focus();
  }));
} else document.body.dataset.painted = "yes";
