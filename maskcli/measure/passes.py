"""Numbers from passes over the data, in chunks. Every rule reads them; nothing here judges them."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.masks.mask import Mask
from maskcli.measure.row_sums import row_sums
from maskcli.measure.spans import Span, spans
from maskcli.tensors import Tensor, on_a_page
from maskcli.tensors.dtypes import BITS, DTYPES

# Cells of a chunk that is measured in one go (4 MiB as float32): larger ones leave the cache, smaller ones cost calls.
CHUNK_CELLS = 2**20
# Rows of a chunk: the fewer, the less of a causal mask's diagonal lies in them; fewer still cost calls.
BLOCK_ROWS = 128
# Cells of partly ignored spans that are remembered, for the other heads and the next layers (32 MiB as float32).
PLAN_CELLS = 2**23

# Called with the bytes of every chunk that has been measured, from several threads, so that long work can show how far it is.
watcher: ContextVar[Callable[[int], None] | None] = ContextVar("watcher", default=None)
# Threads that read chunks at the same time; fewer where several processes share the cores.
THREADS = min(8, os.cpu_count() or 1)
threads: ContextVar[int] = ContextVar("threads", default=THREADS)


Place = tuple[int, tuple[int, int], tuple[int, int]]
Read = Callable[[int, int, Array], Array]


class Chunk(NamedTuple):
    """A block of consecutive heads or consecutive rows of one batch item, and its values [heads, rows, K]."""

    batch: int
    heads: tuple[int, int]
    rows: tuple[int, int]
    values: Array


@dataclass(frozen=True)
class Measured:
    """Per row of a weights tensor, each [B, H, Q] float32 (float64 for float64 and integers), read-only: the sum, the largest
    and smallest weight, and for each probe mask the sum over the keys that it ignores. NaN where what is counted holds NaN.
    """

    total: Array
    high: Array
    low: Array
    mass: dict[str, Array]


def chunks(shape: Shape) -> list[Place]:
    """How a tensor seen as [B, H, Q, K] is cut: (batch, heads, rows), few rows of as many heads as fit.

    The same rows of all heads follow one another, because masks seldom differ between heads.
    """
    batch, heads, queries, keys = shape
    tall = max(1, min(queries, BLOCK_ROWS, CHUNK_CELLS // max(keys, 1)))
    deep = max(1, CHUNK_CELLS // (tall * max(keys, 1)))
    rows = [(q, min(q + tall, queries)) for q in range(0, queries, tall)]
    return [
        (b, (h, min(h + deep, heads)), q) for b in range(batch) for q in rows for h in range(0, heads, deep)
    ]


def read_chunks(tensor: Tensor, shape: Shape) -> Iterator[Chunk]:
    """The chunks of a tensor in order; each one's values are only good until the next is asked for."""
    buffer = None
    for place in chunks(shape):
        chunk, buffer = _read(shape, place, buffer, tensor.rows, tensor.row_dtype)
        yield chunk


def each_chunk(tensor: Tensor, shape: Shape, work: Callable[[Chunk], None]) -> None:
    """`work` on every chunk, on all cores when there are many; it must write only to its own chunk's place."""
    _each(tensor, shape, work, tensor.rows, tensor.row_dtype)


def _each(
    tensor: Tensor, shape: Shape, work: Callable[[Chunk], None], read: Read, dtype: np.dtype[Any]
) -> None:
    """`each_chunk` over what `read` yields, which is of type `dtype`."""
    places = chunks(shape)
    held = threading.local()
    told = watcher.get()

    def one(place: Place) -> None:
        chunk, held.buffer = _read(shape, place, getattr(held, "buffer", None), read, dtype)
        work(chunk)
        if told is not None:
            told(chunk.values.size * tensor.nbytes // max(tensor.row_count * tensor.row_length, 1))

    left = deque(places)

    def some() -> None:
        # Every thread takes its next chunk itself: one that handed them out would want the interpreter as often as they do.
        try:
            while left:
                try:
                    place = left.popleft()
                except IndexError:  # Another one took the last.
                    return
                one(place)
        finally:
            # Nobody goes on when one fails.
            left.clear()

    # Less than a chunk in all is done before threads have started.
    count = threads.get() if math.prod(shape) > CHUNK_CELLS else 1
    if count == 1:
        some()
        return
    with ThreadPoolExecutor(count) as pool:
        try:
            for done in [pool.submit(some) for _ in range(count)]:
                done.result()
        finally:
            left.clear()


def _read(
    shape: Shape, place: Place, buffer: Array | None, read: Read, dtype: np.dtype[Any]
) -> tuple[Chunk, Array]:
    batch, heads, rows = place
    queries, keys = shape[2:]
    deep, tall = heads[1] - heads[0], rows[1] - rows[0]
    if buffer is None or len(buffer) < deep * tall:
        buffer = on_a_page((deep * tall, keys), dtype)
    start = (batch * shape[1] + heads[0]) * queries + rows[0]
    # Rows of one head, or all rows of several, lie side by side.
    step, each = (deep, deep * tall) if tall == queries else (1, tall)
    for at in range(0, deep, step):
        read(start + at * queries, start + at * queries + each, buffer[at * tall :])
    return Chunk(batch, heads, rows, buffer[: deep * tall].reshape(deep, tall, keys)), buffer


def measure(tensor: Tensor, shape: Shape, probes: Mapping[str, Mask]) -> Measured:
    """One pass over a tensor seen as [B, H, Q, K]: row sums and extremes, and the mass outside of each probe mask.

    The probes cut the keys into spans; each span is added up once, and not at all where it holds nothing but zeros.
    """
    # What is no float is read as one.
    dtype = tensor.dtype if tensor.dtype in BITS else "float64"
    wide = np.dtype(DTYPES[dtype].wide)
    rows = shape[:3]
    total, high, low = np.empty(rows, wide), np.empty(rows, wide), np.empty(rows, wide)
    same = _first_equals(probes)
    masks = {name: mask for name, mask in probes.items() if same[name] == name}
    mass = {name: np.empty(rows, wide) for name in masks}
    by_head = any(mask.stored[1] > 1 for mask in masks.values())
    plan = _plan(masks, shape[3])

    def work(chunk: Chunk) -> None:
        first, last = chunk.heads
        for heads in [(head, head + 1) for head in range(first, last)] if by_head else [(first, last)]:
            raw = chunk.values[heads[0] - first : heads[1] - first]
            with np.errstate(invalid="ignore", over="ignore"):
                sums = row_sums(raw, dtype, plan(chunk.batch, heads[0] if by_head else 0, chunk.rows))
                place = (chunk.batch, slice(*heads), slice(*chunk.rows))
                total[place], high[place], low[place] = sums[:3]
                for name in masks:
                    mass[name][place] = sums.outside.get(name, 0.0)

    if dtype == tensor.dtype:
        _each(tensor, shape, work, tensor.raw_rows, tensor.raw_dtype)
    else:
        each_chunk(tensor, shape, lambda chunk: work(chunk._replace(values=chunk.values.astype(np.float64))))
    mass = {name: _once(each) for name, each in mass.items()}
    return Measured(
        _once(total), _once(high), _once(low), {name: mass[first] for name, first in same.items()}
    )


def _once(rows: Array) -> Array:
    """The same array [B, H, Q], read-only, held once along every axis on which it does not vary.

    Much of what is measured is 0 in every row, or the same in every head: a file of many short rows would fill the memory.
    """
    held = rows
    for axis in range(3):
        first = held.take([0], axis=axis)
        held = first if np.array_equal(held, np.broadcast_to(first, held.shape)) else held
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
        found = spans(self.masks, self.keys, batch, head, rows)
        size = sum(mixed.cells.size for span in found for mixed in span.mixed)
        if self.cells + size > PLAN_CELLS:
            self.kept.clear()
            self.cells = 0
        self.cells += size
        self.kept[batch, head, rows] = found
        return found


_LAST: ContextVar[_Plan | None] = ContextVar("_LAST", default=None)


def _plan(masks: Mapping[str, Mask], keys: int) -> _Plan:
    """The spans under these masks; those of the last pass when its masks are equal, as those of a model's layers are."""
    last = _LAST.get()
    if last is None or last.keys != keys or last.masks != masks:
        last = _Plan(masks, keys)
        _LAST.set(last)
    return last


def _first_equals(masks: Mapping[str, Mask]) -> dict[str, str]:
    """For each name the first name that has an equal mask, so that none is measured twice."""
    first: dict[str, str] = {}
    for name, mask in masks.items():
        alike = (
            other
            for other in first.values()
            if masks[other].attended == mask.attended and masks[other] == mask
        )
        first[name] = next(alike, name)
    return first


def uniform_rows(tensor: Tensor, shape: Shape, high: Array) -> Array:
    """How many keys share a row's largest weight while all others weigh exactly 0, int64 [B, H, Q]; 0 when they differ."""
    support = np.zeros(shape[:3], np.int64)

    def work(chunk: Chunk) -> None:
        place = (chunk.batch, slice(*chunk.heads), slice(*chunk.rows))
        top = high[place][..., None]
        equal = (chunk.values == top.astype(chunk.values.dtype)) & (top > 0)
        counts = equal.sum(axis=2)
        support[place] = np.where((equal | (chunk.values == 0)).all(axis=2), counts, 0)

    each_chunk(tensor, shape, work)
    return support


def query_sums(tensor: Tensor, shape: Shape) -> Iterator[Array]:
    """The sums over queries [K] float64 of one head after the other, of one batch item after the other; read as they are asked."""
    queries, keys = shape[2:]
    step = max(1, CHUNK_CELLS // max(keys, 1))
    for plane in range(shape[0] * shape[1]):
        sums = np.zeros(keys)
        for start in range(plane * queries, (plane + 1) * queries, step):
            sums += tensor.rows(start, min(start + step, (plane + 1) * queries)).sum(axis=0)
        yield sums


def first_sums(tensor: Tensor, shape: Shape) -> tuple[Array, Array]:
    """The sums over heads [B, q, K] and over the batch [H, q, K], float64, of as many first queries as fit into a chunk."""
    batch, heads, queries, keys = shape
    shown = min(queries, max(1, CHUNK_CELLS // (max(batch, heads) * keys)))
    over_heads, over_batch = np.zeros((batch, shown, keys)), np.zeros((heads, shown, keys))
    for item in range(batch):
        for head in range(heads):
            start = (item * heads + head) * queries
            values = tensor.rows(start, start + shown)
            over_heads[item] += values
            over_batch[head] += values
    return over_heads, over_batch


def column_mass(tensor: Tensor, shape: Shape, rows: Array) -> Array:
    """The mass that flagged rows [B, H, Q] give each key, [B, K]; rows with NaN count as nothing."""
    mass = np.zeros((shape[0], shape[3]))
    for chunk in read_chunks(tensor, shape):
        flagged = rows[chunk.batch, slice(*chunk.heads), slice(*chunk.rows)]
        mass[chunk.batch] += np.nan_to_num(chunk.values[flagged]).sum(axis=0, dtype=np.float64)
    return mass


def last_key(tensor: Tensor, shape: Shape) -> int | None:
    """The last key that any row weighs, exactly uniform rows aside; None when there is none.

    The last rows are looked at first, and nothing more once one of them weighs the last key.
    """
    last = -1
    buffer = None
    for place in reversed(chunks(shape)):
        chunk, buffer = _read(shape, place, buffer, tensor.rows, tensor.row_dtype)
        told = chunk.values.max(axis=2) != chunk.values.min(axis=2)
        rest = chunk.values[:, :, last + 1 :]
        weighed = ((rest != 0) & (rest == rest) & told[:, :, None]).any(axis=(0, 1))
        last += int(np.flatnonzero(weighed)[-1]) + 1 if weighed.any() else 0
        if last == shape[3] - 1:
            break
    return last if last >= 0 else None


def nan_rows(tensor: Tensor, shape: Shape) -> Array:
    """How many NaN each row holds, int64 [B, H, Q]."""
    counts = np.zeros(shape[:3], np.int64)

    def work(chunk: Chunk) -> None:
        counts[chunk.batch, slice(*chunk.heads), slice(*chunk.rows)] = np.isnan(chunk.values).sum(axis=2)

    each_chunk(tensor, shape, work)
    return counts


def row_chunks(tensor: Tensor) -> Iterator[tuple[int, Array]]:
    """The rows of a tensor of any shape, in pieces: the number of the first row, and values [n, K]."""
    step = max(1, CHUNK_CELLS // max(tensor.row_length, 1))
    for start in range(0, tensor.row_count, step):
        yield start, tensor.rows(start, min(start + step, tensor.row_count))


def first_bad(tensor: Tensor, bad: Callable[[Array], Array]) -> tuple[int, ...] | None:
    """The index of the first cell for which `bad` says True, or None."""
    for start, values in row_chunks(tensor):
        flags = bad(values)
        if flags.any():
            return _index(tensor, start, flags)
    return None


def _index(tensor: Tensor, start: int, flags: Array) -> tuple[int, ...]:
    row, key = np.argwhere(flags)[0]
    return (*(int(i) for i in np.unravel_index(start + int(row), tensor.shape[:-1] or (1,))), int(key))


def bad_cells(tensor: Tensor, bad: Callable[[Array], Array]) -> Array:
    """Which rows of a tensor hold a cell for which `bad` says True, boolean in the shape of its leading axes."""
    parts = [bad(values).any(axis=1) for _, values in row_chunks(tensor)]
    flags: Array = np.concatenate(parts) if parts else np.zeros(0, bool)
    return flags.reshape(tensor.shape[:-1])
