"""Mask: for each query, the keys it may attend to, stored as runs [start, stop).

Causal is one run a row, a sliding window one, packed documents one; a padding mask is one row for a whole
sample. Everything here works on the runs, so its cost grows with their number and never with queries x keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskcli.arrays import Array, Shape, dense_runs
from maskcli.displayed import Pictured
from maskcli.errors import MaskcliError, TooManyRunsError

Stored = tuple[int, int, int]
Runs = tuple[tuple[int, int], ...]

# Starts and stops of this many runs take 256 MiB; a mask with more is not runs by nature.
MAX_RUNS = 2**25
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
        ends = (np.atleast_3d(starts), np.atleast_3d(stops))
        return _intervals(shape, *(np.minimum(np.maximum(each, 0), shape[3]) for each in ends))

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
        rows = full.reshape(-1, keys)
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
        self._same_shape(other)
        mine, theirs = self.intervals(), other.intervals()
        if mine is not None and theirs is not None:
            return _intervals(self.shape, np.maximum(mine[0], theirs[0]), np.minimum(mine[1], theirs[1]))
        stored = self._common(other)
        return _intersect(self.expand(stored), other.expand(stored))

    def __or__(self, other: Mask) -> Mask:
        return ~(~self & ~other)

    def __sub__(self, other: Mask) -> Mask:
        return self & ~other

    def __xor__(self, other: Mask) -> Mask:
        return (self - other) | (other - self)

    def __invert__(self) -> Mask:
        rows = self.rows
        check_count(self.starts.size + rows, "the complement of this mask")
        row = self.row_of_run()
        run = np.arange(self.starts.size)
        starts = np.zeros(run.size + rows, np.int32)
        stops = np.full(run.size + rows, self.shape[3], np.int32)
        starts[run + row + 1] = self.stops
        stops[run + row] = self.starts
        kept = stops > starts
        pointer = pointer_of(kept)[self.pointer + np.arange(rows + 1)]
        return Mask(self.shape, self.stored, pointer, starts[kept], stops[kept])

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
        return np.repeat(np.arange(self.rows), np.diff(self.pointer))

    def intervals(self) -> tuple[Array, Array] | None:
        """Starts and stops [b, h, q] when no row has more than one run (0, 0 for none), else None."""
        held = self._held()
        # As many runs as rows that hold any: one in each.
        if self.starts.size != np.count_nonzero(held):
            return None
        if self.starts.size == self.rows:
            return self.starts.reshape(self.stored), self.stops.reshape(self.stored)
        starts, stops = np.zeros(self.rows, np.int32), np.zeros(self.rows, np.int32)
        starts[held], stops[held] = self.starts, self.stops
        return starts.reshape(self.stored), stops.reshape(self.stored)

    def take(self, shape: Shape, index: Array) -> Mask:
        """The mask of `shape` whose stored row at [b, h, q] is this mask's stored row `index[b, h, q]`."""
        flat = index.ravel()
        first, last = self.pointer[flat], self.pointer[flat + 1]
        pointer = pointer_of(last - first)
        check_count(int(pointer[-1]), "this mask")
        run = np.repeat(first - pointer[:-1], last - first) + np.arange(pointer[-1])
        stored = (index.shape[0], index.shape[1], index.shape[2])
        return Mask(shape, stored, pointer, self.starts[run], self.stops[run])

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
        first, last = self.pointer[low], self.pointer[high]
        shape = (1, 1, high - low, self.shape[3])
        pointer = self.pointer[low : high + 1] - first
        return Mask(shape, shape[:3], pointer, self.starts[first:last], self.stops[first:last])

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

    def _common(self, other: Mask) -> Stored:
        a, b = self.stored, other.stored
        return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2])

    def _same_shape(self, other: Mask) -> None:
        if self.shape != other.shape:
            raise MaskcliError(
                f"masks of shape {list(self.shape)} and {list(other.shape)} cannot be combined: "
                "both must have the same [B, H, Q, K]; pass lengths that agree"
            )


def runs_of(flags: Array) -> Runs:
    """The True stretches of a boolean vector as runs [start, stop)."""
    borders = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return tuple((int(a), int(b)) for a, b in zip(borders[::2], borders[1::2], strict=True))


def _intervals(shape: Shape, starts: Array, stops: Array) -> Mask:
    """One run a row where it is not empty: `starts` and `stops` broadcast to [b, h, q] and lie in 0..K."""
    if starts.shape != stops.shape:
        starts, stops = np.broadcast_arrays(starts, stops)
    stored = (starts.shape[0], starts.shape[1], starts.shape[2])
    check_count(starts.size, "this mask")
    starts, stops = starts.ravel().astype(np.int32, copy=False), stops.ravel().astype(np.int32, copy=False)
    kept = stops > starts
    if kept.all():
        return Mask(shape, stored, np.arange(starts.size + 1), starts, stops)
    return Mask(shape, stored, pointer_of(kept), starts[kept], stops[kept])


def _intersect(a: Mask, b: Mask) -> Mask:
    """Keys in both; both masks hold the same stored rows."""
    first, overlaps = _overlapping(a, b)
    pointer = pointer_of(overlaps)
    check_count(int(pointer[-1]), "the combination of these masks")
    of_a = np.repeat(np.arange(overlaps.size), overlaps)
    of_b = np.repeat(first - pointer[:-1], overlaps) + np.arange(pointer[-1])
    starts, stops = np.maximum(a.starts[of_a], b.starts[of_b]), np.minimum(a.stops[of_a], b.stops[of_b])
    return Mask(a.shape, a.stored, pointer[a.pointer], starts, stops)


def _overlapping(a: Mask, b: Mask) -> tuple[Array, Array]:
    """The first run of b that overlaps each run of a, and how many do, both [runs of a]."""
    span = a.shape[3] + 1
    a_base, b_base = a.row_of_run() * span, b.row_of_run() * span
    # Runs of b that end behind the start of a's run and begin before its stop overlap it.
    first = np.searchsorted(b.stops + b_base, a.starts + a_base, "right")
    last = np.searchsorted(b.starts + b_base, a.stops + a_base, "left")
    return first, last - first


def pointer_of(counts: Array) -> Array:
    """Where the runs of each row begin and end, int64 [rows + 1], from how many it has."""
    pointer = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=pointer[1:])
    return pointer


def _check_shape(shape: Shape) -> None:
    if shape[3] > MAX_KEYS:
        raise MaskcliError(
            f"{shape[3]:,} keys are more than maskcli can address ({MAX_KEYS:,}); ask for fewer keys"
        )


def check_count(count: int, what: str) -> None:
    """Refuse masks that are not runs by nature."""
    if count > MAX_RUNS:
        raise TooManyRunsError(
            f"{what} needs {count:,} runs of keys, more than the limit of {MAX_RUNS:,}; "
            "ask for fewer tokens, or for a mask made of longer runs (causal, sliding, documents)"
        )
