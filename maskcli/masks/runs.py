"""Runs of keys, row by row, as arrays: what both masks hold, what either does, and what one does not.

Many rows are worked on a piece at a time, so that what stands between costs no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import TooManyRunsError

Runs = tuple[tuple[int, int], ...]

# Starts and stops of this many runs take 256 MiB; a mask with more is not runs by nature.
MAX_RUNS = 2**25
# Rows that are worked on at a time: all of most masks, and a few megabytes.
PIECE = 2**18


class Rows(NamedTuple):
    """Rows of runs: `pointer` int64 [rows + 1] says which are whose of `starts` and `stops` int32 [runs]."""

    pointer: Array
    starts: Array
    stops: Array

    @property
    def size(self) -> int:
        """How many rows there are."""
        return self.pointer.size - 1

    def part(self, low: int, high: int) -> Rows:
        """Rows `low` to `high`: views on the runs."""
        pointer = self.pointer[low : high + 1]
        first, last = int(pointer[0]), int(pointer[-1])
        return Rows(pointer - first if first else pointer, self.starts[first:last], self.stops[first:last])

    def take(self, index: Array) -> Rows:
        """The rows of these numbers, int [rows]."""
        first, last = self.pointer[index], self.pointer[index + 1]
        pointer = pointer_of(last - first)
        check_count(int(pointer[-1]), "this mask")
        run = np.repeat(first - pointer[:-1], last - first) + np.arange(pointer[-1])
        return Rows(pointer, self.starts[run], self.stops[run])

    def row_of_run(self) -> Array:
        """The row that each run belongs to, int64 [runs]."""
        return np.repeat(np.arange(self.size), np.diff(self.pointer))

    def intervals(self) -> tuple[Array, Array] | None:
        """Starts and stops [rows] when no row has more than one run (0, 0 for none), else None."""
        held = self.pointer[1:] > self.pointer[:-1]
        # As many runs as rows that hold any: one in each.
        if self.starts.size != np.count_nonzero(held):
            return None
        if self.starts.size == self.size:
            return self.starts, self.stops
        starts, stops = np.zeros(self.size, np.int32), np.zeros(self.size, np.int32)
        starts[held], stops[held] = self.starts, self.stops
        return starts, stops


# How two rows of runs over so many keys become one.
Join = Callable[[Rows, Rows, int], Rows]


def of_intervals(starts: Array, stops: Array) -> Rows:
    """One run a row where it is not empty: int32 [rows] each."""
    kept = stops > starts
    if kept.all():
        return Rows(np.arange(starts.size + 1), starts, stops)
    return Rows(pointer_of(kept), starts[kept], stops[kept])


def complement(rows: Rows, keys: int) -> Rows:
    """The keys that no run of a row holds."""
    row = rows.row_of_run()
    run = np.arange(rows.starts.size)
    starts = np.zeros(run.size + rows.size, np.int32)
    stops = np.full(run.size + rows.size, keys, np.int32)
    starts[run + row + 1] = rows.stops
    stops[run + row] = rows.starts
    kept = stops > starts
    pointer = pointer_of(kept)[rows.pointer + np.arange(rows.size + 1)]
    return Rows(pointer, starts[kept], stops[kept])


def intersection(a: Rows, b: Rows, keys: int) -> Rows:
    """The keys in both of two rows."""
    mine, theirs = a.intervals(), b.intervals()
    if mine is not None and theirs is not None:
        return of_intervals(np.maximum(mine[0], theirs[0]), np.minimum(mine[1], theirs[1]))

    first, overlaps = _overlapping(a, b, keys)
    pointer = pointer_of(overlaps)
    check_count(int(pointer[-1]), "the combination of these masks")
    of_a = np.repeat(np.arange(overlaps.size), overlaps)
    of_b = np.repeat(first - pointer[:-1], overlaps) + np.arange(pointer[-1])
    starts, stops = np.maximum(a.starts[of_a], b.starts[of_b]), np.minimum(a.stops[of_a], b.stops[of_b])
    return Rows(pointer[a.pointer], starts, stops)


def union(a: Rows, b: Rows, keys: int) -> Rows:
    """The keys in either of two rows."""
    return complement(intersection(complement(a, keys), complement(b, keys), keys), keys)


def difference(a: Rows, b: Rows, keys: int) -> Rows:
    """The keys in the first of two rows alone."""
    return intersection(a, complement(b, keys), keys)


def either(a: Rows, b: Rows, keys: int) -> Rows:
    """The keys in one of two rows and not in the other."""
    return union(difference(a, b, keys), difference(b, a, keys), keys)


def joined(pieces: Iterable[Rows], rows: int) -> Rows:
    """Pieces that are so many rows together, as one."""
    pointer = np.zeros(rows + 1, np.int64)
    starts, stops = list[Array](), list[Array]()
    row = run = 0
    for piece in pieces:
        if piece.size == rows:
            return piece
        pointer[row : row + piece.size + 1] = piece.pointer + run
        starts.append(piece.starts)
        stops.append(piece.stops)
        row, run = row + piece.size, run + piece.starts.size
        check_count(run, "the combination of these masks")
    return Rows(pointer, np.concatenate(starts), np.concatenate(stops))


def _overlapping(a: Rows, b: Rows, keys: int) -> tuple[Array, Array]:
    """The first run of b that overlaps each run of a, and how many do, both [runs of a]."""
    a_base, b_base = a.row_of_run() * (keys + 1), b.row_of_run() * (keys + 1)
    # Runs of b that end behind the start of a's run and begin before its stop overlap it.
    first = np.searchsorted(b.stops + b_base, a.starts + a_base, "right")
    last = np.searchsorted(b.starts + b_base, a.stops + a_base, "left")
    return first, last - first


def runs_of(flags: Array) -> Runs:
    """The True stretches of a boolean vector as runs [start, stop)."""
    borders = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return tuple((int(a), int(b)) for a, b in zip(borders[::2], borders[1::2], strict=True))


def pointer_of(counts: Array) -> Array:
    """Where the runs of each row begin and end, int64 [rows + 1], from how many it has."""
    pointer = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=pointer[1:])
    return pointer


def check_count(count: int, what: str) -> None:
    """Refuse masks that are not runs by nature."""
    if count > MAX_RUNS:
        raise TooManyRunsError(
            f"{what} needs {count:,} runs of keys, more than the limit of {MAX_RUNS:,}; "
            "ask for fewer tokens, or for a mask made of longer runs (causal, sliding, documents)"
        )
