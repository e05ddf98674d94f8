// The frame: files, layers and heads, the findings, and where one is.

const ui = {};
function button(text, title, act) {
  const made = element("button", { type: "button", textContent: text, title });
  made.addEventListener("click", act);
  return made;
}

function build() {
  ui.canvas = element("canvas", { tabIndex: 0 });
  ui.canvas.setAttribute("role", "application");
  ui.canvas.setAttribute("aria-label", "The map: arrow keys move from cell to cell, ? lists all keys");
  ui.cell = element("output", { className: "cell" });
  ui.cell.setAttribute("aria-live", "polite");
  ui.text = element("p", { className: "text" });
  ui.tree = element("nav", { className: "tree" });
  ui.tree.setAttribute("aria-label", "Files, layers and heads");
  ui.findings = element("aside", { className: "findings" });
  ui.findings.setAttribute("aria-label", "Findings");
  ui.legend = element("div", { className: "legend" });
  ui.search = element("input", { type: "search", placeholder: "Search tokens, tensors, findings  ( / )" });
  ui.search.setAttribute("aria-label", "Search");
  ui.results = element("div", { className: "results", hidden: true });
  ui.modes = MODES.map((name, mode) => button(`${mode + 1} ${name}`, `Show ${name} (key ${mode + 1})`, () => setMode(mode)));
  ui.sample = select("Sample", (value) => go({ sample: +value }));
  ui.head = select("Head", (value) => go({ head: isNaN(+value) ? value : +value }));
  const tools = element("div", { className: "tools" },
    button("Fit", "The whole map (0)", fit), button("+", "Nearer (+)", () => zoomBy(1.5)), button("−", "Farther (-)", () => zoomBy(1 / 1.5)),
    button("PNG", "Save as picture (s)", save), button("Theme", "Dark or light (t)", otherTheme), button("?", "Keys", help));
  const bar = element("header", {}, element("h1", { textContent: page.title }), element("div", { className: "search" }, ui.search, ui.results), tools);
  ui.bar = element("div", { className: "bar" }, ui.sample.parentNode, ui.head.parentNode, element("div", { className: "modes" }, ...ui.modes));
  ui.middle = element("main", {}, ui.bar, ui.text, element("div", { className: "map" }, ui.canvas), ui.cell, ui.legend);
  ui.help = helpDialog();
  document.body.append(bar, ui.tree, ui.middle, ui.findings, ui.help);
  if (page.left_out.length) bar.after(element("p", { className: "left-out", textContent: `Not on this page: ${page.left_out.join(", ")}. A larger --max-size takes them in.` }));
  if (!maps.length) document.body.classList.add("plain");
  fillTree();
  fillFindings();
  if (!maps.length) ui.middle.replaceChildren(report());
}

function select(label, act) {
  const made = element("select");
  made.addEventListener("change", () => act(made.value));
  element("label", {}, `${label} `, made);
  return made;
}

const report = () => element("pre", { className: "report" }, ...page.text.map((line) => element("span", { className: "line", textContent: `${line}\n` })));

/** A name without what the names of all maps of its role begin and end with, but for the last part of that. */
function brief(map) {
  const parts = maps.filter((each) => each.role === map.role).map((each) => each.name.split(".")), mine = map.name.split(".");
  const alike = (at) => parts.every((each) => each.at(at) === mine.at(at));
  let first = 0, last = mine.length;
  if (parts.every((each) => String(each) === String(mine))) return map.name;
  while (first < mine.length && alike(first)) first++;
  while (last > first + 1 && alike(last - 1 - mine.length)) last--;
  return mine.slice(Math.max(0, first - 1), last).join(".");
}

function fillTree() {
  let file = null, list = null;
  maps.forEach((map, at) => {
    if (map.file !== file || !list) {
      file = map.file;
      list = element("ul");
      ui.tree.append(element("details", { open: true }, element("summary", { textContent: file || "in memory", title: file }), list));
    }
    const thumb = element("canvas", { width: 36, height: 36 });
    const dot = page.findings.some((finding) => isOf(finding, map));
    map.button = element("button", { type: "button", className: "layer", title: map.name }, thumb,
      element("span", { className: "name", textContent: brief(map) }), element("span", { className: "size", textContent: `${map.role} ${map.shape.join("×")}` }));
    if (dot) map.button.append(element("span", { className: "dot", title: "A finding is here" }));
    map.button.addEventListener("click", () => go({ map: at }));
    map.heads = element("div", { className: "heads", hidden: true });
    list.append(element("li", {}, map.button, map.heads));
    lazily(thumb, () => drawThumb(thumb, at, 0));
  });
}

const watched = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) { watched.unobserve(target); target.whenSeen(); }
  }
});
function lazily(target, act) {
  target.whenSeen = act;
  watched.observe(target);
}

function fillHeads(at) {
  const map = maps[at];
  if (map.heads.childElementCount || map.shape[1] < 2) return;
  const drawn = map.planes.length ? map.shape[1] : map.mask ? map.mask.stored[1] : 1;
  for (let head = 0; head < Math.min(drawn, 128); head++) {
    const thumb = element("canvas", { width: 30, height: 30 });
    const made = element("button", { type: "button", title: `Head ${head}` }, thumb, element("span", { textContent: head }));
    if (headFlagged(at, head)) made.append(element("span", { className: "dot" }));
    made.addEventListener("click", () => go({ map: at, head }));
    map.heads.append(made);
    lazily(thumb, () => drawThumb(thumb, at, head));
  }
}

/** A small picture of a head: the largest weights, or whom the mask lets attend. */
async function drawThumb(canvas, at, head) {
  const map = maps[at], [, , queries, keys] = map.shape, side = canvas.width;
  const entry = map.planes.find((each) => each.batch === 0 && each.head === head);
  const read = await masksOf(at), mask = read.mask || read.meant;
  const image = new ImageData(side, side), pixels = new Uint32Array(image.data.buffer);
  const attends = word(colour("attends"));
  pixels.fill(word(colour("ignored")));
  if (entry) {
    const plane = await readPlane(entry.view), colours = palette(WEIGHTS, plane), strongest = new Uint8Array(side * side);
    const tall = Math.max(plane.tall, side), wide = Math.max(plane.wide, side);
    for (let y = 0; y < tall; y++) {
      const row = pixelOf(y, tall, plane.tall), line = pixelOf(y, tall, side) * side;
      for (let x = 0; x < wide; x++) {
        const level = plane.levels[row * plane.wide + pixelOf(x, wide, plane.wide)], at = line + pixelOf(x, wide, side);
        if (level > strongest[at]) strongest[at] = level;
      }
    }
    strongest.forEach((level, at) => { if (level) pixels[at] = colours[Math.max(2, level >> 1)]; });
  } else if (mask) {
    for (let y = 0; y < side; y++) {
      const row = rowOf(mask, 0, head, Math.floor((y * queries) / side));
      for (let run = mask.pointer[row]; run < mask.pointer[row + 1]; run++) {
        pixels.fill(attends, y * side + Math.floor((mask.starts[run] * side) / keys), y * side + Math.max(Math.ceil((mask.stops[run] * side) / keys), 1));
      }
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function fillFindings() {
  const count = page.findings.length;
  if (count) ui.findings.append(element("h2", { textContent: count === 1 ? "1 finding" : `${count} findings` }));
  document.body.classList.toggle("bare", !count && !page.text.length);
  page.findings.forEach((finding, at) => {
    const lines = [["where", finding.place], ["why", finding.why], ["fix", finding.fix]].filter(([, text]) => text);
    const made = element("article", { className: finding.severity, tabIndex: 0 },
      element("h3", {}, element("b", { textContent: finding.code }), ` ${finding.name} `, element("i", { textContent: finding.severity })),
      element("p", { textContent: finding.message }),
      element("dl", {}, ...lines.flatMap(([name, text]) => [element("dt", { textContent: name }), element("dd", { textContent: text })])));
    if (finding.see) made.append(element("code", { textContent: finding.see, title: "Select and copy" }));
    made.addEventListener("click", () => fly(at));
    made.addEventListener("keydown", (event) => { if (event.key === "Enter") fly(at); });
    finding.card = made;
    ui.findings.append(made);
  });
  if (maps.length && page.text.length) ui.findings.append(element("details", { open: !count }, element("summary", { textContent: "The report" }), report()));
}

// Where one is

/** Go to a map, sample, head or cell; what does not exist is the nearest that does. */
function go(to, keepView = false) {
  const before = state.map;
  Object.assign(state, to);
  if (!maps.length) return;
  state.map = clamp(state.map, 0, maps.length - 1);
  const map = current(), [batch, heads, queries, keys] = map.shape;
  state.sample = clamp(state.sample, 0, batch - 1);
  if (typeof state.head === "number") state.head = clamp(state.head, 0, heads - 1);
  else if (!map.planes.length) state.head = 0;
  state.q = clamp(state.q, 0, queries - 1);
  state.k = clamp(state.k, 0, keys - 1);
  if (!possible(state.mode)) state.mode = MODES.findIndex((_, mode) => possible(mode));
  if (before !== state.map && !keepView && String(maps[before].shape.slice(2)) !== String(map.shape.slice(2))) state.view = null;
  fillHeads(state.map);
  refresh();
}

const possible = (mode) => {
  const map = current();
  if (mode === WEIGHTS) return map.planes.length > 0 || !(map.mask || map.meant);
  if (mode === MASK) return Boolean(map.mask) || (map.planes.length > 0 && !map.other);
  if (mode === MEANT) return Boolean(map.meant || map.other);
  if (mode === APART) return Boolean(map.meant || map.other);
  return map.reasons.length > 0;
};

function setMode(mode) {
  if (possible(mode)) go({ mode });
}

function options(made, pairs, value) {
  made.replaceChildren(...pairs.map(([key, text]) => element("option", { value: key, textContent: text })));
  made.value = String(value);
  made.parentNode.hidden = pairs.length < 2;
}

function refresh() {
  const map = current(), [batch, heads] = map.shape;
  options(ui.sample, Array.from({ length: batch }, (_, at) => [at, at]), state.sample);
  const pools = map.planes.length && heads > 1 ? [["mean", "mean"], ["max", "max"]] : [];
  options(ui.head, [...Array.from({ length: heads }, (_, at) => [at, at]), ...pools], state.head);
  ui.modes.forEach((made, mode) => {
    made.textContent = `${mode + 1} ${modeName(mode)}`;
    made.setAttribute("aria-pressed", mode === state.mode);
    made.disabled = !possible(mode);
  });
  maps.forEach((each, at) => {
    each.button.setAttribute("aria-current", at === state.map);
    each.heads.hidden = at !== state.map || !each.heads.childElementCount;
  });
  [...map.heads.children].forEach((made, head) => made.setAttribute("aria-current", head === state.head));
  page.findings.forEach((finding, at) => {
    finding.card.classList.toggle("here", isOf(finding, map));
    finding.card.setAttribute("aria-current", at === state.finding);
  });
  const hash = `#map=${state.map}&sample=${state.sample}&head=${state.head}&mode=${state.mode + 1}&q=${state.q}&k=${state.k}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
  draw();
  tell();
}

const modeName = (mode) => {
  const map = current();
  if (mode === MASK) return map.words[0];
  if (mode === MEANT) return map.words[1];
  return mode === WEIGHTS && map.other ? map.words[0] : MODES[mode];
};

function fromHash() {
  const said = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const at = (name) => (/^\d+$/.test(said[name] || "") ? +said[name] : undefined);
  const to = { map: at("map"), sample: at("sample"), q: at("q"), k: at("k"), head: ["mean", "max"].includes(said.head) ? said.head : at("head"), mode: at("mode") && at("mode") - 1 };
  for (const name of Object.keys(to)) if (to[name] === undefined) delete to[name];
  if (to.mode !== undefined && to.mode > REASONS) delete to.mode;
  return to;
}
