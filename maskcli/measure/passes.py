"""Numbers from passes over the data, in chunks. Every rule reads them; nothing here judges them."""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape, for_any_numbers
from maskcli.masks.mask import Mask
from maskcli.measure.row_sums import row_sums
from maskcli.measure.spans import Span, spans
from maskcli.tensors import Tensor, on_a_page
from maskcli.tensors.dtypes import BITS, DTYPES

# Cells of a chunk that is measured in one go (4 MiB as float32): larger ones leave the cache, smaller ones
# cost calls.
CHUNK_CELLS = 2**20
# Rows of a chunk: the fewer, the less of a causal mask's diagonal lies in them; fewer still cost calls.
BLOCK_ROWS = 128
# Cells of partly ignored spans that are remembered, for the other heads and the next layers (32 MiB as
# float32).
PLAN_CELLS = 2**23

# Called with the bytes of every chunk that has been measured, from several threads, so that long work can
# show how far it is.
watcher: ContextVar[Callable[[int], None] | None] = ContextVar("watcher", default=None)
# Threads that read chunks at the same time; fewer where several processes share the cores.
THREADS = min(8, os.cpu_count() or 1)
threads: ContextVar[int] = ContextVar("threads", default=THREADS)


Place = tuple[int, tuple[int, int], tuple[int, int]]


class Chunk(NamedTuple):
    """A block of consecutive heads or consecutive rows of one batch item, and its values [heads, rows, K]."""

    batch: int
    heads: tuple[int, int]
    rows: tuple[int, int]
    values: Array

    @property
    def place(self) -> tuple[int, slice, slice]:
        """Where its rows stand in an array [B, H, Q]."""
        return self.batch, slice(*self.heads), slice(*self.rows)


@dataclass(frozen=True)
class Measured:
    """Per row of a weights tensor, each [B, H, Q] float32 (float64 for float64 and integers), read-only.

    The sum, the largest and smallest weight, and for each probe mask the sum over the keys that it ignores.
    NaN where what is counted holds NaN.
    """

    total: Array
    high: Array
    low: Array
    mass: dict[str, Array]


def rows_at_once(keys: int) -> int:
    """How many rows of that many keys a chunk holds."""
    return max(1, CHUNK_CELLS // max(keys, 1))


def chunks(shape: Shape) -> list[Place]:
    """How a tensor seen as [B, H, Q, K] is cut: (batch, heads, rows), few rows of as many heads as fit.

    The same rows of all heads follow one another, because masks seldom differ between heads.
    """
    batch, heads, queries, keys = shape
    tall = max(1, min(queries, BLOCK_ROWS, rows_at_once(keys)))
    deep = rows_at_once(tall * max(keys, 1))
    rows = [(q, min(q + tall, queries)) for q in range(0, queries, tall)]
    several = [(h, min(h + deep, heads)) for h in range(0, heads, deep)]
    return [(item, group, block) for item, block, group in product(range(batch), rows, several)]


def read_chunks(tensor: Tensor, shape: Shape, backwards: bool = False) -> Iterator[Chunk]:
    """The chunks of a tensor in order; each one's values are only good until the next is asked for."""
    read = _Reader(tensor, shape)
    places = chunks(shape)
    for place in reversed(places) if backwards else places:
        yield read(place)


def each_chunk(tensor: Tensor, shape: Shape, work: Callable[[Chunk], None], raw: bool = False) -> None:
    """`work` on every chunk, on all cores when there are many; it must write only to its own chunk's place.

    With `raw`, of the elements as they are stored.
    """
    left = deque(chunks(shape))
    progress = watcher.get()

    @for_any_numbers
    def work_on_some() -> None:
        # Every thread takes its next chunk itself: one that handed them out would want the interpreter as
        # often as they do.
        read = _Reader(tensor, shape, raw)
        try:
            while left:
                try:
                    place = left.popleft()
                except IndexError:  # Another one took the last.
                    return
                chunk = read(place)
                work(chunk)
                if progress is not None:
                    progress(
                        chunk.values.size * tensor.nbytes // max(tensor.row_count * tensor.row_length, 1)
                    )
        finally:
            # Nobody goes on when one fails.
            left.clear()

    # Less than a chunk in all is done before threads have started.
    count = threads.get() if math.prod(shape) > CHUNK_CELLS else 1
    if count == 1:
        work_on_some()
        return
    with ThreadPoolExecutor(count) as pool:
        try:
            started = _submitted(pool, work_on_some, count)
            for done in started:
                done.result()
            if not started:
                work_on_some()
        finally:
            left.clear()


def _submitted(pool: ThreadPoolExecutor, work: Callable[[], None], count: int) -> list[Future[None]]:
    """Work handed to so many threads, fewer where no more can be started."""
    started = list[Future[None]]()
    with contextlib.suppress(RuntimeError):
        for _ in range(count):
            started.append(pool.submit(work))
    return started


class _Reader:
    """Reads one chunk after the other into the same room."""

    def __init__(self, tensor: Tensor, shape: Shape, raw: bool = False) -> None:
        self.shape = shape
        self.rows = tensor.raw_rows if raw else tensor.rows
        self.dtype = tensor.raw_dtype if raw else tensor.row_dtype
        self.room: Array | None = None

    def __call__(self, place: Place) -> Chunk:
        item, heads, rows = place
        queries, keys = self.shape[2:]
        deep, tall = heads[1] - heads[0], rows[1] - rows[0]
        if self.room is None or len(self.room) < deep * tall:
            self.room = on_a_page((deep * tall, keys), self.dtype)
        first = (item * self.shape[1] + heads[0]) * queries + rows[0]
        # Rows of one head, or all rows of several, lie side by side.
        together = deep if tall == queries else 1
        for head in range(0, deep, together):
            start = first + head * queries
            self.rows(start, start + together * tall, self.room[head * tall :])
        return Chunk(item, heads, rows, self.room[: deep * tall].reshape(deep, tall, keys))


def measure(tensor: Tensor, shape: Shape, probes: Mapping[str, Mask]) -> Measured:
    """One pass over a tensor seen as [B, H, Q, K]: row sums, extremes, and the mass outside of each probe.

    The probes cut the keys into spans; each span is added up once, and not at all where it holds nothing but
    zeros.
    """
    # What is no float is read as one.
    as_stored = tensor.dtype in BITS
    dtype = tensor.dtype if as_stored else "float64"
    wide = np.dtype(DTYPES[dtype].wide)
    same = _first_equals(probes)
    masks = {name: mask for name, mask in probes.items() if same[name] == name}
    by_head = any(mask.stored[1] > 1 for mask in masks.values())
    rows = shape[:3]
    if not by_head and all(mask.stored[0] == 1 for mask in masks.values()):
        # Heads of several items are as good as those of one, and there are fewer chunks of them.
        shape = (1, shape[0] * shape[1], *shape[2:])
    total, high, low = (np.empty(shape[:3], wide) for _ in range(3))
    mass = {name: np.empty(shape[:3], wide) for name in masks}
    plan = _plan(masks, shape[3])

    def work(chunk: Chunk) -> None:
        values = chunk.values if as_stored else chunk.values.astype(np.float64)
        first, last = chunk.heads
        groups = [(head, head + 1) for head in range(first, last)] if by_head else [(first, last)]
        for heads in groups:
            part = chunk._replace(heads=heads, values=values[heads[0] - first : heads[1] - first])
            sums = row_sums(part.values, dtype, plan(part.batch, heads[0] if by_head else 0, part.rows))
            total[part.place], high[part.place], low[part.place] = sums[:3]
            for name, masked in mass.items():
                masked[part.place] = sums.outside.get(name, 0.0)

    each_chunk(tensor, shape, work, raw=as_stored)
    sums, highs, lows = (_once(each.reshape(rows)) for each in (total, high, low))
    held = {name: _once(masked.reshape(rows)) for name, masked in mass.items()}
    return Measured(sums, highs, lows, {name: held[first] for name, first in same.items()})


def _once(rows: Array) -> Array:
    """The same array [B, H, Q], read-only, held once along every axis on which it does not vary.

    Much of what is measured is 0 in every row, or the same in every head: a file of many short rows would
    fill the memory.
    """
    held = rows
    for axis in range(3):
        first = held[(slice(None),) * axis + (slice(1),)]
        held = first.copy() if held.shape[axis] > 1 and bool((held == first).all()) else held
    return np.broadcast_to(held, rows.shape)


class _Plan:
    """The spans of blocks of rows by batch item, head and rows, remembered as far as there is room."""

    def __init__(self, masks: Mapping[str, Mask], keys: int) -> None:
        self.masks, self.keys = masks, keys
        self.cells = 0
        self.kept: dict[tuple[int, int, tuple[int, int]], list[Span]] = {}

    def __call__(self, batch: int, head: int, rows: tuple[int, int]) -> list[Span]:
        known = self.kept.get((batch, head, rows))
        if known is not None:
            return known
        cut = spans(self.masks, self.keys, batch, head, rows)
        size = sum(mixed.cells.size for span in cut for mixed in span.mixed)
        if self.cells + size > PLAN_CELLS:
            self.kept.clear()
            self.cells = 0
        self.cells += size
        self.kept[batch, head, rows] = cut
        return cut


_LAST: ContextVar[_Plan | None] = ContextVar("_LAST", default=None)


def _plan(masks: Mapping[str, Mask], keys: int) -> _Plan:
    """The spans under these masks; those of the last pass when its masks are equal, as layers' are."""
    last = _LAST.get()
    if last is None or last.keys != keys or last.masks != masks:
        last = _Plan(masks, keys)
        _LAST.set(last)
    return last


def _first_equals(masks: Mapping[str, Mask]) -> dict[str, str]:
    """For each name the first name that has an equal mask, so that none is measured twice."""
    first: dict[str, str] = {}
    for name, mask in masks.items():
        alike = (other for other in first.values() if _equal(masks[other], mask))
        first[name] = next(alike, name)
    return first


def _equal(a: Mask, b: Mask) -> bool:
    """Whether two masks are equal; most that are not differ in how much they attend."""
    return a.attended == b.attended and a == b
