"""Saved masks: in which convention they are, and what they let attend."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.masks.conventions import (
    ADDED,
    CONVENTIONS,
    SILENT,
    TOKENS,
    TRUE_ATTENDS,
    TRUE_IGNORES,
    WEAKEST,
    ZERO_ONE,
    attended,
    is_float,
)
from maskcli.masks.kinds import causal
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.measure.questions import first_bad, row_chunks
from maskcli.measure.survey import Survey, survey
from maskcli.tensors import Roled, Tensor
from maskcli.tensors.axes import mask_shape, token_rows

# A mask tensor with more distinct values than this is a bias, not a mask.
MANY_VALUES = 16
# So many values that silence no key are a bias.
FEWEST_OF_BIAS = 3
# An additive value below this is a fill, in a padding mask that holds nothing but 0 and one fill.
TINY = 1e-30
# What ~ makes of integers 0 and 1, and of a mask of ones alone; signed, and in eight bits without a sign.
NEGATED = ({-2.0, -1.0}, {-2.0}, {254.0, 255.0}, {254.0})
# Booleans hold nothing else; they are not read to find out.
BOTH = Survey((False, True), 0.0, 1.0, 0, 0, 0, None)


@dataclass(frozen=True)
class Given:
    """A saved mask, read: its convention and why, its distinct values, and the cells it lets attend.

    `values` are at most MANY_VALUES sorted distinct finite values, None when there are more. `reason` is one
    of "declared", "name", "values", "shape", "weights", "assumed".
    """

    tensor: Tensor
    shape: Shape
    convention: str
    reason: str
    values: tuple[float, ...] | None
    nan: tuple[int, ...] | None
    minus_inf: bool
    plus_inf: bool
    keep: Mask

    @property
    def added(self) -> bool:
        """Whether it is read as one that is added to the scores."""
        return CONVENTIONS[self.convention].added

    @property
    def is_float(self) -> bool:
        """Whether it is saved as floats, which can be added to the scores."""
        return is_float(self.tensor.dtype)

    @property
    def is_bias(self) -> bool:
        """Whether kept cells hold values that vary: a bias by positions, and no mask alone."""
        kept = MANY_VALUES if self.values is None else sum(value > WEAKEST for value in self.values)
        return self.added and self.is_float and kept >= FEWEST_OF_BIAS

    @property
    def fill(self) -> float | None:
        """What an additive mask puts on ignored cells: the lowest of its values."""
        if not self.added:
            return None
        if self.minus_inf:
            return -np.inf
        return self.values[0] if self.values and self.values[0] < 0 else None


def shape_of(roled: Roled) -> Shape | None:
    """[b, h, q, K] of a saved mask by its role: one of two axes is [B, K] as a padding mask, else [Q, K]."""
    over_keys = roled.role == "padding_mask"
    shape = roled.tensor.shape
    return mask_shape(shape, over_keys=over_keys, heads=roled.heads) if over_keys or len(shape) > 1 else None


def read_mask(
    tensor: Tensor, shape: Shape, declared: str | None, real: Array | None, past: int | None
) -> Given:
    """A mask seen as [B, H, Q, K], read as declared, or as its values and name call for.

    A bool mask says nothing of its polarity: without a declaration, a name (`key_padding_mask`) or evidence
    in `real` (bool [B, K]) and the diagonal, True is taken for attend, as torch's SDPA does.
    """
    booleans = tensor.dtype == "bool"
    seen = BOTH if booleans else survey(tensor, MANY_VALUES)
    nan = first_bad(tensor, np.isnan) if seen.nan else None

    convention, reason = _reading(tensor, seen, declared)
    threshold = _threshold(seen)
    pieces = (attended(values, convention, threshold) for _, values in row_chunks(tensor))
    keep = Mask.from_dense_rows(shape, pieces)
    if reason == "assumed":
        upright, inverted = _speaks_for(keep, real, past), _speaks_for(~keep, real, past)
        if not keep.attended:
            # Read as attend it hides every key from everybody; read as ignore it hides nothing.
            upright, inverted = False, True
        if upright != inverted:
            reason = "shape"
            convention, keep = (TRUE_ATTENDS, keep) if upright else (TRUE_IGNORES, ~keep)
    infinite = bool(seen.minus_inf), bool(seen.plus_inf)
    return Given(tensor, shape, convention, reason, seen.distinct, nan, *infinite, keep)


def read_named(
    roled: Roled, shape: Shape, convention: str | None, real: Array | None = None, past: int | None = None
) -> Given:
    """A saved mask or padding mask, read in the declared convention, else as its name and values say."""
    if roled.role == "padding_mask" and convention is None:
        convention, reason = padding_convention(roled.tensor)
        return dataclasses.replace(read_mask(roled.tensor, shape, convention, real, past), reason=reason)
    return read_mask(roled.tensor, shape, convention, real, past)


def padding_convention(tensor: Tensor) -> tuple[str, str]:
    """How a padding mask [B, K] is written, and what says so: its type, its name, or its values.

    Booleans are True for padding under nn.MultiheadAttention's names, True for real tokens as attention_mask,
    and else what most tokens are is real. Floats are added when one is negative or all are 0 (nothing is
    hidden), else they are 0 and 1.
    """
    if tensor.dtype == "bool":
        if _says_padding(tensor):
            return TRUE_IGNORES, "name"
        if "pad" in tensor.name.rpartition(".")[2]:
            return (TRUE_ATTENDS if np.mean(tensor.read()) > 0.5 else TRUE_IGNORES), "values"
        return TRUE_ATTENDS, "name"
    if is_float(tensor.dtype):
        values = tensor.read()
        return (ADDED if (values < 0).any() or not values.any() else ZERO_ONE), "values"
    return (ADDED if _has_fill(tensor.read()) else TOKENS), "values"


def read_padding(roled: Roled, declared: str | None) -> Array | None:
    """A padding mask as bool [B, K], True = real; None for others. `declared` counts where its type fits.

    One that was negated as integers keeps every token, and says nothing of which are real.
    """
    values = token_rows(roled.tensor)
    if values is None or _only_negated(values):
        return None
    convention = padding_convention(roled.tensor)[0]
    if declared is not None and CONVENTIONS[declared].values.kind == values.dtype.kind:
        convention = declared
    return attended(values, convention, min(float(np.min(values)) / 2, -TINY))


def _has_fill(values: Array) -> bool:
    """Whether whole numbers are added to the scores: one of them is as low as no label is."""
    return bool(values.min(initial=0) <= SILENT)


def is_negated(values: tuple[float, ...] | None) -> bool:
    """Whether the distinct values of a mask are those that ~ makes of integers."""
    return values is not None and set(values) in NEGATED


def may_be_negated(values: Array) -> bool:
    """Whether the first value of a mask is one that ~ makes of integers; only such are looked at closely."""
    return values.size > 0 and values.flat[0] in (-2, -1, 254, 255)


def _only_negated(values: Array) -> bool:
    """Whether a padding mask holds what ~ makes of integers."""
    return may_be_negated(values) and is_negated(tuple(np.unique(values).astype(float)))


def _says_padding(tensor: Tensor) -> bool:
    """Whether the name is one of nn.MultiheadAttention's padding masks, where True is padding."""
    leaf = tensor.name.rpartition(".")[2]
    return "key_pad" in leaf or leaf == "kpm"


def _reading(tensor: Tensor, seen: Survey, declared: str | None) -> tuple[str, str]:
    """The convention of a mask, and what says so."""
    if declared is not None:
        return declared, "declared"
    if tensor.dtype == "bool":
        return (TRUE_IGNORES, "name") if _says_padding(tensor) else (TRUE_ATTENDS, "assumed")
    if not is_float(tensor.dtype):
        return (ADDED if seen.low <= SILENT else TOKENS), "values"

    binary = set(seen.distinct or ()) in ({1.0}, {0.0, 1.0}) and not seen.minus_inf
    return (ZERO_ONE if binary else ADDED), "values"


def _threshold(seen: Survey) -> float:
    """Additive values above this attend; 0 and one weak fill are still told apart, as they were meant."""
    values = seen.distinct or ()
    two = len(values) == 2 and values[1] == 0.0 and not seen.minus_inf
    return values[0] / 2 if two else SILENT


def _speaks_for(keep: Mask, real: Array | None, past: int | None) -> bool:
    """Whether a reading makes sense by itself: it hides just the padding, or all that is behind a query."""
    batch, heads, queries, keys = keep.shape
    over_keys = (heads, queries) == (1, 1) and real is not None and real.shape == (batch, keys)
    if real is not None and over_keys and not real.all():
        return keep == Mask.from_dense(real[:, None, None, :])
    if queries < 2 or not keep.attended:
        return False

    past = max(keys - queries, 0) if past is None else past
    return (keep - causal(Layout(batch, queries, keys, heads, past))).attended == 0
