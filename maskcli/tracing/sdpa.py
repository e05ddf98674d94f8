"""torch's scaled_dot_product_attention: its mask, and the weights that its kernels keep to themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.tensors import Computed, Tensor
from maskcli.tracing.calls import Call, Hidden, Torch, cut, four_axes
from maskcli.tracing.modules import Modules


def of_sdpa(
    modules: Modules,
    output: Torch,
    query: Torch,
    key: Torch,
    value: Torch,
    attn_mask: Torch | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Call:
    """A call, by what it returned and its arguments.

    Where a step of one token a sample shows several queries all the same, they are the heads that share a key
    head, [B, Hk, H / Hk, D], as some models call it when they decode.
    """
    graph = {"query": query, "key": key, "value": value, "output": output}
    mask = None
    if attn_mask is not None:
        # The axes of a mask are aligned with the last ones of the query.
        attn_mask = attn_mask.detach()
        mask = four_axes(attn_mask[(None,) * (query.ndim - attn_mask.ndim)])
    query, key, value, output = (four_axes(tensor.detach()) for tensor in graph.values())
    several = query.shape[2] > 1 and query.shape[1] == key.shape[1]
    shared = several and modules.step.decodes(len(query))
    if shared and (mask is None or mask.shape[2] == 1):
        query, output = (tensor.flatten(1, 2)[:, :, None] for tensor in (query, output))
    queries, keys = query.shape[2], key.shape[2]

    def masked(scores: Torch, ranges: Sequence[range]) -> Torch:
        import torch

        if mask is not None:
            part = cut(mask.expand(*query.shape[:3], keys), ranges[:3])
            scores = scores.masked_fill(~part, -math.inf) if part.dtype == torch.bool else scores + part
        if is_causal:
            ahead = torch.from_numpy(~_causal([ranges[2], range(keys)]))
            scores = scores.masked_fill(ahead.to(scores.device), -math.inf)
        return scores

    def masks() -> dict[str, Torch | Tensor]:
        if attn_mask is not None:
            return {"attn_mask": attn_mask if attn_mask.ndim == 2 else mask}
        if is_causal:
            lower = Computed((queries, keys), lambda ranges: _causal(ranges).view(np.uint8))
            return {"is_causal": Tensor("", "bool", (queries, keys), lower)}
        return {}

    weights = Hidden(query, key, masked, scale)
    operands = {"query": query, "key": key, "value": value, "output": output}
    return Call("scaled_dot_product_attention", weights, operands, masks, graph, dropped=bool(dropout_p))


def of_operator(modules: Modules, operator: Any, result: Any, *args: Any, **kwargs: Any) -> Call:
    """A call of one of torch's operators below it, whose arguments have the names of its schema."""
    overload = getattr(operator, "default", operator)
    names = [argument.name for argument in overload._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    output = result[0] if isinstance(result, tuple | list) else result
    return of_sdpa(
        modules,
        output,
        given["query"],
        given["key"],
        given["value"],
        attn_mask=given.get("attn_mask", given.get("attn_bias")),
        dropout_p=given.get("dropout_p", 0.0),
        is_causal=given.get("is_causal", False),
        scale=given.get("scale"),
    )


def _causal(ranges: Sequence[range]) -> Array:
    """k <= q: torch's is_causal counts from the first key, whatever lies before the queries."""
    rows, keys = (np.arange(part.start, part.stop, part.step) for part in ranges)
    allowed: Array = keys <= rows[:, None]
    return allowed
