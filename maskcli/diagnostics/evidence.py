"""Numbers from passes over the data, in chunks. Every rule reads them; nothing here judges them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskcli.masks.mask import Mask, Shape
from maskcli.tensors import Tensor

Array = npt.NDArray[Any]

# Cells of a chunk that is read and measured in one go (4 MiB as float32): larger ones leave the cache, smaller ones cost calls.
CHUNK_CELLS = 2**20

# Called with the bytes of every chunk that has been measured, from several threads, so that long work can show how far it is.
watcher: ContextVar[Callable[[int], None] | None] = ContextVar("watcher", default=None)


class Chunk(NamedTuple):
    """A block of consecutive heads or consecutive rows of one batch item, and its values [heads, rows, K]."""

    batch: int
    heads: tuple[int, int]
    rows: tuple[int, int]
    values: Array


@dataclass(frozen=True)
class Measured:
    """Per row of a weights tensor, each [B, H, Q] float32 (float64 for float64 weights): the sum, the largest and smallest weight, and for each probe
    mask the sum over the keys that it ignores. NaN where the row holds NaN.
    """

    total: Array
    high: Array
    low: Array
    mass: dict[str, Array]


def chunks(tensor: Tensor, shape: Shape) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    """How a tensor seen as [B, H, Q, K] is cut: (batch, heads, rows), whole heads together while they are small."""
    batch, heads, queries, keys = shape
    plane = max(queries * keys, 1)
    if plane <= CHUNK_CELLS:
        step = max(1, CHUNK_CELLS // plane)
        cuts = [((h, min(h + step, heads)), (0, queries)) for h in range(0, heads, step)]
    else:
        step = max(1, CHUNK_CELLS // max(keys, 1))
        cuts = [((h, h + 1), (q, min(q + step, queries))) for h in range(heads) for q in range(0, queries, step)]
    return [(b, h, q) for b in range(batch) for h, q in cuts]


def read_chunks(tensor: Tensor, shape: Shape) -> Iterator[Chunk]:
    """The chunks of a tensor in order; each one's values are only good until the next is asked for."""
    buffer = None
    for batch, heads, rows in chunks(tensor, shape):
        chunk, buffer = _read(tensor, shape, batch, heads, rows, buffer)
        yield chunk


def each_chunk(tensor: Tensor, shape: Shape, work: Callable[[Chunk], None]) -> None:
    """`work` on every chunk, on all cores when there are many; it must write only to its own chunk's place."""
    places = chunks(tensor, shape)
    held = threading.local()
    told = watcher.get()

    def one(place: tuple[int, tuple[int, int], tuple[int, int]]) -> None:
        chunk, held.buffer = _read(tensor, shape, *place, getattr(held, "buffer", None))
        work(chunk)
        if told is not None:
            told(chunk.values.size * tensor.nbytes // max(tensor.row_count * tensor.row_length, 1))

    if len(places) < 4 or math.prod(shape) <= CHUNK_CELLS:
        # Less than a chunk in all is done before threads have started.
        for place in places:
            one(place)
        return
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(one, places):
            pass


def _read(
    tensor: Tensor, shape: Shape, batch: int, heads: tuple[int, int], rows: tuple[int, int], buffer: Array | None
) -> tuple[Chunk, Array]:
    queries, keys = shape[2:]
    count = (heads[1] - heads[0]) * (rows[1] - rows[0])
    if buffer is None or len(buffer) < count:
        buffer = np.empty((count, keys), tensor.row_dtype)
    start = (batch * shape[1] + heads[0]) * queries + rows[0]
    values = tensor.rows(start, start + count, buffer).reshape(heads[1] - heads[0], rows[1] - rows[0], keys)
    return Chunk(batch, heads, rows, values), buffer


def measure(tensor: Tensor, shape: Shape, probes: Mapping[str, Mask]) -> Measured:
    """One pass over a tensor seen as [B, H, Q, K]: row sums and extremes, and the mass outside of each probe mask."""
    rows = shape[:3]
    kind = np.float64 if tensor.row_dtype == np.float64 else np.float32
    total, high, low = np.empty(rows, kind), np.empty(rows, kind), np.empty(rows, kind)
    mass = {name: np.empty(rows, kind) for name in probes}

    def work(chunk: Chunk) -> None:
        place = (chunk.batch, slice(*chunk.heads), slice(*chunk.rows))
        with np.errstate(invalid="ignore", over="ignore"):
            total[place] = chunk.values.sum(axis=2)
            high[place] = chunk.values.max(axis=2)
            low[place] = chunk.values.min(axis=2)
            for name, mask in probes.items():
                mass[name][place] = outside(chunk, mask)

    each_chunk(tensor, shape, work)
    return Measured(total, high, low, mass)


def outside(chunk: Chunk, mask: Mask) -> Array:
    """The mass of each row of a chunk on keys that `mask` ignores, [heads, rows]."""
    found = np.zeros(chunk.values.shape[:2])
    for at, head in enumerate(range(*chunk.heads) if mask.stored[1] > 1 else [0]):
        part = slice(at, at + 1) if mask.stored[1] > 1 else slice(None)
        for start, stop, who in mask.ignored(chunk.rows, chunk.batch, head):
            span = chunk.values[part, :, start:stop]
            found[part] += span.sum(axis=2) if who is None else span.sum(axis=2, where=who)
    return found


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


def axis_sums(tensor: Tensor, shape: Shape) -> dict[str, Array]:
    """What a softmax over a wrong axis makes 1: sums over queries [B, H, K], over heads [B, q, K], over the batch [H, q, K].

    The last two look at the first rows only, as many as fit into a chunk.
    """
    batch, heads, queries, keys = shape
    first = min(queries, max(1, CHUNK_CELLS // (max(batch, heads) * keys)))
    sums = {
        "queries": np.zeros((batch, heads, keys)),
        "heads": np.zeros((batch, first, keys)),
        "batch": np.zeros((heads, first, keys)),
    }
    for chunk in read_chunks(tensor, shape):
        head, (low, high) = slice(*chunk.heads), chunk.rows
        sums["queries"][chunk.batch, head] += chunk.values.sum(axis=1)
        if low < first:
            shown = chunk.values[:, : first - low]
            sums["heads"][chunk.batch, low : min(high, first)] += shown.sum(axis=0)
            sums["batch"][head, low : min(high, first)] += shown
    return sums


def column_mass(tensor: Tensor, shape: Shape, rows: Array) -> Array:
    """The mass that flagged rows [B, H, Q] give each key, [B, K]; rows with NaN count as nothing."""
    mass = np.zeros((shape[0], shape[3]))
    for chunk in read_chunks(tensor, shape):
        flagged = rows[chunk.batch, slice(*chunk.heads), slice(*chunk.rows)]
        mass[chunk.batch] += np.nan_to_num(chunk.values[flagged]).sum(axis=0)
    return mass


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
