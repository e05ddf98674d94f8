"""Keys that nn.MultiheadAttention adds to those of the tokens: a learned one, and one of zeros."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.meant.facts import Declared
from maskcli.padding import edge_padding
from maskcli.scene.saved_mask import read_padding
from maskcli.tensors import Kind, Roled, Tensor, from_array
from maskcli.tracing.calls import Call, Hidden, Torch

# A mask that is inverted; beside keys that every query sees, weights do not show it.
INVERTED = "MSK102"


def added_in_front(call: Call, count: int) -> Call:
    """A call whose last keys are no tokens, with these in front, where virtual tokens stand."""

    def turned(tensor: Torch | Tensor, axis: int) -> Torch | Tensor:
        return tensor if isinstance(tensor, Tensor) else tensor.detach().roll(count, axis)

    def masks() -> dict[str, Torch | Tensor]:
        return {name: turned(mask, -1) for name, mask in call.masks().items()}

    weights = call.weights
    if isinstance(weights, Hidden):
        masked = weights.masked

        def moved(scores: Torch, ranges: Sequence[range]) -> Torch:
            return masked(scores.roll(-count, -1), ranges).roll(count, -1)

        weights = dataclasses.replace(weights, key=turned(weights.key, -2), masked=moved)
    elif call.by_hand:
        weights = turned(weights, -1)
    else:
        return call
    operands = {
        role: turned(tensor, -2) if role in ("key", "value") else tensor
        for role, tensor in call.operands.items()
    }
    return dataclasses.replace(call, weights=weights, operands=operands, masks=masks, added=count)


def tokens_behind(
    added: int, tokens: tuple[Roled, ...], of_keys: Collection[Kind], declared: Declared
) -> tuple[Roled, ...]:
    """What is said of the tokens where so many keys that are none stand before those of some sides.

    One padding mask then speaks of all keys, [B, added + L]; those that were added are real.
    """
    own = [each for each in tokens if each.role in ("padding_mask", "input_ids") and each.kind in of_keys]
    others = tuple(each for each in tokens if each not in own)
    by_ids = next((known for each in own if (known := _by_ids(each, declared))), None)
    by_mask = next((known for each in own if (known := _by_mask(each, declared))), None)
    inverted = by_ids is not None and by_mask is not None and _is_inverse(by_mask.real, by_ids.real)
    known = by_ids if by_mask is None or inverted else by_mask
    if known is None:
        return others
    whole = np.pad(known.real, ((0, 0), (added, 0)), constant_values=True).astype(np.int64)
    mask = dataclasses.replace(
        known.told_by, role="padding_mask", tensor=from_array(known.told_by.tensor.name, whole)
    )
    return (*others, mask)


def mask_behind(added: int, mask: Roled) -> Roled:
    """A mask [.., K] over the keys of the tokens alone."""
    tensor = mask.tensor
    return dataclasses.replace(mask, tensor=from_array(tensor.name, tensor.read()[..., added:]))


class _Real(NamedTuple):
    """Which tokens are no padding, bool [B, L], and what tells."""

    real: Array
    told_by: Roled


def _by_ids(ids: Roled, declared: Declared) -> _Real | None:
    if ids.role != "input_ids" or declared.pad_id is None:
        return None
    return _Real(edge_padding(ids.tensor.read(), declared.pad_id), ids)


def _by_mask(mask: Roled, declared: Declared) -> _Real | None:
    real = read_padding(mask, declared.convention) if mask.role == "padding_mask" else None
    return None if real is None else _Real(real, mask)


def _is_inverse(real: Array, other: Array) -> bool:
    return real.shape == other.shape and bool((real == ~other).all())
