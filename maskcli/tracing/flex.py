"""FlexAttention: its mask_mod and score_mod asked about the cells that a rule reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from maskcli.tensors import Computed, Tensor
from maskcli.tracing.calls import Call, Torch, quietly

Mod = Callable[..., Torch]


def of_flex(
    query: Torch,
    key: Torch,
    value: Torch,
    score_mod: Mod,
    block_mask: tuple[Any, ...],
    scale: float,
    output: Torch,
) -> Call:
    """A call of flex_attention, by what it hands to its kernel: the block mask comes as a tuple that ends in its mask_mod.

    The block mask says in the shape of its third part, [B, H, ..], whether samples or heads differ. The mods are called with
    index tensors that broadcast to [B, H, Q, K].
    """
    mask_mod: Mod = block_mask[-1]
    nothing = getattr(mask_mod, "__name__", "") == "noop_mask"
    shape = (*(int(size) for size in block_mask[2].shape[:2]), query.shape[2], key.shape[2])

    def scores(plain: Torch, ranges: Sequence[range]) -> Torch:
        at = _indices((*ranges[:3], range(shape[3])), plain.device)
        plain = score_mod(plain, *at)
        return plain if nothing else plain.masked_fill(~mask_mod(*at), -math.inf)

    def masks() -> dict[str, Torch | Tensor]:
        return {} if nothing else {"block_mask": Tensor("", "bool", shape, Computed(shape, attended))}

    def attended(ranges: Sequence[range]) -> Any:
        with quietly():
            cells = mask_mod(*_indices(ranges, query.device)).cpu().numpy()
        return np.broadcast_to(cells, tuple(map(len, ranges))).astype(np.uint8)

    graph = (("output", output), ("query", query), ("key", key), ("value", value))
    q, k, v, out = (each.detach() for each in (query, key, value, output))
    return Call("flex_attention", q, k, v, out, None, masks, scores, scale, False, graph)


def _indices(ranges: Sequence[range], device: Any) -> tuple[Torch, ...]:
    """The indices on each of four axes, as tensors that broadcast to all of them."""
    import torch

    shapes = ((-1, 1, 1, 1), (1, -1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1))
    return tuple(
        torch.tensor(each, device=device).reshape(shape)
        for each, shape in zip(map(list, ranges), shapes, strict=True)
    )
