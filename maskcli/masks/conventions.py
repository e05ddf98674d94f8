"""Conventions: how each library writes "attend" and "ignore" down, in both directions. Inside maskcli True is attend."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError


class Convention(NamedTuple):
    """How a library writes a mask: the dtype it takes by default, what attend is, and who reads it so."""

    dtype: str
    attend: str
    who: str


CONVENTIONS: dict[str, Convention] = {
    "sdpa": Convention("bool", "True", "torch SDPA, JAX, Flax, Keras, x-transformers"),
    "mha": Convention("bool", "False", "torch nn.MultiheadAttention, nn.Transformer, fairseq"),
    "megatron": Convention("bool", "False", "Megatron-LM, TransformerEngine"),
    "hf": Convention("int64", "1", "Hugging Face 2-D attention_mask"),
    "additive": Convention("float32", "0", "Hugging Face eager 4-D masks, xformers, T5X"),
    "binary": Convention("float32", "1", "tutorials: masked_fill(mask == 0, ...)"),
}
# The lowest finite value of each float type (IEEE 754; bfloat16 keeps float32's exponent with 8 bits of precision).
LOWEST = {
    "float64": float(np.finfo(np.float64).min),
    "float32": float(np.finfo(np.float32).min),
    "float16": -65504.0,
    "bfloat16": -(2.0 - 2.0**-7) * 2.0**127,
}
# A bias this low silences a key whatever the scores are; -1e4 is the weakest fill in common use (-9984 in bfloat16).
SILENT = -9000.0
# The weakest fill that counts as one: exp(-64) is 1.6e-28, far below what a float32 sum resolves, while scores commonly spread
# over tens. Swin's -100 is a mask; learned biases are smaller and take many values.
WEAKEST = -64.0
IGNORED_BOOL = ("mha", "megatron")


def dtype_of(convention: str, dtype: str | None) -> str:
    """The dtype that a convention is written in: the asked-for one, or its default."""
    default = CONVENTIONS[convention].dtype
    if dtype is None:
        return default
    if convention == "additive" and dtype not in LOWEST:
        raise MaskcliError(
            f"an additive mask cannot be {dtype}: it holds -inf or a large fill; pass --dtype float32, float16 or bfloat16"
        )
    if default == "bool" and dtype != "bool":
        raise MaskcliError(
            f"{convention} masks are bool, not {dtype}; leave --dtype out, or pass --to binary for 0 and 1"
        )
    return dtype


def written(attend: Array, convention: str, dtype: str, fill: float = -np.inf) -> Array:
    """The values that `convention` writes for a boolean array, True = attend. bfloat16 comes as float32 of equal value."""
    if convention == "additive":
        return np.where(attend, 0.0, fill).astype("float32" if dtype == "bfloat16" else dtype)
    if convention in IGNORED_BOOL:
        return ~attend
    return attend.astype("float32" if dtype == "bfloat16" else dtype)


def fitting(stored: tuple[int, int, int], convention: str, spec: str) -> None:
    """Refuse a mask that the convention has no shape for: `hf` is one row of keys for each sample."""
    if convention == "hf" and stored[1:] != (1, 1):
        raise MaskcliError(
            f"hf masks are [B, K], one row of keys for each sample, and {spec!r} varies along queries or heads; "
            "pass --to sdpa or --to additive, or take the padding part alone"
        )


def attended(values: Array, convention: str, threshold: float = SILENT) -> Array:
    """Saved values to a boolean array, True = attend. Additive values above `threshold` attend (NaN does not)."""
    if convention == "additive":
        attend: Array = values > threshold
    elif convention in IGNORED_BOOL:
        attend = values == 0
    else:
        attend = values != 0
    return attend


def checked_fill(text: str, dtype: str) -> float:
    """The fill of an additive mask: "min" (the lowest finite number of the type), "-inf", or a number that the type holds."""
    if text == "min":
        return LOWEST[dtype]
    try:
        fill = float(text)
    except ValueError:
        raise MaskcliError(
            f"--fill {text!r} is no number; pass min, -inf, or a number such as -1e9"
        ) from None
    if np.isnan(fill) or fill > WEAKEST:
        raise MaskcliError(
            f"--fill {text} cannot silence a key; pass min, -inf, or a number of {WEAKEST:g} or less"
        )
    if np.isfinite(fill) and fill < LOWEST[dtype]:
        raise MaskcliError(
            f"--fill {text} overflows {dtype}, whose lowest number is {LOWEST[dtype]:.5g}; pass min, or another --dtype"
        )
    return fill


class Target(NamedTuple):
    """The shape a mask is written in: [..., q, K] as planes (batch item, head) of q rows each, taken from the stored mask."""

    shape: tuple[int, ...]
    planes: list[tuple[int, int]]
    rows: int


def target(
    stored: tuple[int, int, int],
    keys: int,
    convention: str,
    batch: int,
    heads: int,
    queries: int,
    flat: bool = False,
) -> Target:
    """How a mask stored as [b, h, q, K] is laid out for a library, over `batch` items, `heads` heads and `queries` rows.

    hf is [B, K]; mha [B, K], [Q, K] or [B*H, Q, K]; all others [b, h, q, K], which broadcasts over the scores, or [Q, K] when
    `flat` says that the mask is one for all items.
    """
    b, h, q = stored
    if convention == "hf" or (convention == "mha" and (h, q) == (1, 1)):
        return Target((batch, keys), [(item, 0) for item in range(batch)], 1)
    if convention == "mha" and (b, h) != (1, 1):
        planes = [(item, head) for item in range(batch) for head in range(heads)]
        return Target((batch * heads, queries, keys), planes, queries)
    if convention == "mha" or (flat and (b, h) == (1, 1) and q > 1):
        return Target((queries, keys), [(0, 0)], queries)
    rows = 1 if q == 1 else queries
    return Target((b, h, rows, keys), [(item, head) for item in range(b) for head in range(h)], rows)
