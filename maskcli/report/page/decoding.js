// What the page holds, decoded: masks as runs, weights as levels.

const page = JSON.parse(document.getElementById("data").textContent);
const maps = page.maps;
const MODES = ["weights", "mask", "should be", "difference", "reasons"];
const WEIGHTS = 0, MASK = 1, MEANT = 2, APART = 3, REASONS = 4;
const KINDS = ["padding", "document", "future", "window", "other"];
const wordOf = (kind) => page.colours[kind][1];
const NOT_FINITE = 255, LEVELS = 254;
const MARGIN = { left: 104, top: 84, right: 44, bottom: 44, ruler: 7 };
const SIDE = 4096, NAMED = 11, NUMBERED = 36, LARGEST = 64, AROUND = 70;

const state = {
  map: 0, sample: 0, head: 0, mode: WEIGHTS, q: 0, k: 0, finding: -1,
  view: null, split: false, blinking: 0,
};

// Small helpers

const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const current = () => maps[state.map];
const number = (value) => (value === 0 ? "0" : Math.abs(value) >= 0.001 ? String(+value.toPrecision(2)) : value.toExponential(1));
const short = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Decoding

async function inflated(text) {
  const raw = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const kept = new Map();
/** What `make` gives for a key, made once; only the last two dozen are kept. */
function once(key, make) {
  if (!kept.has(key)) {
    if (kept.size > 24) kept.delete(kept.keys().next().value);
    kept.set(key, make());
  }
  return kept.get(key);
}

async function readMask(entry) {
  const parts = new Int32Array(await inflated(entry.data));
  for (let at = 1; at < parts.length; at++) parts[at] += parts[at - 1];
  const rows = parts.length - 2 * entry.runs;
  const pointer = new Int32Array(rows + 1);
  for (let row = 0; row < rows; row++) pointer[row + 1] = pointer[row] + parts[row];
  return { stored: entry.stored, pointer, starts: parts.subarray(rows, rows + entry.runs), stops: parts.subarray(rows + entry.runs) };
}

function rowOf(mask, sample, head, query) {
  const [b, h, q] = mask.stored;
  return (Math.min(sample, b - 1) * h + Math.min(head, h - 1)) * q + Math.min(query, q - 1);
}

function lets(mask, sample, head, query, key) {
  const row = rowOf(mask, sample, head, query);
  for (let run = mask.pointer[row]; run < mask.pointer[row + 1]; run++) {
    if (mask.starts[run] <= key && key < mask.stops[run]) return true;
  }
  return false;
}

const runsIn = (mask, sample, head, query) => {
  const row = rowOf(mask, sample, head, query), first = mask.pointer[row];
  return Array.from({ length: mask.pointer[row + 1] - first }, (_, at) => [mask.starts[first + at], mask.stops[first + at]]);
};

const readPlane = async (entry) => ({ ...entry, levels: new Uint8Array(await inflated(entry.data)) });
const valueOf = (plane, level) =>
  level === 0 ? 0 : level === NOT_FINITE ? NaN : plane.high === plane.low ? plane.high : plane.low * (plane.high / plane.low) ** ((level - 1) / (LEVELS - 1));

/** The masks of a map, read: mask, meant, and the cells of each reason. */
function masksOf(at) {
  const map = maps[at];
  map.read ??= (async () => ({
    mask: map.mask && (await readMask(map.mask)),
    meant: map.meant && (await readMask(map.meant)),
    reasons: await Promise.all(map.reasons.map(async (each) => ({ ...each, forbids: await readMask(each.forbids) }))),
  }))();
  return map.read;
}

/** The weights of a sample and head; "mean" and "max" are over all heads that the page has. */
function planeOf(at, sample, head, other = false) {
  return once(`plane ${at} ${sample} ${head} ${other}`, async () => {
    const planes = (other ? maps[at].other : maps[at].planes) || [];
    const mine = planes.filter((each) => each.batch === sample);
    if (typeof head === "number") {
      const found = mine.find((each) => each.head === head);
      return found ? readPlane(found.whole || found.view) : null;
    }
    const all = await Promise.all(mine.map((each) => readPlane(each.view)));
    return all.length ? pooled(all, head) : null;
  });
}

/** Mean or maximum of planes, as a plane on one scale. */
function pooled(planes, how) {
  const size = planes[0].levels.length;
  const sums = new Float32Array(size);
  for (const plane of planes) {
    const values = Float32Array.from({ length: 256 }, (_, level) => valueOf(plane, level));
    for (let at = 0; at < size; at++) {
      const value = values[plane.levels[at]];
      sums[at] = how === "max" ? Math.max(sums[at], value) : sums[at] + value / planes.length;
    }
  }
  const high = sums.reduce((most, value) => (value > most ? value : most), 0);
  const low = high * 1e-6;
  const levels = Uint8Array.from(sums, (value) =>
    value !== value ? NOT_FINITE : value > 0 ? 1 + Math.round((clamp(Math.log(value / low) / Math.log(1e6), 0, 1)) * (LEVELS - 1)) : 0);
  return { tall: planes[0].tall, wide: planes[0].wide, low, high, levels };
}
