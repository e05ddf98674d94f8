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
from maskcli.masks.runs import runs_of

if TYPE_CHECKING:
    from maskcli.masks.kinds import Numbers
    from maskcli.masks.layout import Layout

# Lengths of packed documents written out at most; more make a longer text than the mask deserves.
MOST_DOCUMENTS = 4096
# Sizes of blocks that are tried, and those of them that are kept: two can overlap (chunked:2 & chunked:3),
# more are nobody's.
TRIED, MOST_SIZES = 64, 2
# Nodes of a draft tree, and ranges of rows or keys, that a name writes out at most.
MOST_NODES, MOST_RANGES = 512, 8


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
        """The N of a prefix-LM: where rows that look ahead end, in all items together or in each."""
        looking = self.stop - 1 > self.position
        if not looking.any() or self.position.max() < self.stop[looking].max():
            return []
        items = self.mask.stored[0]
        each = np.zeros(items, np.int64)
        np.maximum.at(each, self.item[looking], self.stop[looking])
        alike = bool((each == each[0]).all())
        found: list[Numbers] = [(int(each.max()),)]
        return found if alike else [*found, tuple(each.tolist())]

    def window(self) -> list[Numbers]:
        """How far queries look to both sides: one number where it is the same, -1 for as far as there is."""
        ahead, behind = max(self.ahead, 0), max(self.behind, 0)
        if ahead == behind:
            return [(ahead,)]
        one: list[Numbers] = [(max(ahead, behind),)]
        farthest = int(self.position.max())
        left = -1 if behind >= farthest else behind
        right = -1 if ahead >= self.layout.keys - 1 - int(self.position.min()) else ahead
        return one if left == right else [*one, (left, right)]

    def whole_chunks(self) -> list[Numbers]:
        """The C, L of chunks that are seen whole with L keys before them; none where L has no end."""
        found: list[Numbers] = []
        for (size,) in self._ahead():
            before = int((self.position // size * size - self.first).max())
            everything = before >= int(self.position.max()) // size * size
            if before > 0 and not everything:
                found.append((size, before))
        return found

    def block_diffusion(self) -> list[Numbers]:
        """The B of blocks of which nobody sees a later one; B, N with the second half of the keys clean."""
        found = self._ahead()
        half = self.layout.keys // 2
        first = self.stop[(self.query == 0) & (self.first == 0)]
        if self.layout.queries == self.layout.keys == 2 * half and first.size and first[0] <= half:
            found.append((int(first[0]), half))
        return found

    def _ahead(self) -> list[Numbers]:
        """Sizes of blocks behind which no query of theirs sees anything, the smallest."""
        last = np.maximum(self.stop - 1, self.position)
        return self._sizes(self.position, last, int((last - self.position).max()) + 1)[:1]

    def rows(self) -> list[Numbers]:
        """The ranges of queries that see anything, where some see nothing."""
        if self.mask.stored[2] == 1:
            return []
        seen = np.zeros(self.layout.queries, bool)
        seen[self.query] = True
        return [] if seen.all() else _ranges(seen)

    def tree(self) -> list[Numbers]:
        """The parents of a draft tree: of each node, the last key that it sees before itself."""
        mask, past = self.mask, self.layout.past
        rows = mask.stored[2]
        alike = mask.stored == (1, 1, self.layout.queries) and self.query.size == rows
        gaps = self.mask.starts.size - self.query.size
        if not alike or not gaps or rows > MOST_NODES or self.layout.keys != past + rows:
            return []
        # Nobody lacks a key before the first gap: the root is the last of these, where it is a query.
        begins, ends = mask.pointer[:-1], mask.stops
        split = np.flatnonzero(np.diff(mask.pointer) > 1)
        common = int(ends[begins[split]].min())
        root = max(common - 1, past)
        parents = []
        for at in range(root, past + rows):
            (runs,) = mask.row_range(at - past, at - past + 1).runs()
            nearest = max((min(stop, at) - 1 for start, stop in runs if start < at), default=-1)
            parents.append(nearest - root if nearest >= root else -1)
        return [tuple(parents)]

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
        return self._sizes(low, high, need)[:MOST_SIZES]

    def _sizes(self, low: Array, high: Array, need: int) -> list[Numbers]:
        """Sizes of `need` or more, smallest first, whose multiples cut the keys `low` to `high` of no row."""
        keys = self.layout.keys
        free = _uncrossed(np.zeros(1, np.int64), low, high, keys)[0]
        borders = np.flatnonzero(free)
        sizes: list[int] = borders[(borders >= need) & (borders < keys)][:TRIED].tolist()
        return [(size,) for size in sizes if free[size::size].all()]

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


def _ranges(flags: Array) -> list[Numbers]:
    """The stretches of True as borders, when they are few."""
    runs = runs_of(flags)
    return [tuple(border for run in runs for border in run)] if 0 < len(runs) <= MOST_RANGES else []


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
