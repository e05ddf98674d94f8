// What a mode shows: a code a cell, the larger the more it matters, and a colour for each code.

const pixelOf = (cell, cells, pixels) => Math.floor(((cell + 1) * pixels - 1) / cells);
const firstHead = () => (typeof state.head === "number" ? state.head : 0);

function gridOf(at, sample, head, mode) {
  return once(`grid ${at} ${sample} ${head} ${mode}`, () => makeGrid(at, sample, head, mode));
}

async function makeGrid(at, sample, head, mode) {
  const map = maps[at], read = await masksOf(at), one = typeof head === "number" ? head : 0;
  if (mode === WEIGHTS) return weightsGrid(at, sample, head, read);
  if (mode === MEANT && map.other) return weightsGrid(at, sample, head, read, true);
  if (mode === APART && map.other) return apartGrid(at, sample, head, read);
  const of = (mask) => (query) => (mask ? runsIn(mask, sample, one, query) : []);
  if (mode === REASONS) {
    const forbidden = read.reasons.map((each) => [2 + KINDS.indexOf(each.kind), of(each.forbids)]);
    return painted(map, [1], [...forbidden, [1, of(read.meant || read.mask)]]);
  }
  const meant = of(read.meant);
  if (mode === MEANT) return painted(map, [1], [[1, meant]]);
  const has = read.mask ? of(read.mask) : await weighed(at, sample, one), layers = [[1, has]];
  const lacking = (query) => minus(meant(query), has(query)), extra = (query) => minus(has(query), meant(query));
  if (read.meant && mode === APART) layers.push([2, lacking], [3, extra]);
  if (read.meant && mode === MASK) {
    for (const [q0, q1, k0, k1] of flagged(at, sample, one)) {
      const inside = (runs) => (query) => (q0 <= query && query < q1 ? within(runs(query), k0, k1) : []);
      layers.push([3, inside(lacking)], [2, inside(extra)]);
    }
  }
  return painted(map, mode === APART ? [1, 3] : [1, 2], layers);
}

/** Codes of runs, layer over layer [code, runs of a query]; of a long map a pixel is several cells. */
function painted(map, attend, layers) {
  const [, , queries, keys] = map.shape, tall = Math.min(queries, SIDE), wide = Math.min(keys, SIDE), codes = new Uint8Array(tall * wide);
  for (const [code, runs] of layers) {
    for (let query = 0; query < queries; query++) {
      const line = pixelOf(query, queries, tall) * wide;
      for (const [start, stop] of runs(query)) codes.fill(code, line + pixelOf(start, keys, wide), line + pixelOf(stop - 1, keys, wide) + 1);
    }
  }
  return { tall, wide, codes, attend };
}

const within = (runs, low, high) => runs.map(([start, stop]) => [Math.max(start, low), Math.min(stop, high)]).filter(([start, stop]) => start < stop);

/** What of some runs is in none of others. */
function minus(these, those) {
  return those.reduce((rest, [low, high]) => rest.flatMap(([start, stop]) => [...within([[start, stop]], 0, low), ...within([[start, stop]], high, stop)]), these);
}

/** The runs of cells that weigh more than 0, where nobody saved a mask. */
async function weighed(at, sample, head) {
  const [, , queries, keys] = maps[at].shape, plane = await planeOf(at, sample, head);
  return (query) => {
    const runs = [], line = plane ? pixelOf(query, queries, plane.tall) * plane.wide : 0;
    for (let key = 0; plane && key < keys; key++) {
      if (!plane.levels[line + pixelOf(key, keys, plane.wide)]) continue;
      if (runs.length && runs.at(-1)[1] === key) runs.at(-1)[1]++;
      else runs.push([key, key + 1]);
    }
    return runs;
  };
}

/** Codes of weights: 0 forbidden and 0, 1 allowed and 0, to 127 by size, from 128 on flagged, 255 NaN. */
async function weightsGrid(at, sample, head, read, other = false) {
  const [, , queries, keys] = maps[at].shape, plane = await planeOf(at, sample, head, other);
  if (!plane) return missing(at, sample, head, read);
  const { tall, wide, levels } = plane, one = typeof head === "number" ? head : 0;
  const allowed = await allowedPixels(read.meant || read.mask, sample, one, queries, keys, tall, wide);
  const codes = new Uint8Array(tall * wide);
  for (let at = 0; at < codes.length; at++) {
    const level = levels[at];
    codes[at] = level === NOT_FINITE ? NOT_FINITE : level === 0 ? allowed[at] : Math.max(2, level >> 1);
  }
  for (const [q0, q1, k0, k1] of other ? [] : flagged(at, sample, one)) {
    const low = pixelOf(k0, keys, wide), high = pixelOf(k1 - 1, keys, wide);
    for (let row = pixelOf(q0, queries, tall); row <= pixelOf(q1 - 1, queries, tall); row++) {
      for (let cell = row * wide + low; cell <= row * wide + high; cell++) {
        if (!allowed[cell] && codes[cell] > 1 && codes[cell] < 128) codes[cell] += 128;
      }
    }
  }
  return { tall, wide, codes, plane };
}

/** What stands for weights that are not on the page: whom the mask lets attend, as far as it is known. */
async function missing(at, sample, head, read) {
  const [, , queries, keys] = maps[at].shape, tall = Math.min(queries, 512), wide = Math.min(keys, 512), mask = read.mask || read.meant;
  const codes = mask ? await allowedPixels(mask, sample, typeof head === "number" ? head : 0, queries, keys, tall, wide) : new Uint8Array(tall * wide);
  return { tall, wide, codes, attend: [1], missing: mask ? "its mask alone is" : "nothing of it is" };
}

/** Which pixels hold an allowed cell; all where no mask is known. */
async function allowedPixels(mask, sample, head, queries, keys, tall, wide) {
  const pixels = new Uint8Array(tall * wide);
  if (!mask) return pixels.fill(1);
  for (let query = 0; query < queries; query++) {
    const line = pixelOf(query, queries, tall) * wide, row = rowOf(mask, sample, head, query);
    for (let run = mask.pointer[row]; run < mask.pointer[row + 1]; run++) {
      pixels.fill(1, line + pixelOf(mask.starts[run], keys, wide), line + pixelOf(mask.stops[run] - 1, keys, wide) + 1);
    }
  }
  return pixels;
}

/** How far two weights are apart, as levels of the larger scale. */
async function apartGrid(at, sample, head, read) {
  const [a, b] = await Promise.all([planeOf(at, sample, head), planeOf(at, sample, head, true)]);
  if (!a || !b) return missing(at, sample, head, read);
  const high = Math.max(a.high, b.high) || 1;
  const [mine, theirs] = [a, b].map((plane) => Float64Array.from({ length: 256 }, (_, level) => valueOf(plane, level)));
  const codes = Uint8Array.from(a.levels, (level, cell) => {
    const apart = Math.abs(mine[level] - theirs[b.levels[cell]]) / high;
    return apart !== apart ? NOT_FINITE : apart < 1e-4 ? 1 : clamp(Math.round(2 + 125 * (1 + Math.log10(apart) / 4)), 2, 127);
  });
  return { tall: a.tall, wide: a.wide, codes, plane: { low: high * 1e-4, high, tall: a.tall, wide: a.wide, levels: codes } };
}

const rgb = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
const word = ([red, green, blue]) => (255 << 24) | (blue << 16) | (green << 8) | red;
const between = (stops, share) => {
  const at = clamp(share, 0, 1) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((part, index) => Math.round(part + (stops[low + 1][index] - part) * (at - low)));
};
const colour = (name) => rgb(themed(`--${name}`));

/** 256 colours of a mode; weights lie on one scale over all heads of a map. */
function palette(mode, plane) {
  const colours = new Uint32Array(256).fill(word(colour("ignored")));
  const set = (code, name) => { colours[code] = word(colour(name)); };
  if (plane) {
    const high = Math.max(current().high, plane.high) || 1;
    const scales = [["weak", "attends", "strong"], ["flag-weak", "finding", "flag-strong"]].map((names) => names.map(colour));
    for (let code = 2; code < 128; code++) {
      const share = 1 + Math.log10(Math.max(valueOf(plane, Math.min(code * 2, LEVELS)), 1e-30) / high) / 4;
      colours[code] = word(between(scales[0], share));
      colours[code + 128] = word(between(scales[1], share));
    }
    set(1, "zero");
    set(NOT_FINITE, "finding");
  } else if (mode === REASONS) {
    set(1, "attends");
    KINDS.forEach((kind, index) => set(2 + index, kind));
  } else if (mode === APART) {
    ["ignored", "both", "lacking", "finding"].forEach((name, code) => set(code, name));
  } else {
    ["ignored", "attends", "finding", "finding"].forEach((name, code) => set(code, name));
  }
  return colours;
}

/** A grid with the largest code of each square of cells, so that one cell stays visible from afar. */
function reduced(grid, factor) {
  if (factor <= 1) return grid;
  grid.smaller ??= new Map();
  if (!grid.smaller.has(factor)) {
    const tall = Math.ceil(grid.tall / factor), wide = Math.ceil(grid.wide / factor), codes = new Uint8Array(tall * wide);
    for (let row = 0, cell = 0; row < grid.tall; row++) {
      const line = Math.floor(row / factor) * wide;
      for (let column = 0; column < grid.wide; column++, cell++) {
        const at = line + Math.floor(column / factor);
        if (grid.codes[cell] > codes[at]) codes[at] = grid.codes[cell];
      }
    }
    grid.smaller.set(factor, { tall, wide, codes });
  }
  return grid.smaller.get(factor);
}

// Findings and where they are

const isOf = (finding, map) =>
  (!finding.file || !map.file || finding.file === map.file) &&
  finding.tensors.some((name) => name === map.name || name.endsWith(`:${map.name}`));
const placesOf = (finding) => (finding.places && finding.places.length ? finding.places : [finding.where]);
const covers = (place, sample, head) =>
  (!place.batch || place.batch.includes(sample)) && (!place.heads || head === null || place.heads.includes(head));

/** Cells [q0, q1, k0, k1] of a finding, or of all, in a map, a sample and a head. */
function flagged(at, sample, head, only = page.findings) {
  const map = maps[at], [, , queries, keys] = map.shape, found = [];
  for (const finding of only) {
    if (!isOf(finding, map)) continue;
    for (const place of placesOf(finding)) {
      if (!covers(place, sample, head)) continue;
      for (const [q0, q1] of place.queries || [[0, queries]]) {
        for (const [k0, k1] of place.keys || [[0, keys]]) found.push([Math.min(q0, queries), Math.min(q1, queries), Math.min(k0, keys), Math.min(k1, keys), finding]);
      }
    }
  }
  return found.filter(([q0, q1, k0, k1]) => q0 < q1 && k0 < k1);
}

const headFlagged = (at, head) =>
  page.findings.some((finding) => isOf(finding, maps[at]) && placesOf(finding).some((place) => !place.heads || place.heads.includes(head)));
