"""Small questions asked of a whole tensor in one pass each; nothing here judges the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.measure.passes import Chunk, each_chunk, read_chunks, rows_at_once
from maskcli.tensors import Tensor


def uniform_rows(tensor: Tensor, shape: Shape, high: Array) -> Array:
    """How many keys share a row's largest weight while all others weigh 0, int64 [B, H, Q]; else 0."""
    support = np.zeros(shape[:3], np.int64)

    def work(chunk: Chunk) -> None:
        top = high[chunk.place][..., None]
        equal = (chunk.values == top.astype(chunk.values.dtype)) & (top > 0)
        counts = equal.sum(axis=2)
        support[chunk.place] = np.where((equal | (chunk.values == 0)).all(axis=2), counts, 0)

    each_chunk(tensor, shape, work)
    return support


def query_sums(tensor: Tensor, shape: Shape) -> Iterator[Array]:
    """The sums over queries [K] float64 of one head after the other, item by item; read as they are asked."""
    queries, keys = shape[2:]
    step = rows_at_once(keys)
    for plane in range(shape[0] * shape[1]):
        sums = np.zeros(keys)
        for start in range(plane * queries, (plane + 1) * queries, step):
            sums += tensor.rows(start, min(start + step, (plane + 1) * queries)).sum(axis=0)
        yield sums


def first_sums(tensor: Tensor, shape: Shape) -> tuple[Array, Array]:
    """The sums over heads [B, q, K] and over the batch [H, q, K], float64, of the first chunk of queries."""
    batch, heads, queries, keys = shape
    shown = min(queries, rows_at_once(max(batch, heads) * keys))
    over_heads, over_batch = np.zeros((batch, shown, keys)), np.zeros((heads, shown, keys))
    for item in range(batch):
        for head in range(heads):
            start = (item * heads + head) * queries
            values = tensor.rows(start, start + shown)
            over_heads[item] += values
            over_batch[head] += values
    return over_heads, over_batch


def column_mass(tensor: Tensor, shape: Shape, rows: Array) -> Array:
    """The mass that flagged rows [B, H, Q] give each key, float64 [B, H, K]; NaN counts as nothing."""
    mass = np.zeros((shape[0], shape[1], shape[3]))
    for chunk in read_chunks(tensor, shape):
        heads = range(*chunk.heads)
        for head, values, flagged in zip(heads, chunk.values, rows[chunk.place], strict=True):
            mass[chunk.batch, head] += np.nan_to_num(values[flagged]).sum(axis=0, dtype=np.float64)
    return mass


def last_key(tensor: Tensor, shape: Shape) -> int | None:
    """The last key that any row weighs, exactly uniform rows aside; None when there is none.

    The last rows are looked at first, and nothing more once one of them weighs the last key.
    """
    last = -1
    for chunk in read_chunks(tensor, shape, backwards=True):
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
        counts[chunk.place] = np.isnan(chunk.values).sum(axis=2)

    each_chunk(tensor, shape, work)
    return counts


def row_chunks(tensor: Tensor) -> Iterator[tuple[int, Array]]:
    """The rows of a tensor of any shape, in pieces: the number of the first row, and values [n, K]."""
    step = rows_at_once(tensor.row_length)
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
    """Which rows of a tensor hold a cell for which `bad` says True, bool in the shape of its leading axes."""
    parts = [bad(values).any(axis=1) for _, values in row_chunks(tensor)]
    flags: Array = np.concatenate(parts) if parts else np.zeros(0, bool)
    return flags.reshape(tensor.shape[:-1])
