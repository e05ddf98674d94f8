"""ALiBi: how much each head's scores rise from key to key, by a model's config.json."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

# More heads than any model has; the number comes from a file that nobody has checked.
MOST_HEADS = 4096
HEAD_COUNTS = ("n_head", "n_heads", "num_attention_heads")
# Models that bias their scores by the formula of the paper, as fairseq's and transformers' build_alibi_tensor
# write it; Falcon's divide it by sqrt(D) with the scores.
FALCON = frozenset("falcon RefinedWeb RefinedWebModel".split())
# Baichuan-13B, told from the rotary 7B by its width, as vLLM does.
BAICHUAN_WIDTH = 5120
# How far the powers reach: 2^-8 for the flattest head (Press et al., arXiv 2108.12409, section 3).
REACH = 8.0


def alibi_slopes(said: dict[str, Any]) -> tuple[float, ...] | None:
    """What a head's scores gain from each key to the next, a number a head; None for models without ALiBi."""
    heads = next((said[key] for key in HEAD_COUNTS if _is_count(said.get(key))), 0)
    kind = str(said.get("model_type", ""))
    if not 0 < heads <= MOST_HEADS:
        return None
    if kind == "mpt":
        return _of_mpt(heads, said)
    if kind in FALCON:
        return _of_falcon(heads, said)
    return _by_powers(heads) if _is_plain(kind, said) else None


def _is_plain(kind: str, said: dict[str, Any]) -> bool:
    """Whether this model takes the paper's slopes as they are."""
    if kind == "jais":
        return said.get("position_embedding_type") == "alibi" and said.get("alibi_scaling") is None
    return kind == "bloom" or (kind == "baichuan" and said.get("hidden_size") == BAICHUAN_WIDTH)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9


def _by_powers(heads: int) -> tuple[float, ...]:
    """2^(-8/n), 2^(-16/n), … for n heads; where n is no power of two, the rest from twice the next lower."""
    lower = 2 ** (heads.bit_length() - 1)
    slopes = [2.0 ** (-REACH * n / lower) for n in range(1, lower + 1)]
    slopes += [2.0 ** (-REACH * n / (2 * lower)) for n in range(1, 2 * (heads - lower), 2)]
    return tuple(slopes)


def _of_falcon(heads: int, said: dict[str, Any]) -> tuple[float, ...] | None:
    """Falcon's, where it has no rotary positions: divided by sqrt(D) with the scores."""
    width = said.get("hidden_size")
    if said.get("alibi") is not True or not _is_count(width):
        return None
    scale = math.sqrt(width / heads)
    return tuple(slope / scale for slope in _by_powers(heads))


def _of_mpt(heads: int, said: dict[str, Any]) -> tuple[float, ...] | None:
    """MPT's build_mpt_alibi_tensor: the next higher power of two, of which every other slope comes first.

    Another `alibi_bias_max` counts in llm-foundry and not in transformers: then nobody knows.
    """
    inner = said.get("attn_config")
    attention = inner if isinstance(inner, dict) else said
    if attention.get("alibi") is not True or attention.get("alibi_bias_max", REACH) != REACH:
        return None
    higher = 2 ** (heads - 1).bit_length()
    slopes = [2.0 ** (-REACH * n / higher) for n in range(1, higher + 1)]
    return tuple(slopes if higher == heads else (slopes[1::2] + slopes[::2])[:heads])
