"""Saved tensors in the order of axes that everything else sees: maps [B, H, Q, K], states [B, H, L, D]."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.errors import MaskcliError
from maskcli.scene.witnesses import token_length
from maskcli.tensors import Roled, Tensor
from maskcli.tensors.orders import permuted, regrouped, split_heads

MAPS = ("weights", "scores", "mask")
STATES = ("query", "key", "value", "output")
# How far the sum of a row of healthy weights may lie from 1 in any type, and the share of sums that have to
# be near it.
NEAR, NEARLY_ALL = 0.05, 0.9
# Cells of one plane that are read to see along which axis it sums to 1.
PLANE = 2**22

GROUPS = "[B, G, H/G, Q, K]"
TRANSPOSED = "[B, H, K, Q]"
HEADS_BEHIND = "[B, Q, H, K]"
JOINED = "[B, L, H*D]"
USUAL = "[B, H, L, D]"
# Orders in which states are saved, as numpy's transpose takes them to the usual one.
ORDERS = {
    (0, 1, 2, 3): USUAL,
    (0, 2, 1, 3): "[B, L, H, D]",
    (1, 2, 0, 3): "[L, B, H, D]",
    (0, 1, 3, 2): "[B, H, D, L]",
}


def in_usual_order(tensors: tuple[Roled, ...]) -> tuple[Roled, ...]:
    """The same tensors; those whose axes are told to stand in another order are read in the usual one."""
    length = token_length(tensors)
    arranged = tuple(_map(each, length) if each.role in MAPS else each for each in tensors)
    maps = [each for each in arranged if each.role == "weights" and len(each.tensor.shape) == 4]
    return tuple(_beside(each, maps, length) if each.role in STATES else each for each in arranged)


def _map(roled: Roled, length: int | None) -> Roled:
    """A map, scores or a mask over queries and keys as [B, H, Q, K]."""
    tensor = roled.tensor
    shape = tensor.shape
    if roled.unfit is not None or 0 in shape:
        return roled
    if len(shape) == 5:
        return replace(roled, tensor=regrouped(tensor, (shape[0], shape[1] * shape[2]), GROUPS))
    if roled.role != "weights" or len(shape) not in (3, 4):
        return roled

    try:
        if _is_transposed(tensor):
            leading = tuple(range(len(shape) - 2))
            order = (*leading, len(shape) - 1, len(shape) - 2)
            return replace(roled, tensor=permuted(tensor, order, TRANSPOSED))
        if len(shape) == 4 and _has_heads_behind(tensor, roled.kind, length):
            return replace(roled, tensor=permuted(tensor, (0, 2, 1, 3), HEADS_BEHIND))
    except MaskcliError:
        # What cannot be read is said where it is read.
        pass
    return roled


def _is_transposed(tensor: Tensor) -> bool:
    """Whether columns sum to 1 and rows do not, and the map is no softmax over the wrong axis.

    There are fewer columns than rows, or nothing stands below the diagonal, where a causal mask lets look.
    """
    rows, columns = tensor.shape[-2:]
    if rows < columns or rows == 1 or rows * columns > PLANE:
        return False
    last = tensor.rows(rows - 1, rows)
    if not np.isfinite(last).all() or abs(float(last.sum()) - 1) <= NEAR:
        return False

    plane = tensor.rows(0, rows).astype(np.float64)
    if not (_sums_to_one(plane.sum(axis=0)) and not _sums_to_one(plane.sum(axis=1))):
        return False
    # Behind a mask with a finite fill, padding has columns of equal weights.
    below = np.tril(plane, -1)[:, plane.max(axis=0) != plane.min(axis=0)]
    return rows > columns or (not below.any() and bool(np.triu(plane, 1).any()))


def _sums_to_one(sums: Array) -> bool:
    return float((np.abs(sums - 1) <= NEAR).mean()) >= NEARLY_ALL


def _has_heads_behind(tensor: Tensor, kind: str, length: int | None) -> bool:
    """Whether [B, N, M, K] is [B, Q, H, K]: N is the keys' number, and what would be heads look like queries.

    By a causal mask, that hides from the n-th all behind it, or because the tokens beside it are as many and
    the first of M does not see less than the others, as the earliest of several new queries would.
    """
    _, several, inner, keys = tensor.shape
    if several != keys or inner == keys or keys < 2:
        return False
    middle = (keys - 1) // 2
    ahead = [np.nan_to_num(tensor.read((slice(None), at)))[:, :, at + 1 :] for at in (0, middle)]
    last = np.nan_to_num(tensor.read((slice(None), keys - 1)))[:, :, middle + 1 :]
    if not any(values.any() for values in ahead):
        return bool(last.any())
    newest = np.nan_to_num(tensor.read((slice(None), slice(None), 0)))[:, :, keys - 1]
    return kind != "cross" and inner > 1 and length == keys and bool(newest.any())


def _beside(roled: Roled, maps: list[Roled], length: int | None) -> Roled:
    """A state in the order of its map's axes; without a map its tokens tell how long it is."""
    alike = [each for each in maps if each.kind == roled.kind]
    near = [each for each in alike if roled.layer is None or each.layer in (None, roled.layer)]
    mine = [each for each in near if each.group == roled.group] or near
    if mine:
        batch, heads, queries, keys = mine[0].tensor.shape
        asks = roled.role in ("query", "output")
        tensor = _state(roled.tensor, (batch, heads, queries, keys), asks)
    else:
        tensor = _by_length(roled.tensor, length)
    return roled if tensor is roled.tensor else replace(roled, tensor=tensor)


def _state(tensor: Tensor, sizes: Shape, asks: bool) -> Tensor:
    """A query or output (which `asks`), a key or value of a map [B, H, Q, K] as [B, H, L, D]."""
    batch, heads, queries, keys = sizes
    length = queries if asks else keys
    if len(tensor.shape) == 3:
        return _joined(tensor, batch, heads, length, asks)
    if len(tensor.shape) != 4 or 0 in tensor.shape:
        return tensor

    for order, saved in ORDERS.items():
        items, several, tokens, _ = (tensor.shape[axis] for axis in order)
        shared = several == heads if asks else heads % several == 0
        if (items, tokens) == (batch, length) and shared:
            return tensor if saved == USUAL else permuted(tensor, order, saved)
    return tensor


def _joined(tensor: Tensor, batch: int, heads: int, length: int, asks: bool) -> Tensor:
    """A state of three axes by its heads, where these are one with the batch or the width."""
    shape = tensor.shape
    if heads > 1 and shape[:2] == (batch * heads, length):
        return regrouped(tensor, (batch, heads), "[B*H, L, D]")
    side_by_side = heads > 1 and shape[2] % heads == 0
    return (
        split_heads(tensor, heads, JOINED)
        if asks and side_by_side and shape[:2] == (batch, length)
        else tensor
    )


def _by_length(tensor: Tensor, length: int | None) -> Tensor:
    """Of [B, L, H, D] and [B, H, L, D] that in which L is the number of tokens, where only one is."""
    shape = tensor.shape
    if len(shape) != 4 or shape[1] != length or shape[2] == length:
        return tensor
    return permuted(tensor, (0, 2, 1, 3), "[B, L, H, D]")
