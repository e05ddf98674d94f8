"""Views of a mask: tiles, pictures, and the spans of keys that some rows ignore, all from its runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, pixel_edges
from maskcli.errors import MaskcliError
from maskcli.masks.mask import Mask
from maskcli.masks.runs import pointer_of

# An array of so many cells takes 2 GiB.
MAX_CELLS = 2**31
# Past this many spans, one dense look is cheaper than a slice for each.
MAX_SPANS = 32
# Rows, or runs, of the whole mask that are looked at in one go: some MiB of temporary arrays.
CHUNK_ROWS = 2**18

# Keys start to stop, and who ignores them: None where every row does, else bool [rows, stop - start].
Ignored = tuple[int, int, Array | None]


class Blocks(NamedTuple):
    """How many tiles of the attention matrix are full, partial and empty, over all batch items and heads."""

    full: int
    partial: int
    empty: int

    @property
    def total(self) -> int:
        """All tiles."""
        return self.full + self.partial + self.empty


def blocks(mask: Mask, query_block: int = 128, key_block: int = 128) -> Blocks:
    """Tiles of query_block x key_block cells (smaller at the far edges) that are full, partial and empty.

    A tile is not empty when the union of its rows' runs touches it, and full when their intersection covers
    it.
    """
    batch, heads, queries, keys = mask.shape
    b, h, q = mask.stored
    across, down = -(-keys // key_block), -(-queries // query_block)
    touched = full = 0
    for union, gaps in _row_groups(mask, query_block):
        touched += _tiles(union, key_block)
        full += across * union.rows - _tiles(gaps, key_block)

    copies = (batch // b) * (heads // h)
    if q == 1:
        copies *= down
    total = batch * heads * across * down
    return Blocks(full * copies, (touched - full) * copies, total - touched * copies)


def whole(mask: Mask) -> Array:
    """The mask as an array, bool [B, H, Q, K]."""
    if mask.cells > MAX_CELLS:
        raise MaskcliError(
            f"a mask {list(mask.shape)} has {mask.cells:,} cells, and an array is made of at most "
            f"{MAX_CELLS:,}; take a part of it with select()"
        )
    batch, heads, _, _ = mask.shape
    planes = [[mask.dense(item, head) for head in range(heads)] for item in range(batch)]
    return np.array(planes, bool).reshape(mask.shape)


def rows_at(mask: Mask, batch: Array, head: Array, query: Array) -> Array:
    """The boolean rows of a mask at these places, int arrays that broadcast to [...]: bool [..., K]."""
    index = np.zeros(1, np.int64)
    for at, held in zip((batch, head, query), mask.stored, strict=True):
        index = index * held + (at if held > 1 else 0)
    rows = mask.take((1, 1, index.size, mask.shape[3]), index.reshape(1, 1, -1)).dense()
    shape = np.broadcast(batch, head, query).shape
    return np.broadcast_to(rows.reshape(*index.shape, -1), (*shape, mask.shape[3]))


def ignored(mask: Mask, rows: tuple[int, int], batch: int = 0, head: int = 0) -> list[Ignored]:
    """Spans of keys that some of these rows ignore: (start, stop, who).

    `who` is None where every row ignores the whole span, else a boolean array [rows, stop - start], True =
    ignored (one row only, when all rows are the same).
    """
    part = mask.plane(batch, head, rows)
    intervals = part.intervals()
    if intervals is not None:
        return _around(intervals[0].ravel(), intervals[1].ravel(), mask.shape[3])

    one = np.zeros(part.rows, np.int64)
    union, gaps = _unite(part, one, 1), _unite(~part, one, 1)
    by_all, by_some = ~union, gaps & union
    if by_all.starts.size + by_some.starts.size > MAX_SPANS:
        return [(0, mask.shape[3], ~part.dense())]
    spans: list[Ignored] = [(start, stop, None) for start, stop in _pairs(by_all)]
    return spans + [(start, stop, ~part.dense(keys=(start, stop))) for start, stop in _pairs(by_some)]


def picture(mask: Mask, tall: int, wide: int, batch: int = 0, head: int = 0) -> tuple[Array, Array]:
    """A picture of at most tall x wide pixels: the share attended float64, and the cells of each pixel int64.

    A share of exactly 1.0 is a full pixel and exactly 0.0 an empty one; anything else is mixed.
    """
    row_edges, key_edges = pixel_edges(mask.shape[2], tall), pixel_edges(mask.shape[3], wide)
    heights = np.diff(row_edges)
    cells = np.outer(heights, np.diff(key_edges))
    part = mask.plane(batch, head)
    if mask.stored[2] == 1:
        attended = _reduced(part, np.arange(2), key_edges) * heights[:, None]
    else:
        attended = _reduced(part, row_edges, key_edges)
    return attended / np.maximum(cells, 1), cells


def _reduced(part: Mask, row_edges: Array, key_edges: Array) -> Array:
    """Attended cells of each pixel of a plane, int64 [len(row_edges) - 1, len(key_edges) - 1]."""
    tall, wide = len(row_edges) - 1, len(key_edges) - 1
    counts = np.zeros(tall * (wide + 1), np.int64)
    covered = np.zeros_like(counts)
    for first in range(0, part.starts.size, CHUNK_ROWS):
        last = min(first + CHUNK_ROWS, part.starts.size)
        # Runs lie in the order of rows, so that each pixel's are found by their ends.
        ends = part.pointer[row_edges].clip(first, last)
        line = np.repeat(np.arange(tall), np.diff(ends))
        # A run adds the width of every pixel from its start's to its stop's, less what it lacks at both ends.
        for border, sign in ((part.starts[first:last], 1), (part.stops[first:last], -1)):
            pixel = np.searchsorted(key_edges, border, "right") - 1
            spot = line * (wide + 1) + pixel
            covered += sign * np.bincount(spot, minlength=counts.size)
            lack = np.bincount(spot, weights=border - key_edges[pixel], minlength=counts.size)
            counts -= sign * lack.astype(np.int64)

    whole = np.cumsum(covered.reshape(tall, wide + 1), axis=1)[:, :-1] * np.diff(key_edges)
    attended: Array = whole + counts.reshape(tall, wide + 1)[:, :-1]
    return attended


def _row_groups(mask: Mask, size: int) -> Iterator[tuple[Mask, Mask]]:
    """For pieces of the mask: the union of every `size` rows, and the union of their complements."""
    b, h, q = mask.stored
    size = size if q > 1 else 1
    groups = -(-q // size)
    piece = max(1, CHUNK_ROWS // size)
    for plane in range(b * h):
        for first in range(0, groups, piece):
            last = min(first + piece, groups)
            low, high = plane * q + first * size, plane * q + min(last * size, q)
            part = mask.row_range(low, high)
            group = np.arange(high - low) // size
            yield _unite(part, group, last - first), _unite(~part, group, last - first)


def _unite(mask: Mask, group: Array, groups: int) -> Mask:
    """One row for each group of rows (`group` [rows] rises): the union of their runs."""
    span = mask.shape[3] + 1
    base = group[mask.row_of_run()] * span
    starts, stops = mask.starts + base, mask.stops + base
    if starts.size and (np.diff(starts) < 0).any():
        order = np.argsort(starts, kind="stable")
        starts, stops = starts[order], stops[order]

    reach = np.maximum.accumulate(stops)
    # A run opens a new stretch when all before it end before it starts (touching runs stay together).
    opens = np.ones(starts.size, bool)
    opens[1:] = starts[1:] > reach[:-1]
    closes = np.roll(opens, -1)
    first, last = starts[opens], reach[closes]
    row = first // span
    shape = (1, 1, groups, mask.shape[3])
    pointer = pointer_of(np.bincount(row, minlength=groups))
    return Mask(shape, shape[:3], pointer, first - row * span, last - row * span)


def _around(starts: Array, stops: Array, keys: int) -> list[Ignored]:
    """`ignored` for rows of one interval each: before the first, behind the last, and where they differ."""
    low, high = int(starts.min()), int(stops.max())
    inner_low, inner_high = int(starts.max()), int(stops.min())
    outside = [(0, low), (high, keys)]
    between = [(low, inner_low), (inner_high, high)] if inner_low < inner_high else [(low, high)]
    spans: list[Ignored] = [(start, stop, None) for start, stop in outside if start < stop]
    for start, stop in between:
        if start < stop:
            key = np.arange(start, stop, dtype=np.int32)
            spans.append((start, stop, (key < starts[:, None]) | (key >= stops[:, None])))
    return spans


def _pairs(mask: Mask) -> list[tuple[int, int]]:
    return list(zip(mask.starts.tolist(), mask.stops.tolist(), strict=True))


def _tiles(mask: Mask, size: int) -> int:
    """How many (row, key tile) pairs the runs touch; two runs of a row in one tile count once."""
    if not mask.starts.size:
        return 0
    first, last = mask.starts // size, (mask.stops - 1) // size
    row = mask.row_of_run()
    shared = (row[1:] == row[:-1]) & (first[1:] == last[:-1])
    return int((last - first + 1).sum()) - int(shared.sum())
