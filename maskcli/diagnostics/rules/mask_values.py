"""Rules on the values of a saved mask: MSK103 to MSK107."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.diagnostics.finding import Found, Where
from maskcli.diagnostics.rule import for_each, masks, rule
from maskcli.diagnostics.verdicts.judge import verdicts
from maskcli.diagnostics.verdicts.verdict import Kind
from maskcli.masks.conventions import LOWEST, WEAKEST
from maskcli.masks.mask import Mask
from maskcli.measure.survey import survey
from maskcli.scene.saved_mask import MANY_VALUES, Given, is_negated, may_be_negated
from maskcli.scene.scene import Saved, Scene
from maskcli.tensors import Tensor
from maskcli.tensors.axes import cell_of

# -1e4 and what float16 and bfloat16 make of it: a mask unless a whole row is masked or scores are of that
# size.
TEN_THOUSAND = (-1.05e4, -9e3)


@rule("MSK103", "binary-float-mask", "error", needs=("mask",))
@for_each(masks)
def binary_float_mask(saved: Saved, scene: Scene) -> Found | None:
    """A float mask holds only 0 and 1: added to the scores it masks nothing.

    The model reads padding and future all the same where a float mask is added (torch's SDPA, Hugging Face's
    eager path): it raises the kept keys by 1, and that is all. With `masked_fill(mask == 0, -inf)` such a
    mask is right.

    In code: `mask.float()` or `mask.to(dtype)` given to `scaled_dot_product_attention` or as a 4-D
    attention_mask.

    Fix: pass booleans, or `(1 - mask) * torch.finfo(dtype).min`.
    """
    given = saved.given
    if not _is_binary_float(given):
        return None
    said = [verdict for attention, verdict in verdicts(scene, Kind.ADDED) if attention.given is given]
    added = bool(said) or (given.reason, given.convention) == ("declared", "additive")
    obeyed = saved.attention is not None and saved.attention.keep is not None
    if not added and (obeyed or given.reason == "declared"):
        return None

    effect = "masked nothing: it was added to the scores, or left out"
    if not added:
        effect = "masks nothing where it is added to the scores"
    evidence: dict[str, float | int | str] = {"values": "0 and 1", "dtype": given.tensor.dtype}
    if said:
        evidence["violation"] = float(said[-1].share[said[-1].rows].mean())
    return Found(
        (given.tensor.name,),
        f"a {given.tensor.dtype} mask of only 0 and 1 {effect}",
        "pass booleans, or (1 - mask) * torch.finfo(dtype).min; with masked_fill(mask == 0, ...) it is "
        "right as it is",
        evidence=evidence,
        severity="error" if added else "note",
    )


@rule("MSK104", "weak-fill", "error", needs=("mask",))
@for_each(masks)
def weak_fill(saved: Saved, scene: Scene) -> Found | None:
    """The fill is too small to silence a key.

    exp(fill) is what remains of an ignored key's weight: -1e-9 leaves all of it, -10 a few
    hundred-thousandths, and scores that differ by more than the fill bring it back whole. -1e4 is enough
    beside ordinary scores (a note), but a row that is masked throughout turns into ordinary attention.

    In code: `masked_fill(mask == 0, -1e-9)` for -1e9, or `mask * -1` and `mask * -10`.

    Fix: use `float("-inf")`, or `torch.finfo(dtype).min` where a row can be fully masked.
    """
    values = _two_values(saved.given)
    if values is None or values[1] != 0.0:
        return None
    fill = values[0]
    ten_thousand = TEN_THOUSAND[0] <= fill <= TEN_THOUSAND[1]
    weak = WEAKEST < fill < 0 and _is_mask_shaped(saved.given.keep)
    if not weak and not ten_thousand:
        return None

    what, severity, more = "cannot silence a key", None, ""
    if ten_thousand:
        what, severity = "is enough beside ordinary scores only", "note"
        if (saved.given.keep.keys_per_query == 0).any():
            severity, more = None, ", and a fully masked row becomes ordinary attention"
        if any(attention.given is saved.given for attention, _ in verdicts(scene, Kind.SOFT)):
            severity, more = None, ", and the scores are as large"
    remaining = float(np.exp(fill))
    return Found(
        (saved.given.tensor.name,),
        f"ignored keys get {fill:.6g}, which {what}: exp({fill:.6g}) = {remaining:.2g} of their weight "
        f"remains{more}",
        'use float("-inf"), or torch.finfo(dtype).min where a row can be fully masked',
        evidence={"fill": fill, "remaining": remaining},
        severity=severity,
    )


@rule("MSK105", "overflowed-fill", "warning", needs=("mask",))
@for_each(masks)
def overflowed_fill(saved: Saved, scene: Scene) -> Found | None:
    """-inf stands beside the lowest finite number, or where another copy of the mask has a finite fill.

    finfo.min + finfo.min is -inf, and -1e9 or float32's minimum cast to float16 is -inf. A fill that was
    chosen finite, so that fully masked rows stay finite, has become the one that makes them NaN.

    In code: `causal_mask + padding_mask` with finfo.min in both; `mask.half()` of a float32 mask.

    Fix: combine masks as booleans first, and fill once, in the dtype of the scores.
    """
    given = saved.given
    if given.convention != "additive" or not given.minus_inf or given.values is None:
        return None
    return _summed_fills(given, given.values) or _cast_fill(given, scene)


def _summed_fills(given: Given, values: tuple[float, ...]) -> Found | None:
    """-inf beside the lowest finite number of the type."""
    dtype = given.tensor.dtype
    lowest = LOWEST.get(dtype)
    if lowest is None or not any(value <= lowest * 0.99 for value in values):
        return None
    return Found(
        (given.tensor.name,),
        f"-inf stands beside {min(values):.6g}, the lowest {dtype}: two filled masks were added and "
        "overflowed",
        "combine the masks as booleans, then fill once in the dtype of the scores",
        evidence={"lowest_finite": min(values)},
    )


def _cast_fill(given: Given, scene: Scene) -> Found | None:
    """-inf where another saved copy of the mask has a finite fill."""
    copies = (saved.given for saved in scene.masks if _is_filled(saved.given))
    twin = next((copy for copy in copies if copy.keep == given.keep), None)
    if twin is None:
        return None
    name, dtype = given.tensor.name, given.tensor.dtype
    return Found(
        (name, twin.tensor.name),
        f"{name!r} has -inf where its copy {twin.tensor.name!r} has {twin.fill:.6g}: the fill overflowed "
        f"when it was cast to {dtype}",
        f"fill with torch.finfo(torch.{dtype}).min after the cast, not before",
        evidence={"fill_in_copy": twin.fill or 0.0},
    )


@rule("MSK106", "nan-mask", "error", needs=("mask",))
@for_each(masks)
def nan_mask(saved: Saved, scene: Scene) -> Found | None:
    """The mask itself holds NaN.

    NaN in the mask makes every row that it touches NaN, whatever the model does.

    In code: `(1 - mask) * float("-inf")`: at kept cells that is 0 * -inf, which is NaN.

    Fix: `torch.zeros(...).masked_fill(mask == 0, float("-inf"))`.
    """
    if saved.given.nan is None:
        return None
    at = list(saved.given.nan)
    return Found(
        (saved.given.tensor.name,),
        f"the mask holds NaN, first at index {at}: 0 * -inf at a kept cell",
        'build it with masked_fill(mask == 0, float("-inf")) instead of multiplying',
        _cell(saved.given.nan),
        {"index": str(at)},
    )


class _Values(NamedTuple):
    """The tensor of a mask or a padding mask, and its distinct values in order; None when they are many."""

    tensor: Tensor
    values: tuple[float, ...] | None


def _values(scene: Scene) -> Iterator[_Values]:
    for saved in scene.masks:
        yield _Values(saved.given.tensor, saved.given.values)
    for roled in scene.tensors:
        if roled.role == "padding_mask" and may_be_negated(roled.tensor.read()):
            yield _Values(roled.tensor, survey(roled.tensor, MANY_VALUES).distinct)


@rule("MSK107", "negated-integer-mask", "error", needs=(("mask", "padding_mask"),))
@for_each(_values)
def negated_integer_mask(mask: _Values, scene: Scene) -> Found | None:
    """An integer mask was negated with ~, which gives -1 and -2 (or 255 and 254), all of them true.

    The mask keeps everything: `~` on integers flips bits, 1 becomes -2 and 0 becomes -1, and both count as
    True.

    In code: `~attention_mask` on an int64 tensor.

    Fix: `attention_mask == 0`, or `~attention_mask.bool()`.
    """
    if not is_negated(mask.values):
        return None
    told = " and ".join(f"{value:.0f}" for value in mask.values or ())
    both = "both count" if len(mask.values or ()) > 1 else "that counts"
    return Found(
        (mask.tensor.name,),
        f"an integer mask holds only {told}: ~ was applied to integers, and {both} as True",
        "negate booleans: mask == 0, or ~mask.bool()",
        evidence={"values": told},
    )


def _is_binary_float(given: Given) -> bool:
    """Whether a float mask holds both 0 and 1, and nothing else."""
    if not given.is_float or given.minus_inf or given.nan:
        return False
    return given.values is not None and set(given.values) == {0.0, 1.0}


def _is_mask_shaped(keep: Mask) -> bool:
    """Whether two values of one sign are a mask and no bias: heads are alike, queries or keys are not."""
    return keep.compact().stored[1] == 1 and 0 < keep.attended < keep.cells and keep.shape[3] > 2


def _two_values(given: Given) -> tuple[float, float] | None:
    """The values of an additive mask that holds two, both finite, the lower first."""
    if given.convention != "additive" or given.minus_inf:
        return None
    values = given.values
    return (values[0], values[1]) if values is not None and len(values) == 2 else None


def _is_filled(given: Given) -> bool:
    """Whether an additive mask holds a large finite fill and one other value."""
    values = _two_values(given)
    return values is not None and values[0] <= TEN_THOUSAND[1]


def _cell(index: tuple[int, ...]) -> Where:
    """The place of one cell of a tensor of two to four axes."""
    batch, head, query, key = cell_of(index)
    items = None if batch is None else (batch,)
    heads = None if head is None else (head,)
    return Where(items, heads, ((query, query + 1),), ((key, key + 1),))
