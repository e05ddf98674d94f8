"""Rules on the sums and signs of numbers that no softmax over the keys leaves: MSK207, MSK208, MSK216."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array, Rows
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.common import FEW, MOSTLY
from maskcli.diagnostics.rules.hits import Hit, fold, fold_by
from maskcli.diagnostics.words import listed, told_items
from maskcli.measure.questions import first_sums, query_sums
from maskcli.scene.layouts import TRANSPOSED
from maskcli.scene.scene import Attention, Scene, once
from maskcli.tensors.orders import saved_axes
from maskcli.tensors.tolerances import has_digits

# Where each axis stands in [B, H, Q, K], and how it is called.
AXES = {"queries": ("queries", -2), "heads": ("heads", 1), "batch": ("the batch", 0)}
# More sums near 1 than this are those of a softmax over the keys.
SOFTMAX_ROWS = 0.1
# More sums than this share of the odd ones, between them and 1, are those of a weak sink.
FADING = 0.1


@rule(
    "MSK207",
    "unnormalised-rows",
    "warning",
    needs=("weights",),
    explained_by=("MSK216", "MSK208", "MSK209", "MSK102"),
)
def unnormalised_rows(scene: Scene) -> Iterator[Found]:
    """Rows sum to one number other than 1, or only some rows do not sum to 1, or all weights are 0.

    Outputs are scaled by what a row sums to, where a softmax over the keys sums to 1. One other constant
    points to a scale applied afterwards; a few odd rows point to something done to those rows only; nothing
    but zeros to a buffer that nobody filled. Dropout has sums on both sides of 1, and is left alone. Sums
    below 1 that vary from row to row are those of attention sinks and of sigmoid attention, or of a mask that
    was multiplied in after the softmax: a note.

    In code: weights multiplied or clipped after the softmax, averaged with the wrong divisor, saved after an
    in-place change; `torch.zeros` allocated for weights that the fused kernel never returns.

    Fix: save the weights right behind the softmax, before anything scales them.
    """
    yield from _all_zeros(scene)
    yield from _short_of_one(scene)
    hits = []
    for attention in scene.attentions:
        rows, constant = _odd_sums(attention)
        if rows.any() and not _softmax_axis(attention):
            hits.append((Hit(attention.name, rows), (constant, attention.measured.total[rows])))
    for group in fold_by(hits, alike=lambda extra: extra[0]):
        constant, sums = group.extra
        low, high = float(sums.min()), float(sums.max())
        which = f"{group.told('queries')} sum to {low:.4g} to {high:.4g}, all others to 1"
        if constant:
            which = f"all rows sum to {low:.6g}"
        yield group.found(
            f"{which}; a softmax over the keys sums to 1",
            "save the weights right behind the softmax, before they are scaled, clipped or averaged",
            lowest_sum=low,
            highest_sum=high,
        )


def _all_zeros(scene: Scene) -> Iterator[Found]:
    """Maps, or samples of them, that hold nothing but zeros though their rows have keys."""
    for group in fold(Hit(attention.name, _zeros(attention)) for attention in scene.attentions):
        yield group.found(
            f"all weights of {listed(group.tensors)} are 0 in {told_items(group.where.batch)}: no row "
            "attends to anything",
            "save what the softmax returns: a buffer that was never filled, a layer that was skipped and a "
            "head mask of zeros look like this",
            lowest_sum=0.0,
            highest_sum=0.0,
        )


def _short_of_one(scene: Scene) -> Iterator[Found]:
    """Maps of which most rows stay below the sum 1, each by its own."""
    short = [attention for attention in scene.attentions if _is_short(attention)]
    hits = ((Hit(attention.name, attention.real), _sums(attention)) for attention in short)
    for group in fold_by(hits, alike=lambda _: None):
        low, middle = float(group.extra.min()), _middle(group.extra)
        yield group.found(
            f"rows of {listed(group.tensors)} sum to less than 1, down to {low:.3g} and half of them to "
            f"{middle:.3g} at most: an attention sink and sigmoid attention leave such sums, and so does "
            "a mask multiplied in after the softmax",
            "nothing, when the model is of that kind; else save the scores beside the weights and say which "
            "mask was meant (--expect), which settles it",
            severity="note",
            lowest_sum=low,
            median_sum=middle,
        )


def _is_short(attention: Attention) -> bool:
    """Whether most sums lie below 1, none above, and nothing else is said of them."""
    sums, tolerance = _sums(attention), attention.tolerance
    if sums.size < FEW or _middle(sums) >= 1 - tolerance or sums.max() > 1 + tolerance:
        return False
    told = _odd_sums(attention)[0].any() or _softmax_axis(attention)
    return not told and not (attention.measured.low < 0).any()


def _middle(sums: Array) -> float:
    """The number that half of them do not pass; numpy's median would import its masked arrays."""
    return float(np.sort(sums)[(len(sums) - 1) // 2])


def _sums(attention: Attention) -> Array:
    """The sums of real rows that hold something."""
    total = attention.measured.total
    sums: Array = total[attention.real & np.isfinite(total) & (total != 0)]
    return sums


def _zeros(attention: Attention) -> Rows:
    """The rows [B, H, Q] of samples of zeros that have a key to attend to.

    One sample of several may be nothing but padding, whose rows some kernels leave at 0: it is told only
    where something says which tokens are real.
    """
    measured, allowed = attention.measured, attention.meant
    zeros: Array = np.all((measured.high == 0) & (measured.low == 0), axis=(1, 2))
    if attention.tolerance >= 1 or not (zeros.all() or attention.keys):
        zeros[:] = False
    rows = attention.real & zeros[:, None, None]
    return rows if allowed is None else rows & (allowed.keys_per_query > 0)


@rule("MSK208", "softmax-axis", "error", needs=("weights",), explained_by=("MSK216",))
def softmax_axis(scene: Scene) -> Iterator[Found]:
    """The weights sum to 1 over queries, heads or the batch, not keys: the softmax ran over another axis.

    The numbers look like attention, but no query gets a weighted mean of the values, and a mask over keys
    means something else.

    In code: `softmax(dim=1)`, `softmax(dim=2)` or `F.softmax(x)` without `dim` on scores [B, H, Q, K].

    Fix: `softmax(dim=-1)`.
    """
    turned = [a for a in scene.attentions if saved_axes(a.tensor) == TRANSPOSED]
    for each in fold(Hit(attention.name, attention.real) for attention in turned):
        yield each.found(
            f"the columns of {listed(each.tensors)} sum to 1: it is the transpose {TRANSPOSED} of a map, and "
            "is read so",
            "save weights.transpose(-1, -2); whoever takes its rows for queries reads it the wrong way",
            severity="note",
        )
    axes = {attention.name: _softmax_axis(attention) for attention in scene.attentions}
    for axis, (name, dim) in AXES.items():
        sick = [attention for attention in scene.attentions if axes[attention.name] == axis]
        hits = ((Hit(attention.name, attention.real), attention.measured.total) for attention in sick)
        for group in fold_by(hits, alike=lambda _: None):
            low, high = float(group.extra.min()), float(group.extra.max())
            yield group.found(
                f"weights sum to 1 over {name} and to {low:.3g} to {high:.3g} over keys: the softmax ran "
                f"over dim={dim}",
                "use softmax(dim=-1): each query's weights over the keys sum to 1",
                lowest_row_sum=low,
                highest_row_sum=high,
            )


@rule("MSK216", "invalid-weights", "error", needs=("weights",))
def invalid_weights(scene: Scene) -> Iterator[Found]:
    """Weights are negative, infinite or greater than 1: these are not attention weights.

    Every other check of this tensor would be about the wrong thing: values outside of 0 to 1 mean that
    scores, log-probabilities or an uninitialised buffer were saved in place of what a softmax yields. Where
    the numbers look like those of a model that means them so, this is a warning: heads mixed after the
    softmax (talking heads), the difference of two softmaxes (differential transformer), weights with a sign,
    or the correlations of Autoformer.

    In code: returning the scores before the softmax, or a debug output of a fused kernel.

    Fix: save what comes out of the softmax. Fused kernels do not return it: use the eager implementation to
    look at it.
    """
    hits = []
    for attention in scene.attentions:
        rows = _invalid(attention)
        design = _design(attention, scene) if rows.any() else None
        flagged = attention.real if design else rows
        hits.append((Hit(attention.name, flagged), (design, attention.measured)))
    for group in fold_by(hits, alike=lambda extra: extra[0]):
        design = group.extra[0]
        low = min(np.nanmin(measured.low) for _, measured in group.extras)
        high = max(np.nanmax(measured.high) for _, measured in group.extras)
        yield group.found(
            f"values run from {low:.4g} to {high:.4g}, where weights lie between 0 and 1: "
            f"{listed(group.tensors)} {design or 'holds scores or something else'}",
            _MEANT_SO if design else _SAVE_WEIGHTS,
            severity="warning" if design else None,
            lowest=_finite(low),
            highest=_finite(high),
        )


_SAVE_WEIGHTS = (
    "save what comes out of the softmax (or pass --role scores=FILE:TENSOR when these are the scores)"
)
_MEANT_SO = (
    "nothing, when the model is of that kind (no other rule looks at these maps); else save what comes out "
    "of the softmax"
)


def _design(attention: Attention, scene: Scene) -> str | None:
    """Which known design of attention these values are of, in words behind a name; None when of none."""
    if not np.isfinite(attention.measured.total[attention.real]).all():
        return None
    if _heads_are_mixed(attention):
        return (
            "has rows that sum to one number in each head, as heads mixed after the softmax (talking heads) "
            "or a difference of two softmaxes (differential attention) have them"
        )
    if _has_signs(attention):
        return "has rows whose sizes sum to 1, as signed attention has them"
    if _ends_in_channels(attention, scene):
        return "ends in channels, not keys, as the correlations of Autoformer do"
    return None


def _heads_are_mixed(attention: Attention) -> bool:
    """Whether the real rows of each head sum to one number, which centred scores do only when it is 0."""
    total, real = attention.measured.total.astype(np.float64), attention.real
    if real.any(axis=1).sum() < FEW:
        return False
    low = np.where(real, total, np.inf).min(axis=(0, 2))
    high = np.where(real, total, -np.inf).max(axis=(0, 2))
    # Rounding goes with the size of what is added up.
    size = np.maximum(np.abs(attention.measured.high), np.abs(attention.measured.low)).max()
    close = 2 * attention.tolerance * max(float(size), 1.0)
    return bool((high - low <= close).all() and (np.abs(high) > close).any())


def _has_signs(attention: Attention) -> bool:
    """Whether the sampled rows sum to 1 when signs are left out."""
    sample = attention.sample
    sizes = np.abs(sample.values).sum(axis=3, dtype=np.float64)[sample.of(attention.real)]
    return sizes.size >= FEW and bool((np.abs(sizes - 1) <= attention.tolerance).all())


def _ends_in_channels(attention: Attention, scene: Scene) -> bool:
    """Whether all maps end in one size, whatever the number of queries, and some have more queries."""
    shapes = [roled.tensor.shape for roled in scene.tensors if roled.role == "weights"]
    alike = len(shapes) > 1 and all(shape[-1] == attention.shape[3] for shape in shapes)
    several = len({shape[-2] for shape in shapes if len(shape) > 2}) > 1
    return alike and several and any(shape[-2] > shape[-1] for shape in shapes if len(shape) > 2)


def _finite(value: float) -> float | str:
    return float(value) if np.isfinite(value) else str(float(value))


def _invalid(attention: Attention) -> Rows:
    """Rows [B, H, Q] with values that no weights have; dropout and ReLU attention can pass 1 as well."""
    measured = attention.measured
    high = measured.high > 1 + attention.tolerance
    bad = (measured.low < 0) | np.isinf(measured.low) | np.isinf(measured.high)
    if bad.any() or not high.any():
        return bad
    has_zeros = (measured.low[high] == 0).all()
    return bad if has_zeros or _odd_sums(attention)[0].any() else high


def _odd_sums(attention: Attention) -> tuple[Rows, bool]:
    """Rows whose sum is odd, and whether all sums are the same number."""
    total, rounding = attention.measured.total, attention.rounding
    none = np.zeros(total.shape, bool)
    rows = attention.real & np.isfinite(total) & (total != 0)
    off = rows & (np.abs(total - 1) > attention.tolerance)
    if not off.any() or (attention.measured.low < 0).any():
        return none, False
    if off[rows].all():
        return rows if _is_constant(attention, rows) else none, True
    # Dropout, sinks and sigmoids leave hardly any sum at 1; rows of one key can be 1 among them.
    normal = (rows & ~off).sum() / rows.sum()
    # A weak sink takes a little from every row: its sums fade into 1, where odd rows stand apart from it.
    between = rows & ~off & (np.abs(total - 1) > rounding)
    if normal < MOSTLY or between.sum() > FADING * off.sum():
        return none, False
    by_design = _has_dropout(total[off]) or _spread(total[off], rounding)
    return none if by_design else off, False


def _is_constant(attention: Attention, rows: Rows) -> bool:
    """Whether sums are one number, and that of no attention sink."""
    total = attention.measured.total[rows]
    same = np.ptp(total) <= 2 * attention.tolerance * max(total.max(), 1e-3)
    return len(total) >= FEW and bool(same) and not _may_be_sink(attention, rows)


def _may_be_sink(attention: Attention, rows: Rows) -> bool:
    """Whether a constant sum below 1 can be a sink among nearly equal scores, which makes it n / (n + 1).

    Rows over different numbers of keys cannot share such a sum; in float32, equal scores alone make it the
    same to 1e-5.
    """
    total = attention.measured.total[rows]
    if total.max() > 1:
        return False
    allowed = attention.causal if attention.meant is None else attention.meant
    counts = attention.rows(allowed.keys_per_query)[rows]
    return np.ptp(counts) <= 1 and bool(np.ptp(total) > 1e-5 or not has_digits(attention.tensor.dtype))


def _spread(sums: Array, rounding: float) -> bool:
    """Whether odd sums below 1 differ by more than rounding, as a sink makes them and no scale does."""
    return bool(sums.size > 1 and (sums < 1).all() and np.ptp(sums) > 4 * rounding)


def _has_dropout(sums: Array) -> bool:
    """Whether odd sums lie on both sides of 1, as kept weights scaled by 1/(1-p) among zeros make them."""
    return bool((sums > 1).any() and (sums < 1).any())


@once
def _softmax_axis(attention: Attention) -> str | None:
    """The axis, other than keys, over which the weights sum to 1; None when keys do or no axis does."""
    total, tolerance = attention.measured.total, attention.tolerance
    if not np.isfinite(total).all() or (attention.measured.low < 0).any() or attention.looks_empty.all():
        return None
    if (np.abs(total - 1) <= tolerance).mean() > SOFTMAX_ROWS:
        return None
    tensor, shape = attention.tensor, attention.shape
    if shape[2] > 1 and all(_ones(sums, tolerance) for sums in query_sums(tensor, shape)):
        return "queries"
    over_heads, over_batch = first_sums(tensor, shape)
    several = (("heads", shape[1], over_heads), ("batch", shape[0], over_batch))
    return next((axis for axis, size, sums in several if size > 1 and _ones(sums, tolerance)), None)


def _ones(sums: Array, tolerance: float) -> bool:
    """Whether sums are 1, all but those of keys that nothing weighs."""
    seen = sums[sums != 0]
    return bool(seen.size > 1 and np.abs(seen - 1).max() <= tolerance)
