"""Mask: for each query, the keys it may attend to, stored as runs [start, stop).

Causal is one run a row, a sliding window one, packed documents one; a padding mask is one row for a whole
sample. Everything here works on the runs, so its cost grows with their number and never with queries x keys.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskcli.arrays import Array, Shape, dense_runs
from maskcli.displayed import Pictured
from maskcli.errors import MaskcliError
from maskcli.masks.runs import (
    PIECE,
    Join,
    Rows,
    check_count,
    complement,
    difference,
    either,
    intersection,
    joined,
    of_intervals,
    pointer_of,
    union,
)

Stored = tuple[int, int, int]

# The longest key axis that 32-bit runs can address with room for a stop behind the last key.
MAX_KEYS = 2**31 - 2
# Cells of a dense chunk that are looked at in one go: large enough to amortise numpy calls, small enough for
# the cache.
CHUNK_CELLS = 2**22


@dataclass(frozen=True, eq=False)
class Mask(Pictured):
    """A boolean mask [B, H, Q, K], True = attend, as runs of keys.

    `stored` is (b, h, q): the size of each axis that is held, 1 where the axis broadcasts. `pointer` int64
    [b*h*q + 1] says which runs belong to a stored row; `starts` and `stops` int32 are those runs: sorted,
    disjoint, not touching, not empty.
    """

    shape: Shape
    stored: Stored
    pointer: Array
    starts: Array
    stops: Array

    # Making masks

    @classmethod
    def from_intervals(cls, shape: Shape, starts: Array | int, stops: Array | int) -> Mask:
        """One interval a row, clipped to 0..K, maybe empty: `starts` and `stops` broadcast to [b, h, q]."""
        _check_shape(shape)
        ends = (np.clip(np.atleast_3d(each), 0, shape[3]).astype(np.int32) for each in (starts, stops))
        first, last = np.broadcast_arrays(*ends)
        check_count(first.size, "this mask")
        stored = (first.shape[0], first.shape[1], first.shape[2])
        return cls(shape, stored, *of_intervals(first.ravel(), last.ravel()))

    @classmethod
    def from_runs(cls, shape: Shape, stored: Stored, counts: Array, starts: Array, stops: Array) -> Mask:
        """Runs in row order, `counts` [rows] of them in each stored row; they must be sorted and apart."""
        _check_shape(shape)
        check_count(starts.size, "this mask")
        return cls(shape, stored, pointer_of(counts), starts.astype(np.int32), stops.astype(np.int32))

    @classmethod
    def from_dense(cls, dense: Array) -> Mask:
        """The mask of a boolean array [B, H, Q, K] (or fewer axes, filled with 1 in front), True = attend."""
        full = dense.reshape((1,) * (4 - dense.ndim) + dense.shape)
        batch, heads, queries, keys = full.shape
        rows = full.reshape(batch * heads * queries, keys)
        step = max(1, CHUNK_CELLS // max(keys, 1))
        chunks = (rows[at : at + step] for at in range(0, len(rows), step))
        return cls.from_dense_rows((batch, heads, queries, keys), chunks)

    @classmethod
    def from_dense_rows(cls, shape: Shape, chunks: Iterable[Array]) -> Mask:
        """The mask whose boolean rows [n, K], in order over B, H and Q, come in `chunks`."""
        _check_shape(shape)
        none = np.zeros(0, np.int32)
        counts, starts, stops = [none], [none], [none]
        total = 0
        for chunk in chunks:
            count, start, stop = dense_runs(chunk)
            total += start.size
            check_count(total, "this dense mask")
            counts.append(count)
            starts.append(start)
            stops.append(stop)
        pointer = pointer_of(np.concatenate(counts))
        return cls(shape, shape[:3], pointer, np.concatenate(starts), np.concatenate(stops))

    @classmethod
    def full(cls, shape: Shape) -> Mask:
        """Every query attends to every key."""
        return cls.from_intervals(shape, 0, shape[3])

    # The algebra

    def __and__(self, other: Mask) -> Mask:
        return self._joined(other, intersection)

    def __or__(self, other: Mask) -> Mask:
        return self._joined(other, union)

    def __sub__(self, other: Mask) -> Mask:
        return self._joined(other, difference)

    def __xor__(self, other: Mask) -> Mask:
        return self._joined(other, either)

    def __invert__(self) -> Mask:
        rows, keys = self._rows(), self.shape[3]
        pieces = (complement(rows.part(low, high), keys) for low, high in _pieces(self.rows))
        return Mask(self.shape, self.stored, *joined(pieces, self.rows))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        if self.shape != other.shape:
            return False
        a, b = (each.expand(self._common(other)) for each in (self, other))
        runs = ((a.pointer, b.pointer), (a.starts, b.starts), (a.stops, b.stops))
        return all(np.array_equal(mine, theirs) for mine, theirs in runs)

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The mask as bool [B, H, Q, K], True = attend, for what takes arrays."""
        from maskcli.masks.views import whole

        return whole(self).astype(dtype or bool, copy=False)

    # Rows

    @property
    def rows(self) -> int:
        """Number of stored rows, b*h*q."""
        return self.pointer.size - 1

    def row_of_run(self) -> Array:
        """The stored row that each run belongs to, int64 [runs]."""
        return self._rows().row_of_run()

    def intervals(self) -> tuple[Array, Array] | None:
        """Starts and stops [b, h, q] when no row has more than one run (0, 0 for none), else None."""
        found = self._rows().intervals()
        return (found[0].reshape(self.stored), found[1].reshape(self.stored)) if found else None

    def take(self, shape: Shape, index: Array) -> Mask:
        """The mask of `shape` whose stored row at [b, h, q] is this mask's stored row `index[b, h, q]`."""
        stored = (index.shape[0], index.shape[1], index.shape[2])
        rows, flat = self._rows(), index.ravel()
        pieces = (rows.take(flat[low:high]) for low, high in _pieces(flat.size))
        return Mask(shape, stored, *joined(pieces, flat.size))

    def expand(self, stored: Stored) -> Mask:
        """The same mask with its stored axes written out to `stored`."""
        if stored == self.stored:
            return self
        return self.take(self.shape, np.broadcast_to(self._row_index(), stored))

    def broadcast_to(self, shape: Shape) -> Mask | None:
        """The same rows as a mask of `shape`; None when an axis is neither 1 nor the asked-for size."""
        fitting = all(held in (1, asked) for held, asked in zip(self.stored, shape[:3], strict=True))
        if not fitting or shape[3] != self.shape[3]:
            return None
        return Mask(shape, self.stored, self.pointer, self.starts, self.stops)

    def compact(self) -> Mask:
        """The same mask with every axis along which it does not vary stored once."""
        mask = self
        for axis in range(3):
            index = mask._row_index()
            first = index.take([0], axis=axis)
            if mask.stored[axis] > 1:
                single = mask.take(mask.shape, first)
                if single == mask:
                    mask = single
        return mask

    def select(
        self,
        batch: slice = slice(None),
        head: slice = slice(None),
        rows: slice = slice(None),
        keys: slice = slice(None),
    ) -> Mask:
        """The part of the mask at these slices (of step 1), as a mask of its own."""
        cuts = (batch, head, rows)
        held = tuple(cut if n > 1 else slice(None) for cut, n in zip(cuts, self.stored, strict=True))
        b, h, q = (len(range(*cut.indices(n))) for cut, n in zip(cuts, self.shape[:3], strict=True))
        low, high, _ = keys.indices(self.shape[3])
        part = self.take((b, h, q, self.shape[3]), self._row_index()[held])
        starts, stops = np.maximum(part.starts, low), np.minimum(part.stops, high)
        kept = stops > starts
        pointer = pointer_of(kept)[part.pointer]
        shape = (b, h, q, max(high - low, 0))
        return Mask(shape, part.stored, pointer, starts[kept] - low, stops[kept] - low)

    def runs(self, batch: int = 0, head: int = 0) -> Iterator[list[list[int]]]:
        """For one batch item and head, the runs [[start, stop], ...] of every query in turn."""
        row = self._row_index()[min(batch, self.stored[0] - 1), min(head, self.stored[1] - 1)]
        first, last = int(row[0]), int(row[-1]) + 1
        # As Python's lists and numbers, rows take some hundred bytes each.
        step = 2**14
        for at in range(first, last, step):
            pointer = self.pointer[at : min(at + step, last) + 1].tolist()
            starts = self.starts[pointer[0] : pointer[-1]].tolist()
            stops = self.stops[pointer[0] : pointer[-1]].tolist()
            pairs = [[start, stop] for start, stop in zip(starts, stops, strict=True)]
            lists = [pairs[a - pointer[0] : b - pointer[0]] for a, b in itertools.pairwise(pointer)]
            yield from lists if self.stored[2] > 1 else itertools.repeat(lists[0], self.shape[2])

    # Numbers

    @property
    def keys_per_query(self) -> Array:
        """How many keys each stored row attends to, int64 [b, h, q]."""
        intervals = self.intervals()
        if intervals is not None:
            return np.subtract(intervals[1], intervals[0], dtype=np.int64)
        total = pointer_of(self.stops - self.starts)
        counts: Array = total[self.pointer[1:]] - total[self.pointer[:-1]]
        return counts.reshape(self.stored)

    @property
    def attended(self) -> int:
        """How many of the B*H*Q*K cells attend."""
        return int((self.stops - self.starts).sum(dtype=np.int64)) * self._copies()

    @property
    def cells(self) -> int:
        """B*H*Q*K."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def density(self) -> float:
        """The share of cells that attend; 0 for a mask without cells."""
        return self.attended / self.cells if self.cells else 0.0

    @property
    def empty_rows(self) -> int:
        """How many of the B*H*Q queries have no key at all."""
        return (self.rows - int(np.count_nonzero(self._held()))) * self._copies()

    @property
    def seen(self) -> Array:
        """The keys that any query attends to, bool [b, h, K]."""
        planes, keys = self.stored[0] * self.stored[1], self.shape[3]
        plane = self.row_of_run() // max(self.stored[2], 1) * (keys + 1)
        size = planes * (keys + 1)
        change = np.bincount(plane + self.starts, minlength=size)
        change -= np.bincount(plane + self.stops, minlength=size)
        covered: Array = np.cumsum(change.reshape(planes, keys + 1), axis=1)[:, :-1] > 0
        return covered.reshape(*self.stored[:2], keys)

    # Parts

    def row_range(self, low: int, high: int) -> Mask:
        """These of the stored rows, as a mask [1, 1, high - low, K]."""
        shape = (1, 1, high - low, self.shape[3])
        return Mask(shape, shape[:3], *self._rows().part(low, high))

    def plane(self, batch: int = 0, head: int = 0, rows: tuple[int, int] | None = None) -> Mask:
        """The rows of one batch item and head, as a mask [1, 1, n, K]; one when all queries share it."""
        b, h, q = self.stored
        low, high = rows if rows and q > 1 else (0, q)
        first = ((batch if b > 1 else 0) * h + (head if h > 1 else 0)) * q
        return self.row_range(first + low, first + high)

    def dense(
        self,
        batch: int = 0,
        head: int = 0,
        rows: tuple[int, int] | None = None,
        keys: tuple[int, int] | None = None,
    ) -> Array:
        """The boolean window [rows, keys] of one batch item and head; both ranges are (start, stop)."""
        (r0, r1), (k0, k1) = rows or (0, self.shape[2]), keys or (0, self.shape[3])
        part = self.plane(batch, head, (r0, r1))
        starts, stops = np.maximum(part.starts, k0), np.minimum(part.stops, k1)
        kept = stops > starts
        row = part.row_of_run()[kept]
        # Runs do not touch, so no start meets a stop and plain assignment marks every border.
        border = np.zeros((part.rows, k1 - k0 + 1), np.int8)
        border[row, starts[kept] - k0] = 1
        border[row, stops[kept] - k0] = -1
        window = np.cumsum(border[:, :-1], axis=1, dtype=np.int8).view(bool)
        return np.broadcast_to(window, (r1 - r0, k1 - k0))

    # Small helpers

    def _held(self) -> Array:
        """Which stored rows have any run, bool [rows]."""
        held: Array = self.pointer[1:] > self.pointer[:-1]
        return held

    def _row_index(self) -> Array:
        return np.arange(self.rows).reshape(self.stored)

    def _copies(self) -> int:
        b, h, q = self.stored
        return (self.shape[0] // max(b, 1)) * (self.shape[1] // max(h, 1)) * (self.shape[2] // max(q, 1))

    def _rows(self) -> Rows:
        return Rows(self.pointer, self.starts, self.stops)

    def _common(self, other: Mask) -> Stored:
        pairs = zip(self.stored, other.stored, strict=True)
        b, h, q = (theirs if mine == 1 else mine for mine, theirs in pairs)
        return b, h, q

    def _joined(self, other: Mask, join: Join) -> Mask:
        """Rows of both masks, joined a piece at a time."""
        self._same_shape(other)
        stored = self._common(other)
        rows = math.prod(stored)
        pieces = (
            join(self._part(stored, low, high), other._part(stored, low, high), self.shape[3])
            for low, high in _pieces(rows)
        )
        return Mask(self.shape, stored, *joined(pieces, rows))

    def _part(self, stored: Stored, low: int, high: int) -> Rows:
        """Rows `low` to `high` of the mask with its stored axes written out to `stored`."""
        if stored == self.stored or low == high:
            return self._rows().part(low, high)
        places = np.unravel_index(np.arange(low, high), stored)
        own = tuple(
            at if size > 1 else np.zeros_like(at) for at, size in zip(places, self.stored, strict=True)
        )
        return self._rows().take(np.ravel_multi_index(own, self.stored))

    def _same_shape(self, other: Mask) -> None:
        if self.shape != other.shape:
            raise MaskcliError(
                f"masks of shape {list(self.shape)} and {list(other.shape)} cannot be combined: "
                "both must have the same [B, H, Q, K]; pass lengths that agree"
            )


def _pieces(rows: int) -> Iterator[tuple[int, int]]:
    """Where pieces of so many rows begin and end; one that is empty where there are none."""
    for low in range(0, max(rows, 1), PIECE):
        yield low, min(low + PIECE, rows)


def _check_shape(shape: Shape) -> None:
    if shape[3] > MAX_KEYS:
        raise MaskcliError(
            f"{shape[3]:,} keys are more than maskcli can address ({MAX_KEYS:,}); ask for fewer keys"
        )
