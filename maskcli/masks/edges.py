"""Where the runs of a mask begin and end, seen from each query: by this a kind finds its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.mask import Mask

if TYPE_CHECKING:
    from maskcli.masks.kinds import Numbers
    from maskcli.masks.layout import Layout

# Lengths of packed documents written out at most; more make a longer text than the mask deserves.
MOST_DOCUMENTS = 4096
# Sizes of blocks that are tried, and those of them that are kept: two can overlap (chunked:2 & chunked:3),
# more are nobody's.
TRIED, MOST_SIZES = 64, 2


def _largest(values: Array) -> int:
    return int(values.max())


def _most_frequent(values: Array) -> int:
    distinct, counts = np.unique(values, return_counts=True)
    return int(distinct[counts.argmax()])


@dataclass(frozen=True, eq=False)
class Edges:
    """The rows of a mask that attend to anything, one element of each array a row.

    `item` is its batch item, `query` its query, `first` its first key and `stop` the end of its last run.
    `over` takes what the rows show to one number: the largest, or the usual one.
    """

    mask: Mask
    layout: Layout
    item: Array
    query: Array
    first: Array
    stop: Array
    over: Callable[[Array], int] = _largest

    def usual(self) -> Edges:
        """The same edges, of which numbers are those that most rows show."""
        return dataclasses.replace(self, over=_most_frequent)

    @cached_property
    def position(self) -> Array:
        """The key position of each row's query."""
        return self.query + self.layout.past

    @cached_property
    def ahead(self) -> int:
        """How far the last key lies behind its query's position (0: itself)."""
        return self.over(self.stop - 1 - self.position)

    @property
    def behind(self) -> int:
        """How far the first key lies before its query's position."""
        return self.over(self.position - self.first)

    @property
    def top_left(self) -> int:
        """`ahead`, counted from the first key whatever the past."""
        return self.over(self.stop - 1 - self.query)

    @property
    def last(self) -> int:
        """The end of the last run."""
        return self.over(self.stop)

    @property
    def step(self) -> int:
        """The greatest divisor of the distances of attended keys; 0 where runs are longer than one key."""
        mask = self.mask
        if mask.stored[2] == 1 or (mask.stops - mask.starts > 1).any():
            return 0
        position = mask.row_of_run() % mask.stored[2] + self.layout.past
        return int(np.gcd.reduce(np.abs(mask.starts - position)))

    def prefix_lm(self) -> list[Numbers]:
        """The N of a prefix-LM: where rows that look ahead end, when they end together."""
        ends = self.stop[self.stop - 1 > self.position]
        together = ends.size and self.position.max() + 1 > ends.max()
        return [(int(ends.max()),)] if together else []

    def blocks(self) -> list[Numbers]:
        """Sizes B for which every run stays in its query's block, smallest first."""
        return self._grid(np.zeros_like(self.query))

    def chunks(self) -> list[Numbers]:
        """The same, counted from the first real token of each item."""
        real = self.layout.real
        if real is None:
            return self.blocks()
        return self._grid(real.argmax(axis=1)[np.minimum(self.item, len(real) - 1)])

    def _grid(self, left: Array) -> list[Numbers]:
        position = self.position - left
        low = np.minimum(self.first - left, position)
        high = np.maximum(self.stop - 1 - left, position)
        # A block reaches from each query to its furthest key on both sides; borders lie where no run crosses.
        need = max(int((position - low).max()), int((high - position).max())) + 1
        keys = self.layout.keys
        free = _uncrossed(np.zeros(1, np.int64), low, high, keys)[0]
        borders = np.flatnonzero(free)
        sizes: list[int] = borders[(borders >= need) & (borders < keys)][:TRIED].tolist()
        kept: list[Numbers] = [(size,) for size in sizes if free[size::size].all()]
        return kept[:MOST_SIZES]

    def documents(self) -> list[Numbers]:
        """Lengths between borders that no query looks across; none for one, or where items differ."""
        keys = self.layout.keys
        if self.layout.queries + self.layout.past > keys:
            return []
        low, high = np.minimum(self.first, self.position), np.maximum(self.stop - 1, self.position)
        free: Array = np.all(_uncrossed(self.item, low, high, keys), axis=0)
        free[0] = True
        borders = np.flatnonzero(free)
        if not 2 <= borders.size <= MOST_DOCUMENTS:
            return []
        # What is left over is a document of its own, so that the last length need not be written.
        return [tuple(np.diff(borders).tolist())]


def edges_of(mask: Mask, layout: Layout) -> Edges:
    """The edges of a mask in which some row attends to something."""
    rows = np.flatnonzero(np.diff(mask.pointer))
    query = rows % mask.stored[2]
    if mask.stored[2] == 1:
        # One row for every query: the first and the last position bound it on both sides.
        rows, query = np.repeat(rows, 2), np.tile([0, layout.queries - 1], rows.size)
    item = rows // (mask.stored[1] * mask.stored[2])
    first = mask.starts[mask.pointer[:-1][rows]].astype(np.int64)
    stop = mask.stops[mask.pointer[1:][rows] - 1].astype(np.int64)
    return Edges(mask, layout, item, query, first, stop)


def _uncrossed(item: Array, low: Array, high: Array, keys: int) -> Array:
    """Where borders can lie in each item, bool [items, K]: not between `low` and `high` of a row."""
    crossed = np.zeros((int(item.max()) + 1, keys + 1), np.int64)
    np.add.at(crossed, (item, np.clip(low + 1, 0, keys)), 1)
    np.add.at(crossed, (item, np.clip(high + 1, 0, keys)), -1)
    free: Array = np.cumsum(crossed, axis=1)[:, :keys] == 0
    return free
