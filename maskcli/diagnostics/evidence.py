"""What one pass over the data yields. Every rule reads these numbers; nothing here judges them."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskcli.masks.conventions import LOWEST, SILENT, attended
from maskcli.masks.mask import Mask, Shape
from maskcli.tensors import Tensor

Array = npt.NDArray[Any]

# Cells of a chunk that is read and measured in one go (4 MiB as float32): larger ones leave the cache, smaller ones cost calls.
CHUNK_CELLS = 2**20
# A mask tensor with more distinct values than this is a bias, not a mask.
MANY_VALUES = 16

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
    """Per row of a weights tensor, each [B, H, Q] float64: the sum, the largest and smallest weight, and for each probe
    mask the sum over the keys that it ignores. NaN where the row holds NaN.
    """

    total: Array
    high: Array
    low: Array
    mass: dict[str, Array]


@dataclass(frozen=True)
class Given:
    """A saved mask tensor, read: which convention it is in and why, its distinct values, and the cells it lets attend.

    `values` are at most MANY_VALUES sorted distinct finite values, None when there are more. `reasons` is one of
    "declared", "name", "values", "shape", "weights", "assumed".
    """

    tensor: Tensor
    shape: Shape
    convention: str
    reason: str
    values: tuple[float, ...] | None
    nan: tuple[int, ...] | None
    minus_inf: bool
    plus_inf: bool
    keep: Mask

    @property
    def fill(self) -> float | None:
        """What an additive mask puts on ignored cells: the lowest of its values."""
        if self.convention != "additive":
            return None
        if self.minus_inf:
            return -np.inf
        return self.values[0] if self.values else None


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

    if len(places) < 4:
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
    total, high, low = np.empty(rows), np.empty(rows), np.empty(rows)
    mass = {name: np.empty(rows) for name in probes}

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


def read_mask(tensor: Tensor, shape: Shape, declared: str | None, real: Array | None, past: int | None) -> Given:
    """A mask tensor seen as [B, H, Q, K], read in the declared convention or in the one its values and name call for.

    A bool mask says nothing of its polarity: without a declaration, a name (`key_padding_mask`) or evidence in `real`
    (bool [B, K]) and the diagonal, True is taken for attend, as torch's SDPA does.
    """
    seen, nan, minus_inf, plus_inf = _distinct(tensor)
    convention, reason = _reading(tensor, seen, minus_inf, declared)
    threshold = _threshold(seen, minus_inf)
    keep = _keep(tensor, shape, convention, threshold)
    if reason == "assumed":
        upright, inverted = _speaks_for(keep, real, past), _speaks_for(~keep, real, past)
        if not keep.attended:
            # Read as attend it hides every key from everybody; read as ignore it hides nothing.
            upright, inverted = False, True
        if upright != inverted:
            convention, reason, keep = ("sdpa", "shape", keep) if upright else ("mha", "shape", ~keep)
    return Given(tensor, shape, convention, reason, seen, nan, minus_inf, plus_inf, keep)


def by_weights(given: Given, weights: Tensor, shape: Shape) -> Given:
    """A bool mask whose polarity nothing else tells, turned around when the weights obey its inverse and not itself."""
    keep = given.keep.broadcast_to(shape)
    if given.reason != "assumed" or keep is None:
        return given
    mass = measure(weights, shape, {"keep": keep, "inverse": ~keep}).mass
    rows = np.broadcast_to((keep.keys_per_query > 0) & (keep.keys_per_query < shape[3]), shape[:3])
    if not rows.any() or not np.isfinite(mass["keep"][rows]).any():
        return given
    if np.nanmean(mass["inverse"][rows]) < 1e-6 and np.nanmean(mass["keep"][rows]) > 0.5:
        return dataclasses.replace(given, convention="mha", reason="weights", keep=~given.keep)
    return given


def fills_only(weights: Tensor, shape: Shape, keys: int) -> bool:
    """Whether no row but exactly uniform ones weighs any key from `keys` on: the empty slots of a static cache."""
    front = Mask.from_intervals(shape, np.zeros((1, 1, 1), np.int64), np.full((1, 1, 1), keys))
    measured = measure(weights, shape, {"tail": front})
    told = measured.high != measured.low
    return bool(told.any()) and not measured.mass["tail"][told].any()


def _distinct(tensor: Tensor) -> tuple[tuple[float, ...] | None, tuple[int, ...] | None, bool, bool]:
    """Distinct finite values (None: many), the first NaN, and whether -inf and +inf occur. Booleans are not read for this."""
    if tensor.dtype == "bool":
        return (False, True), None, False, False
    known: set[float] = set()
    many = minus = plus = False
    nan = None
    for start, values in row_chunks(tensor):
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                if nan is None and np.isnan(values).any():
                    nan = _index(tensor, start, np.isnan(values))
                minus, plus = minus or bool((values == -np.inf).any()), plus or bool((values == np.inf).any())
                values = values[finite]
        rest = values.ravel()
        for value in known:
            rest = rest[rest != value]
        while rest.size and not many:
            value = rest[0].item()
            known.add(value)
            many = len(known) > MANY_VALUES
            rest = rest[rest != value]
    return (None if many else tuple(sorted(known))), nan, minus, plus


def _reading(tensor: Tensor, seen: tuple[float, ...] | None, minus_inf: bool, declared: str | None) -> tuple[str, str]:
    if declared is not None:
        return declared, "declared"
    if tensor.dtype == "bool":
        padding_name = "key_padding_mask" in tensor.name.rpartition(".")[2]
        return ("mha", "name") if padding_name else ("sdpa", "assumed")
    if tensor.dtype in LOWEST or tensor.dtype.startswith("float8"):
        binary = seen is not None and not minus_inf and set(seen) <= {0.0, 1.0} and 1.0 in seen
        return ("binary", "values") if binary else ("additive", "values")
    return "hf", "values"


def _threshold(seen: tuple[float, ...] | None, minus_inf: bool) -> float:
    """Additive values above this attend. A mask of 0 and one weak fill is still split between the two, as it was meant."""
    if seen is not None and not minus_inf and len(seen) == 2 and seen[1] == 0.0:
        return seen[0] / 2
    return SILENT


def _keep(tensor: Tensor, shape: Shape, convention: str, threshold: float) -> Mask:
    return Mask.from_dense_rows(shape, (attended(values, convention, threshold) for _, values in row_chunks(tensor)))


def _speaks_for(keep: Mask, real: Array | None, past: int | None) -> bool:
    """Whether a reading of a bool mask makes sense by itself: it hides exactly the padding, or everything behind a query."""
    if real is not None and not real.all() and keep.shape[1:3] == (1, 1) and keep.shape[::3] == real.shape:
        return keep == Mask.from_dense(real[:, None, None, :])
    queries, keys = keep.shape[2:]
    if queries < 2 or not keep.attended:
        return False
    positions = np.arange(queries).reshape(1, 1, -1) + (max(keys - queries, 0) if past is None else past)
    return (keep - Mask.from_intervals(keep.shape, np.zeros(1, np.int64), positions + 1)).attended == 0
