"""What stands on each axis of a saved tensor. The only reader of axes: everything else sees [B, H, Q, K]."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.tensors.tensor import Tensor

# Rows of tokens are small; a "padding mask" of more cells than this is none.
MAX_TOKEN_CELLS = 2**28


class Cell(NamedTuple):
    """A place in [B, H, Q, K]; None where the tensor has no such axis."""

    batch: int | None
    head: int | None
    query: int
    key: int


def map_shape(shape: tuple[int, ...], batch: int | None = None) -> Shape | None:
    """[B, H, Q, K] of attention weights or scores of two to four axes that are not empty; None for others.

    Three axes are [H, Q, K]; with a `batch` that divides the first, they are [B, Q, K] or [B*H, Q, K].

    >>> map_shape((6, 4, 4), batch=2)
    (2, 3, 4, 4)
    """
    if not 2 <= len(shape) <= 4 or 0 in shape:
        return None

    queries, keys = shape[-2:]
    if len(shape) == 4:
        return shape[0], shape[1], queries, keys
    if len(shape) == 2:
        return 1, 1, queries, keys
    if batch is not None and shape[0] % batch == 0:
        return batch, shape[0] // batch, queries, keys
    return 1, shape[0], queries, keys


def mask_shape(shape: tuple[int, ...], *, over_keys: bool = False, heads: int = 1) -> Shape | None:
    """[b, h, q, K] of a mask of one to four axes, 1 where it says the same for all; None for others.

    Two axes are [Q, K], or [B, K] when the mask lies `over_keys` as a padding mask does. Three are [B, Q, K],
    or [B*H, Q, K] of so many `heads`.

    >>> mask_shape((2, 9), over_keys=True)
    (2, 1, 1, 9)
    """
    if not 1 <= len(shape) <= 4:
        return None
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    if len(shape) == 3:
        return shape[0] // heads, heads, shape[1], shape[2]

    keys = shape[-1]
    if len(shape) == 1:
        return 1, 1, 1, keys
    return (shape[0], 1, 1, keys) if over_keys else (1, 1, shape[0], keys)


def state_shape(shape: tuple[int, ...]) -> Shape | None:
    """[B, H, L, D] of a query, key or value: four axes as they are, three are [B, L, D]; None for others."""
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    return (shape[0], 1, shape[1], shape[2]) if len(shape) == 3 else None


def token_rows(tensor: Tensor) -> Array | None:
    """What is said of tokens as [B, L]: a vector is one row, middle axes of size 1 vanish; else None."""
    shape = tensor.shape
    if any(size != 1 for size in shape[1:-1]) or not shape or not 0 < math.prod(shape) <= MAX_TOKEN_CELLS:
        return None
    rows = 1 if len(shape) == 1 else shape[0]
    values = tensor.read().reshape(rows, shape[-1])
    # Differences of small numbers, and of those without a sign, would wrap around.
    return values.astype(np.int64, copy=False) if values.dtype.kind in "iu" else values


def cell_of(index: tuple[int, ...]) -> Cell:
    """Where an index of a tensor of two to four axes lies: [Q, K], [B, Q, K] or [B, H, Q, K]."""
    query, key = index[-2:]
    batch = index[0] if len(index) >= 3 else None
    head = index[1] if len(index) == 4 else None
    return Cell(batch, head, query, key)
