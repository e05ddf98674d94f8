"""FlexAttention: its mask_mod and score_mod asked about the cells that a rule reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.tensors import Computed, Tensor
from maskcli.tracing.calls import Call, Hidden, Torch, quietly
from maskcli.tracing.modules import Modules

Mod = Callable[..., Torch]


def of_flex(
    _: Modules,
    returned: tuple[Torch, ...],
    query: Torch,
    key: Torch,
    value: Torch,
    score_mod: Mod,
    block_mask: tuple[Any, ...],
    scale: float,
    *__: Any,
) -> Call:
    """A call, by what its kernel returned and is handed.

    The block mask comes as a tuple that ends in its mask_mod, and says in the shape of its third part, [B, H,
    ..], whether samples or heads differ. The mods are called with index tensors that broadcast to [B, H, Q,
    K].
    """
    graph = {"query": query, "key": key, "value": value, "output": returned[0]}
    operands = {name: tensor.detach() for name, tensor in graph.items()}
    query, key = operands["query"], operands["key"]
    mask_mod: Mod = block_mask[-1]
    unmasked = getattr(mask_mod, "__name__", "") == "noop_mask"
    keys = key.shape[2]
    shape = (*(int(size) for size in block_mask[2].shape[:2]), query.shape[2], keys)

    def masked(scores: Torch, ranges: Sequence[range]) -> Torch:
        indices = _indices((*ranges[:3], range(keys)), scores.device)
        scores = score_mod(scores, *indices)
        return scores if unmasked else scores.masked_fill(~mask_mod(*indices), -math.inf)

    def attended(ranges: Sequence[range]) -> Array:
        with quietly():
            cells = mask_mod(*_indices(ranges, query.device)).cpu().numpy()
        return np.broadcast_to(cells, tuple(map(len, ranges))).astype(np.uint8)

    def masks() -> dict[str, Torch | Tensor]:
        return {} if unmasked else {"block_mask": Tensor("", "bool", shape, Computed(shape, attended))}

    weights = Hidden(query, key, masked, scale)
    return Call("flex_attention", weights, operands, masks, graph, dropped=False)


def _indices(ranges: Sequence[range], device: Any) -> tuple[Torch, ...]:
    """The indices on each of four axes, as tensors that broadcast to all of them."""
    import torch

    shapes = ((-1, 1, 1, 1), (1, -1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1))
    return tuple(
        torch.tensor(list(part), device=device).reshape(shape)
        for part, shape in zip(ranges, shapes, strict=True)
    )
