"""Conventions: how each library writes "attend" and "ignore" down, in both directions.

A convention is one row of CONVENTIONS; others ask the row and never compare its name. Inside maskcli True is
attend.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.errors import MaskcliError, meant
from maskcli.masks.mask import Mask, Stored

# The lowest finite value of each float type (IEEE 754; bfloat16 has float32's exponent and 8 bits of
# precision).
LOWEST = {
    "float64": float(np.finfo(np.float64).min),
    "float32": float(np.finfo(np.float32).min),
    "float16": -65504.0,
    "bfloat16": -(2.0 - 2.0**-7) * 2.0**127,
}
# A bias this low silences a key whatever the scores are; -1e4 (-9984 in bfloat16) is the weakest in common
# use.
SILENT = -9000.0
# The weakest fill that counts as one: exp(-64) is 1.6e-28, far below what a float32 sum resolves, while
# scores often spread over tens. Swin's -100 is a mask; learned biases are smaller and take many values.
WEAKEST = -64.0
# Cells that are written in one go.
CHUNK_CELLS = 2**22
# Heads of all samples together that are folded into one axis.
MOST_FOLDED = 2**20


class Values(NamedTuple):
    """How attend and ignore are told apart.

    `attend` and `ignore` show them; `read` takes saved values and a threshold to booleans, True = attend;
    `write` takes those, a dtype of numpy and a fill to values. `dtypes` are those that hold them, () when all
    do. `kind` is the kind of numpy's dtypes for which a declaration outdoes what the values of a padding mask
    say.
    """

    attend: str
    ignore: str
    read: Callable[[Array, float], Array]
    write: Callable[[Array, str, float], Array]
    dtypes: tuple[str, ...] = ()
    kind: str | None = None


def _as_numbers(attend: Array, dtype: str, _: float) -> Array:
    return attend.astype(dtype)


def _filled(attend: Array, dtype: str, fill: float) -> Array:
    return np.where(attend, 0.0, fill).astype(dtype)


TRUE = Values("True", "False", lambda values, _: values != 0, _as_numbers, ("bool",), "b")
FALSE = Values("False", "True", lambda values, _: values == 0, lambda attend, *_: ~attend, ("bool",), "b")
ONE = Values("1", "0", lambda values, _: values != 0, _as_numbers)
# Added to the scores: 0 and a fill. NaN does not attend.
BIAS = Values("0", "-inf", lambda values, threshold: values > threshold, _filled, tuple(LOWEST), "f")


class Target(NamedTuple):
    """The shape [..., q, K] of a written mask, as planes (batch item, head) of q rows each."""

    shape: tuple[int, ...]
    planes: list[tuple[int, int]]
    rows: int

    @property
    def axes(self) -> str:
        """What the axes are, such as "B,K"."""
        if len(self.shape) == 2:
            return "B,K" if self.rows == 1 else "Q,K"
        return "B*H,Q,K" if len(self.shape) == 3 else "B,H,Q,K"

    @property
    def heads(self) -> int:
        """How many heads are written."""
        return 1 + max(head for _, head in self.planes)


def _over_keys(stored: Stored, shape: Shape, flat: bool) -> Target:
    """[B, K]."""
    batch, _, _, keys = shape
    return Target((batch, keys), [(item, 0) for item in range(batch)], 1)


def _square(shape: Shape) -> Target:
    """[Q, K]."""
    return Target(shape[2:], [(0, 0)], shape[2])


def _folded(stored: Stored, shape: Shape, flat: bool) -> Target:
    """[B, K] when all queries have the same keys, [Q, K] when all items and heads have, else [B*H, Q, K]."""
    batch, heads, queries, keys = shape
    if stored[1:] == (1, 1):
        return _over_keys(stored, shape, flat)
    if stored[:2] == (1, 1):
        return _square(shape)

    if batch * heads > MOST_FOLDED:
        raise MaskcliError(
            f"{batch:,} samples of {heads:,} heads are more than the {MOST_FOLDED:,} masks that are written "
            "one by one; pass fewer --heads"
        )
    planes = [(item, head) for item in range(batch) for head in range(heads)]
    return Target((batch * heads, queries, keys), planes, queries)


def _broadcast(stored: Stored, shape: Shape, flat: bool) -> Target:
    """[b, h, q, K], which broadcasts over the scores; [Q, K] when `flat` says that all items share it."""
    b, h, q = stored
    if flat and (b, h) == (1, 1) and q > 1:
        return _square(shape)

    rows = 1 if q == 1 else shape[2]
    return Target((b, h, rows, shape[3]), [(item, head) for item in range(b) for head in range(h)], rows)


class Convention(NamedTuple):
    """How a library writes a mask: its dtype by default, its values, its shape, and who reads it so.

    `target` lays out a mask stored as [b, h, q, K] over items, heads and queries; its last argument allows
    [Q, K] for a mask that is one for all items. `causal_flag` is the argument that says a causal mask without
    a tensor.
    """

    dtype: str
    values: Values
    target: Callable[[Stored, Shape, bool], Target]
    who: str
    causal_flag: str | None = None

    @property
    def plain(self) -> bool:
        """Whether it is written as maskcli itself holds masks: True = attend."""
        return self.values is TRUE

    @property
    def added(self) -> bool:
        """Whether it is added to the scores."""
        return self.values is BIAS

    @property
    def over_keys(self) -> bool:
        """Whether it is one row of keys for each sample, [B, K]."""
        return self.target is _over_keys

    @property
    def folds_heads(self) -> bool:
        """Whether three axes are [B*H, Q, K], and two can be [B, K] as well as [Q, K]."""
        return self.target is _folded

    def stored(self, mask: Mask) -> Stored:
        """The axes that this convention can write of a saved mask, 1 where the same cells hold for all."""
        if self.over_keys:
            return mask.compact().stored
        if self.folds_heads:
            # A mask over queries stays one, even when it is the same for all: [1, K] would be a padding mask.
            b, h, _ = mask.compact().stored
            return b, h, mask.shape[2]
        return mask.stored


CONVENTIONS: dict[str, Convention] = {
    "sdpa": Convention(
        "bool", TRUE, _broadcast, "torch SDPA, JAX, Flax, Keras, x-transformers", "is_causal=True"
    ),
    "mha": Convention("bool", FALSE, _folded, "torch nn.MultiheadAttention, nn.Transformer, fairseq"),
    "megatron": Convention("bool", FALSE, _broadcast, "Megatron-LM, TransformerEngine"),
    "hf": Convention("int64", ONE, _over_keys, "Hugging Face 2-D attention_mask"),
    "additive": Convention("float32", BIAS, _broadcast, "Hugging Face eager 4-D masks, xformers, T5X"),
    "binary": Convention("float32", ONE, _broadcast, "tutorials: masked_fill(mask == 0, ...)"),
}
# What a mask is read in when nobody declares it: booleans, floats and integers.
TRUE_ATTENDS, TRUE_IGNORES, ADDED, ZERO_ONE, TOKENS = "sdpa", "mha", "additive", "binary", "hf"


def check_known(name: str, option: str = "", choices: Collection[str] = CONVENTIONS) -> None:
    """Refuse what is none of the `choices`; `option` is where it was said, such as '--to '."""
    if name not in choices:
        hint = meant(name, choices, f"choose one of {', '.join(choices)}")
        raise MaskcliError(f"{option}{name!r} is not a convention; {hint}")


def is_float(dtype: str) -> bool:
    """Whether a mask of this type can be added to scores, in eight bits too."""
    return dtype in LOWEST or dtype.startswith("float8")


def usual(dtype: str) -> str:
    """The convention that the type of a mask calls for."""
    if dtype == "bool":
        return TRUE_ATTENDS
    return ADDED if is_float(dtype) else TOKENS


def dtype_of(convention: str, dtype: str | None) -> str:
    """The dtype that a convention is written in: the asked-for one, or its default."""
    row = CONVENTIONS[convention]
    if dtype is None:
        return row.dtype
    if not row.values.dtypes or dtype in row.values.dtypes:
        return dtype
    if row.added:
        raise MaskcliError(
            f"an additive mask cannot be {dtype}: it holds -inf or a large fill; "
            "pass --dtype float32, float16 or bfloat16"
        )
    raise MaskcliError(
        f"{convention} masks are {row.dtype}, not {dtype}; leave --dtype out, or pass --to binary for 0 and 1"
    )


def attended(values: Array, convention: str, threshold: float = SILENT) -> Array:
    """Saved values to booleans, True = attend. Additive values above `threshold` attend (NaN does not)."""
    return CONVENTIONS[convention].values.read(values, threshold)


def written(attend: Array, convention: str, dtype: str, fill: float = -np.inf) -> Array:
    """The values that `convention` writes for a boolean array, True = attend.

    bfloat16, which numpy has not, comes as float32 of equal value.
    """
    return CONVENTIONS[convention].values.write(attend, "float32" if dtype == "bfloat16" else dtype, fill)


def chunks(mask: Mask, target: Target, convention: str, dtype: str, fill: float = -np.inf) -> Iterator[Array]:
    """The values [n, K] of a whole mask in its convention, plane by plane, some rows at a time."""
    step = max(1, CHUNK_CELLS // max(mask.shape[3], 1))
    for item, head in target.planes:
        for start in range(0, target.rows, step):
            rows = (start, min(start + step, target.rows))
            yield written(mask.dense(item, head, rows), convention, dtype, fill)


def fitting(stored: Stored, convention: str, spec: str) -> None:
    """Refuse a mask that the convention has no shape for: `hf` is one row of keys for each sample."""
    if CONVENTIONS[convention].over_keys and stored[1:] != (1, 1):
        raise MaskcliError(
            f"{convention} masks are [B, K], one row of keys for each sample, and {spec!r} varies along "
            "queries or heads; pass --to sdpa or --to additive, or take the padding part alone"
        )


def fill_of(convention: str, text: str, dtype: str) -> float:
    """What a convention puts on ignored cells: the asked-for fill where it has one, else 0."""
    return checked_fill(text, dtype) if CONVENTIONS[convention].added else 0.0


def checked_fill(text: str, dtype: str) -> float:
    """The fill of an additive mask: "min" (the type's lowest number), "-inf", or a number that it holds."""
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
            f"--fill {text} overflows {dtype}, whose lowest number is {LOWEST[dtype]:.5g}; "
            "pass min, or another --dtype"
        )
    return fill
