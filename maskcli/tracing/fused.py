"""The fast paths of nn.TransformerEncoderLayer and nn.MultiheadAttention: whole layers in one function.

Nothing inside of them can be watched; queries and keys are projected once more beside them, when weights are
read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from maskcli.tensors import Tensor
from maskcli.tracing.calls import Call, Hidden, Torch, cut, quietly
from maskcli.tracing.modules import Modules

# What mask_type says of a mask: [Q, K], [B, K], or [B, H, Q, K]; True, or -inf, is ignored.
_QUERIES, _PADDING = 0, 1


def of_encoder_layer(
    _: Modules,
    output: Torch,
    src: Torch,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Torch,
    qkv_bias: Torch,
    proj_weight: Torch,
    proj_bias: Torch,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Torch,
    norm_bias_1: Torch,
    *more: Any,
    **named: Any,
) -> Call:
    """A layer of nn.TransformerEncoder, whose attention is its module `self_attn`."""
    import torch

    mask, mask_type = (*more[6:], None, None)[:2]
    with quietly():
        states, absent = _padded(src)
        if norm_first:
            states = torch.layer_norm(states, (embed_dim,), norm_weight_1, norm_bias_1, eps)
    packed = _Packed(num_heads, qkv_weight, qkv_bias)
    mask, mask_type = named.get("mask", mask), named.get("mask_type", mask_type)
    return _call(packed, (states, states, states), output, mask, mask_type, absent, ".self_attn")


def of_multi_head(
    _: Modules,
    returned: tuple[Torch, Torch | None],
    query: Torch,
    key: Torch,
    value: Torch,
    embed_dim: int,
    num_head: int,
    qkv_weight: Torch,
    qkv_bias: Torch,
    proj_weight: Torch,
    proj_bias: Torch,
    mask: Torch | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> Call:
    """nn.MultiheadAttention."""
    with quietly():
        states, absent = _padded(query)
        others = [states if each is query else _padded(each)[0] for each in (key, value)]
    packed = _Packed(num_head, qkv_weight, qkv_bias)
    return _call(packed, (states, *others), returned[0], mask, mask_type, absent, "")


class _Packed:
    """The projections of queries, keys and values, in one matrix."""

    def __init__(self, heads: int, weight: Torch, bias: Torch | None) -> None:
        self.heads, self.weights = heads, weight.detach().chunk(3)
        self.biases = bias.detach().chunk(3) if bias is not None else (None, None, None)

    def of(self, at: int, states: Torch) -> Torch:
        """[B, H, L, D] of [B, L, E]."""
        import torch

        made = torch._C._nn.linear(states.detach(), self.weights[at], self.biases[at])
        batch, length, width = made.shape
        return made.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


def _call(
    packed: _Packed,
    states: Sequence[Torch],
    output: Torch,
    mask: Torch | None,
    mask_type: int | None,
    absent: Torch | None,
    inside: str,
) -> Call:
    with quietly():
        query, key, value = (packed.of(at, each) for at, each in enumerate(states))
    ignored = mask.detach().bool() if mask is not None else absent
    if ignored is not None and ignored.ndim == 2:
        of_queries = mask is not None and mask_type == _QUERIES
        ignored = ignored[None, None] if of_queries else ignored[:, None, None]

    def masked(scores: Torch, ranges: Sequence[range]) -> Torch:
        if ignored is None:
            return scores
        part = cut(ignored.expand(*query.shape[:3], key.shape[2]), ranges[:3])
        return scores.masked_fill(part, -math.inf)

    def masks() -> dict[str, Torch | Tensor]:
        return {} if ignored is None else {"attn_mask": ~ignored}

    with quietly():
        shown = output.to_padded_tensor(0.0) if output.is_nested else output
    operands = {"query": query, "key": key, "value": value, "output": shown.detach()}
    weights = Hidden(query, key, masked, None)
    return Call("fused attention", weights, operands, masks, {"output": output}, dropped=True, inside=inside)


def _padded(states: Torch) -> tuple[Torch, Torch | None]:
    """[B, L, E] of a nested tensor, and which of its tokens are none, [B, L]."""
    import torch

    if not states.is_nested:
        return states.detach(), None
    lengths = torch.tensor([len(each) for each in states.unbind()], device=states.device)
    padded = states.to_padded_tensor(0.0).detach()
    return padded, torch.arange(padded.shape[1], device=states.device) >= lengths[:, None]
