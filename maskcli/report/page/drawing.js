// The map: cells, axes, rulers, bars, and the cell in words.

// The cell in words, and the sentence coloured by its row

const tokenOf = (side, at) => (side.tokens ? (side.tokens[Math.min(state.sample, side.tokens.length - 1)] || [])[at] : undefined);
const quoted = (side, at) => { const text = tokenOf(side, at); return text === undefined ? "" : ` '${text}'`; };

let telling = 0;
async function tell() {
  const turn = ++telling, map = current(), { q, k, sample } = state, head = firstHead();
  const [, , queries, keys] = map.shape;
  const [read, plane, other] = await Promise.all([masksOf(state.map), planeOf(state.map, sample, state.head), map.other && planeOf(state.map, sample, state.head, true)]);
  if (turn !== telling) return;
  const parts = [];
  const value = (of) => {
    const level = of.levels[pixelOf(q, queries, of.tall) * of.wide + pixelOf(k, keys, of.wide)];
    const told = level === NOT_FINITE ? "NaN or infinite" : number(valueOf(of, level));
    return of.tall < queries || of.wide < keys ? `at most ${told} around` : told;
  };
  if (!plane && map.planes.length) parts.push("weight not on the page");
  if (plane) parts.push(other ? `A ${value(plane)}, B ${value(other)}` : value(plane));
  const meant = read.meant || read.mask;
  if (read.meant && read.mask && lets(read.mask, sample, head, q, k) !== lets(read.meant, sample, head, q, k)) {
    const seen = lets(read.mask, sample, head, q, k);
    const theirs = map.words[1] === "B" ? `B ${seen ? "hides it" : "lets it be seen"}` : `it should be ${seen ? "hidden" : "seen"}`;
    parts.push(`${map.words[0]} ${seen ? "lets it be seen" : "hides it"}, ${theirs}`);
  }
  if (meant) {
    const reason = read.reasons.find((each) => lets(each.forbids, sample, head, q, k));
    const { yes, no } = map.strip || { yes: "allowed", no: "forbidden" };
    parts.push(lets(meant, sample, head, q, k) ? yes : `${no}${reason ? `: ${[...new Set([wordOf(reason.kind), reason.operand])].join(", ")}` : ""}`);
  }
  const codes = new Set(flagged(state.map, sample, head).filter(([q0, q1, k0, k1]) => q0 <= q && q < q1 && k0 <= k && k < k1).map((each) => each[4].code));
  const place = map.strip ? `${tokenOf(map.queries, q)}, token ${map.strip.firsts[sample] + k}` : `query ${q}${quoted(map.queries, q)} → key ${k}`;
  ui.cell.textContent = `${place}${quoted(map.keys, k)}: ${[...parts, ...codes].join(", ")}`;
  tint(map, plane, meant);
}

/** The tokens around the cell, each as dark as the query looks at it. */
function tint(map, plane, mask) {
  const [, , queries, keys] = map.shape, tokens = map.keys.tokens;
  state.tinted = [map, plane, mask];
  ui.text.hidden = !tokens;
  if (!tokens) return;
  const first = Math.max(0, Math.min(state.k - AROUND, keys - 2 * AROUND)), last = Math.min(keys, first + 2 * AROUND);
  const line = plane && pixelOf(state.q, queries, plane.tall) * plane.wide;
  const spans = [];
  let most = 0;
  const shares = [];
  for (let key = first; key < last; key++) {
    const value = plane ? valueOf(plane, plane.levels[line + pixelOf(key, keys, plane.wide)]) || 0 : mask && lets(mask, state.sample, firstHead(), state.q, key) ? 1 : 0;
    shares.push(value);
    most = Math.max(most, value);
  }
  const [from, to] = [colour("paper"), colour("attends")];
  for (let key = first; key < last; key++) {
    const share = most ? (shares[key - first] / most) ** 0.5 * (plane ? 1 : 0.45) : 0;
    const span = element("span", { textContent: tokenOf(map.keys, key) });
    span.style.background = `rgb(${between([from, to], share).join()})`;
    if (share > 0.55) span.classList.add("strong");
    if (key === state.k) span.classList.add("here");
    span.addEventListener("click", () => { go({ k: key }); reveal(); });
    spans.push(span, " ");
  }
  ui.text.replaceChildren(...(first ? ["… "] : []), ...spans, ...(last < keys ? ["…"] : []));
}

// Drawing

const plot = () => {
  const box = ui.canvas.getBoundingClientRect();
  const named = current().keys.tokens || current().queries.tokens;
  const left = named && box.width > 420 ? MARGIN.left : 52, top = named && box.height > 300 ? MARGIN.top : 34;
  return { left, top, width: Math.max(box.width - left - MARGIN.right, 40), height: Math.max(box.height - top - MARGIN.bottom, 40), whole: box };
};
const panes = () => {
  const area = plot();
  if (!state.split) return [{ ...area, mode: state.mode }];
  const width = (area.width - 10) / 2, two = current().other ? WEIGHTS : MASK;
  return [{ ...area, width, mode: two }, { ...area, left: area.left + width + 10, width, mode: MEANT }];
};

function fit() {
  const [, , queries, keys] = current().shape, { width, height } = panes()[0];
  const cell = Math.min(width / keys, height / queries, LARGEST * 0.75);
  state.view = { q: 0, k: 0, cell };
  draw();
}

function bounded(view) {
  const [, , queries, keys] = current().shape, { width, height } = panes()[0];
  const least = Math.min(width / keys, height / queries, LARGEST * 0.75);
  const cell = clamp(view.cell, least, LARGEST);
  return { cell, q: clamp(view.q, 0, Math.max(0, queries - height / cell)), k: clamp(view.k, 0, Math.max(0, keys - width / cell)) };
}

function zoomBy(factor, x, y) {
  const { left, top, width, height } = panes()[0], { q, k, cell } = state.view;
  const inside = { x: x === undefined ? width / 2 : x - left, y: y === undefined ? height / 2 : y - top };
  const at = { q: q + inside.y / cell, k: k + inside.x / cell };
  const next = bounded({ q, k, cell: cell * factor }).cell;
  state.view = bounded({ q: at.q - inside.y / next, k: at.k - inside.x / next, cell: next });
  draw();
}

/** Bring the cell into sight. */
function reveal() {
  const { width, height } = panes()[0], view = state.view;
  if (!view) return;
  const tall = height / view.cell, wide = width / view.cell;
  const q = state.q < view.q ? state.q : state.q + 1 > view.q + tall ? state.q + 1 - tall : view.q;
  const k = state.k < view.k ? state.k : state.k + 1 > view.k + wide ? state.k + 1 - wide : view.k;
  state.view = bounded({ ...view, q, k });
  draw();
}

let drawing = 0;
async function draw() {
  if (!maps.length) return;
  const turn = ++drawing;
  if (!state.view) {
    const [, , queries, keys] = current().shape, { width, height } = panes()[0];
    state.view = { q: 0, k: 0, cell: Math.min(width / keys, height / queries, LARGEST * 0.75) };
  }
  const shown = panes();
  const grids = await Promise.all(shown.map(({ mode }) => gridOf(state.map, state.sample, state.head, mode)));
  if (turn !== drawing) return;
  state.shown = { shown, grids };
  requestAnimationFrame(() => { if (turn === drawing) paintNow(); });
}

/** Draw what is at hand, without waiting. */
function paintNow() {
  if (!state.shown) return;
  const { shown, grids } = state.shown, context = sized();
  context.fillStyle = themed("--paper");
  context.fillRect(0, 0, ui.canvas.width, ui.canvas.height);
  shown.forEach((pane, at) => drawPane(context, pane, grids[at], at === 0, at === shown.length - 1));
  legend(shown[0].mode, grids[0]);
  document.body.dataset.painted = "yes";
}

function sized() {
  const box = ui.canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1;
  const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
  if (ui.canvas.width !== width || ui.canvas.height !== height) Object.assign(ui.canvas, { width, height });
  const context = ui.canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

function drawPane(context, pane, grid, first, last) {
  const view = state.view, map = current(), [, , queries, keys] = map.shape;
  const area = { ...pane, across: Math.min(pane.width, (keys - view.k) * view.cell), down: Math.min(pane.height, (queries - view.q) * view.cell) };
  drawCells(context, area, grid, palette(pane.mode, grid.plane));
  context.save();
  context.beginPath();
  context.rect(area.left, area.top, area.across, area.down);
  context.clip();
  drawGrid(context, area);
  if (grid.plane && view.cell >= NUMBERED) drawNumbers(context, area, grid);
  drawFindings(context, area);
  drawCursor(context, area);
  context.restore();
  drawAxes(context, area, first);
  drawBars(context, area, grid, last);
  drawMinimap(context, area, grid, pane.mode);
  context.strokeStyle = themed("--line");
  context.strokeRect(area.left - 0.5, area.top - 0.5, area.across + 1, area.down + 1);
}

function drawCells(context, area, whole, colours) {
  const [, , queries, keys] = current().shape, view = state.view, ratio = devicePixelRatio || 1;
  const finest = 1 / (view.cell * ratio * (keys / whole.wide));
  const grid = reduced(whole, finest >= 2 ? 2 ** Math.floor(Math.log2(finest)) : 1);
  const width = Math.max(1, Math.round(area.across * ratio)), height = Math.max(1, Math.round(area.down * ratio));
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  const place = (at, start, cells, size) => {
    const cell = Math.min(cells - 1, Math.floor(start + (at + 0.5) / (view.cell * ratio)));
    return whole === grid ? pixelOf(cell, cells, size) : Math.min(size - 1, Math.floor((cell * size) / cells));
  };
  const columns = Int32Array.from({ length: width }, (_, x) => place(x, view.k, keys, grid.wide));
  for (let y = 0, at = 0; y < height; y++) {
    const line = place(y, view.q, queries, grid.tall) * grid.wide;
    for (let x = 0; x < width; x++, at++) pixels[at] = colours[grid.codes[line + columns[x]]];
  }
  context.putImageData(image, Math.round(area.left * ratio), Math.round(area.top * ratio));
}

const visible = (start, length, cells) => [Math.max(0, Math.floor(start)), Math.min(cells, Math.ceil(start + length / state.view.cell))];

function drawGrid(context, area) {
  const { q, k, cell } = state.view, [, , queries, keys] = current().shape;
  if (cell < 7) return;
  context.strokeStyle = themed("--grid");
  context.lineWidth = 1;
  context.beginPath();
  const [r0, r1] = visible(q, area.height, queries), [c0, c1] = visible(k, area.width, keys);
  for (let row = r0; row <= r1; row++) { context.moveTo(area.left, area.top + (row - q) * cell); context.lineTo(area.left + area.across, area.top + (row - q) * cell); }
  for (let column = c0; column <= c1; column++) { context.moveTo(area.left + (column - k) * cell, area.top); context.lineTo(area.left + (column - k) * cell, area.top + area.down); }
  context.stroke();
}

function drawNumbers(context, area, grid) {
  const { q, k, cell } = state.view, [, , queries, keys] = current().shape, { plane } = grid;
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  const [r0, r1] = visible(q, area.height, queries), [c0, c1] = visible(k, area.width, keys);
  for (let row = r0; row < r1; row++) {
    for (let column = c0; column < c1; column++) {
      const level = plane.levels[pixelOf(row, queries, plane.tall) * plane.wide + pixelOf(column, keys, plane.wide)];
      const value = valueOf(plane, level), share = value / (current().high || 1);
      context.fillStyle = share > 0.05 ? themed("--on-strong") : themed("--ink");
      context.fillText(level === NOT_FINITE ? "NaN" : number(value), area.left + (column + 0.5 - k) * cell, area.top + (row + 0.5 - q) * cell);
    }
  }
}

function drawFindings(context, area) {
  const { q, k, cell } = state.view;
  const chosen = page.findings[state.finding];
  for (const [q0, q1, k0, k1, finding] of flagged(state.map, state.sample, typeof state.head === "number" ? state.head : null)) {
    const left = area.left + (k0 - k) * cell, top = area.top + (q0 - q) * cell;
    const width = Math.max((k1 - k0) * cell, 5), height = Math.max((q1 - q0) * cell, 5);
    context.lineWidth = finding === chosen ? 3 : 1.5;
    context.strokeStyle = themed("--finding");
    context.strokeRect(left + 1, top + 1, width - 2, height - 2);
  }
}

function drawCursor(context, area) {
  const { q, k, cell } = state.view, size = Math.max(cell, 5);
  const left = area.left + (state.k - k) * cell, top = area.top + (state.q - q) * cell;
  context.fillStyle = themed("--cross");
  context.fillRect(area.left, top, area.across, Math.max(cell, 1));
  context.fillRect(left, area.top, Math.max(cell, 1), area.down);
  context.lineWidth = 3;
  context.strokeStyle = themed("--paper");
  context.strokeRect(left, top, size, size);
  context.lineWidth = 1.5;
  context.strokeStyle = themed("--ink");
  context.strokeRect(left, top, size, size);
}

/** Names or numbers along both axes, which stay while the map moves, and rulers of what tokens are. */
function drawAxes(context, area, first) {
  const map = current(), { q, k, cell } = state.view, [, , queries, keys] = map.shape;
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  const away = MARGIN.ruler + 6;
  const label = (text, strong) => { context.fillStyle = themed(strong ? "--ink" : "--dim"); return text; };
  const one = (cells, start, length, side, vertical) => {
    const [from, to] = visible(start, length, cells), named = cell >= NAMED;
    const roomy = vertical ? area.left > 60 : area.top > 40, slanted = named && roomy && side.tokens;
    const step = slanted ? 1 : niceStep(34 / cell);
    for (let at = Math.ceil(from / step) * step; at < to; at += step) {
      const middle = (at + 0.5 - start) * cell, chosen = at === (vertical ? state.q : state.k);
      if (middle < 0 || middle > length) continue;
      const text = slanted ? short(tokenOf(side, at) ?? String(at), vertical ? 12 : 10) : String(at);
      context.save();
      if (vertical) {
        context.textAlign = "right";
        context.fillText(label(text, chosen), area.left - away, area.top + middle);
      } else {
        context.translate(area.left + middle, area.top - away);
        if (slanted) context.rotate(-Math.PI / 3);
        context.textAlign = slanted ? "left" : "center";
        context.fillText(label(text, chosen), 0, slanted ? 0 : -4);
      }
      context.restore();
    }
  };
  one(keys, k, area.across, map.keys, false);
  if (first) one(queries, q, area.down, map.queries, true);
  ruler(context, map.keys, keys, map.past, (start, stop) => [area.left + clamp((start - k) * cell, 0, area.across), area.top - MARGIN.ruler - 2, area.left + clamp((stop - k) * cell, 0, area.across), area.top - 2]);
  if (first) ruler(context, map.queries, queries, 0, (start, stop) => [area.left - MARGIN.ruler - 2, area.top + clamp((start - q) * cell, 0, area.down), area.left - 2, area.top + clamp((stop - q) * cell, 0, area.down)]);
}

const niceStep = (least) => { const power = 10 ** Math.floor(Math.log10(Math.max(least, 1))); return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= least) || 1; };

function ruler(context, side, cells, past, box) {
  const fill = (name, start, stop) => {
    const [x0, y0, x1, y1] = box(start, stop);
    context.fillStyle = themed(name);
    context.fillRect(x0, y0, x1 - x0, y1 - y0);
  };
  const of = (rows) => (rows ? rows[Math.min(state.sample, rows.length - 1)] : []);
  of(side.documents).forEach(([start, stop, text]) => { if (text >= 0) fill(text % 2 ? "--text-odd" : "--text-even", start, stop); });
  of(side.real).forEach(([start, stop, real]) => { if (!real) fill("--padding", start, stop); });
  if (past) fill("--past", 0, Math.min(past, cells));
}

/** How much each visible query gives and each visible key gets, as bars beside the map. */
function drawBars(context, area, grid, last) {
  const sums = sumsOf(grid), { q, k, cell } = state.view, [, , queries, keys] = current().shape;
  context.fillStyle = themed("--bar");
  for (let y = 0; last && y < area.down; y++) {
    const row = pixelOf(Math.min(queries - 1, Math.floor(q + y / cell)), queries, grid.tall);
    context.fillRect(area.left + area.across + 4, area.top + y, (sums.rows[row] / sums.row) * (MARGIN.right - 10), 1);
  }
  for (let x = 0; x < area.across; x++) {
    const column = pixelOf(Math.min(keys - 1, Math.floor(k + x / cell)), keys, grid.wide);
    context.fillRect(area.left + x, area.top + area.down + 4, 1, (sums.columns[column] / sums.column) * (MARGIN.bottom - 10));
  }
}

function sumsOf(grid) {
  if (grid.sums) return grid.sums;
  const { tall, wide, plane } = grid, rows = new Float32Array(tall), columns = new Float32Array(wide);
  const cells = plane ? plane.levels : grid.codes;
  const values = Float32Array.from({ length: 256 }, (_, code) => (plane ? valueOf(plane, code) || 0 : grid.attend.includes(code) ? 1 : 0));
  for (let row = 0, at = 0; row < tall; row++) {
    for (let column = 0; column < wide; column++, at++) { rows[row] += values[cells[at]]; columns[column] += values[cells[at]]; }
  }
  const most = (all) => all.reduce((high, value) => Math.max(high, value), 0) || 1;
  return (grid.sums = { rows, columns, row: most(rows), column: most(columns) });
}

function drawMinimap(context, area, grid, mode) {
  const { q, k, cell } = state.view, [, , queries, keys] = current().shape;
  if (area.height >= queries * cell - 1 && area.width >= keys * cell - 1) return;
  const most = 110, scale = most / Math.max(queries, keys), width = Math.max(keys * scale, 8), height = Math.max(queries * scale, 8);
  const left = area.left + area.width - width - 8, top = area.top + area.height - height - 8;
  const colours = palette(mode, grid.plane), small = reduced(grid, 2 ** Math.max(0, Math.floor(Math.log2(Math.max(grid.tall, grid.wide) / most))));
  const image = new ImageData(small.wide, small.tall), pixels = new Uint32Array(image.data.buffer);
  small.codes.forEach((code, at) => { pixels[at] = colours[code]; });
  const picture = new OffscreenCanvas(small.wide, small.tall);
  picture.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.fillStyle = themed("--paper");
  context.fillRect(left - 3, top - 3, width + 6, height + 6);
  context.drawImage(picture, left, top, width, height);
  context.strokeStyle = themed("--ink");
  context.lineWidth = 1;
  context.strokeRect(left - 3, top - 3, width + 6, height + 6);
  context.strokeStyle = themed("--finding");
  context.strokeRect(left + k * scale, top + q * scale, Math.max(Math.min(area.width / cell, keys) * scale, 3), Math.max(Math.min(area.height / cell, queries) * scale, 3));
}

function legend(mode, grid) {
  const chip = (name, text) => {
    const made = element("i");
    made.style.background = themed(`--${name}`);
    return element("span", {}, made, text);
  };
  const map = current(), parts = [];
  if (grid.missing) parts.push(element("span", { textContent: `This head's weights had no room on the page; ${grid.missing} shown.` }));
  else if (grid.plane) {
    parts.push(chip("strong", `large (log scale, to ${number(Math.max(map.high, grid.plane.high))})`), chip("weak", "small"), chip("zero", "exactly 0"));
    if (mode === WEIGHTS && (map.meant || map.mask)) parts.push(chip("ignored", "0 and forbidden"));
  } else if (mode === REASONS) {
    const there = new Set(map.reasons.map((each) => each.kind));
    parts.push(chip("attends", "attends"), ...KINDS.filter((kind) => there.has(kind)).map((kind) => chip(kind, wordOf(kind))));
  } else if (mode === APART) {
    parts.push(chip("both", "both"), chip("finding", `only ${map.words[0]}`), chip("lacking", `only ${map.words[1]}`), chip("ignored", "neither"));
  } else parts.push(chip("attends", map.strip ? map.strip.yes : "attends"), chip("ignored", map.strip ? map.strip.no : "ignored"));
  if (grid.tall < map.shape[2] || grid.wide < map.shape[3]) parts.push(element("span", { textContent: `each pixel is ${grid.plane ? "the largest of its" : "several"} cells` }));
  if (mode !== APART && page.findings.some((finding) => isOf(finding, map))) parts.push(chip("finding", "finding"));
  if (map.past) parts.push(chip("past", "past keys"));
  ui.legend.replaceChildren(...parts);
}
