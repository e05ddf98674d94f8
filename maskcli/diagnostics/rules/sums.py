"""Rules on numbers that no softmax over the keys leaves, by their sums and signs: MSK207, MSK208 and MSK216."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.common import FEW, MOSTLY, Hit, fold, found, listed, told_places
from maskcli.measure.questions import first_sums, query_sums
from maskcli.scene.scene import Attention, Scene, once


@rule(
    "MSK207", "unnormalised-rows", "warning", needs=("weights",), explained_by=("MSK216", "MSK208", "MSK209")
)
def unnormalised_rows(scene: Scene) -> Iterator[Found]:
    """Rows sum to one number other than 1, or only some rows do not sum to 1.

    A softmax over the keys sums to 1. One other constant points to a scale applied afterwards; a few odd rows point to
    something done to those rows only. Dropout, attention sinks and sigmoid attention have sums that vary from row to row,
    and are left alone.

    In code: weights multiplied or clipped after the softmax, averaged with the wrong divisor, saved after an in-place
    change.

    Fix: save the weights right behind the softmax, before anything scales them.
    """
    hits = []
    for attention in scene.attentions:
        if _softmax_axis(attention):
            continue
        rows, constant = _odd_sums(attention)
        if rows.any():
            hits.append(
                Hit(attention.name, rows, None, attention.measured.total, "constant" if constant else "")
            )
    for members, where, each in fold(hits):
        low, high = (
            float(f(m.share[m.rows]))
            for m, f in ((members[0], np.min), (members[0], np.max))
            if m.share is not None
        )
        which = (
            f"all rows sum to {low:.6g}"
            if members[0].note
            else f"{told_places(where, each, 'queries')} sum to {low:.4g} to {high:.4g}, all others to 1"
        )
        yield found(
            members,
            where,
            each,
            f"{which}; a softmax over the keys sums to 1",
            "save the weights right behind the softmax, before they are scaled, clipped or averaged",
            {"lowest_sum": low, "highest_sum": high},
        )


@rule("MSK208", "softmax-axis", "error", needs=("weights",), explained_by=("MSK216",))
def softmax_axis(scene: Scene) -> Iterator[Found]:
    """The weights sum to 1 over queries, heads or the batch, and not over keys: the softmax ran over another axis.

    The numbers look like attention, but no query gets a weighted mean of the values, and a mask over keys means something
    else.

    In code: `softmax(dim=1)`, `softmax(dim=2)` or `F.softmax(x)` without `dim` on scores [B, H, Q, K].

    Fix: `softmax(dim=-1)`.
    """
    by_axis: dict[str, list[Hit]] = {}
    for attention in scene.attentions:
        axis = _softmax_axis(attention)
        if axis:
            rows = np.broadcast_to(attention.real_rows, attention.shape[:3])
            by_axis.setdefault(axis, []).append(Hit(attention.name, rows, None, attention.measured.total))
    dims = {"queries": "-2", "heads": "1", "batch": "0"}
    for axis, hits in by_axis.items():
        for members, where, each in fold(hits):
            low, high = (float(f(members[0].share)) for f in (np.min, np.max) if members[0].share is not None)
            yield found(
                members,
                where,
                each,
                f"weights sum to 1 over {'the ' if axis == 'batch' else ''}{axis} and to {low:.3g} to {high:.3g} over keys: "
                f"the softmax ran over dim={dims[axis]}",
                "use softmax(dim=-1): each query's weights over the keys sum to 1",
                {"lowest_row_sum": low, "highest_row_sum": high},
            )


@rule("MSK216", "invalid-weights", "error", needs=("weights",))
def invalid_weights(scene: Scene) -> Iterator[Found]:
    """Weights are negative, infinite or greater than 1: these are not attention weights.

    A softmax yields numbers from 0 to 1. Values outside mean that scores, log-probabilities or an uninitialised buffer were
    saved in their place, and every other check of this tensor would be about the wrong thing.

    In code: returning the scores before the softmax, or a debug output of a fused kernel.

    Fix: save what comes out of the softmax. Fused kernels do not return it: use the eager implementation to look at it.
    """
    hits = []
    for attention in scene.attentions:
        measured = attention.measured
        low, high = measured.low < 0, measured.high > 1 + attention.tolerance
        bad = low | np.isinf(measured.low) | np.isinf(measured.high)
        if high.any() and not bad.any() and not _has_zeros(attention) and not _odd_sums(attention)[0].any():
            bad = high
        if bad.any():
            hits.append(Hit(attention.name, bad, None, np.where(low, measured.low, measured.high)))
    measures = {attention.name: attention.measured for attention in scene.attentions}
    for members, where, each in fold(hits):
        low_value = min(np.nanmin(measures[hit.tensor].low) for hit in members)
        high_value = max(np.nanmax(measures[hit.tensor].high) for hit in members)
        yield found(
            members,
            where,
            each,
            f"values run from {low_value:.4g} to {high_value:.4g}, where weights lie between 0 and 1: "
            f"{listed([m.tensor for m in members])} holds scores or something else",
            "save what comes out of the softmax (or pass --role scores=FILE:TENSOR when these are the scores)",
            {"lowest": _finite(low_value), "highest": _finite(high_value)},
        )


def _finite(value: float) -> float | str:
    return float(value) if np.isfinite(value) else str(float(value))


def _odd_sums(attention: Attention) -> tuple[Array, bool]:
    """Rows whose sum is odd, and whether all sums are the same number."""
    total = attention.measured.total
    none = np.zeros(total.shape, bool)
    rows = np.broadcast_to(attention.real_rows, total.shape) & np.isfinite(total) & (total != 0)
    if not rows.any() or (attention.measured.low < 0).any():
        return none, False
    off = rows & (np.abs(total - 1) > attention.tolerance)
    if not off.any():
        return none, False
    if off[rows].all():
        low, high = total[rows].min(), total[rows].max()
        constant = rows.sum() >= FEW and high - low <= 2 * attention.tolerance * max(high, 1e-3)
        return (rows if constant and not _may_be_sink(attention, rows) else none), True
    # Dropout, sinks and sigmoids leave hardly any sum at 1; rows of one key can be 1 among them.
    normal = (rows & ~off).sum() / rows.sum()
    # A weak sink takes a little from every row: its sums fade into 1, where odd rows stand apart from it.
    between = rows & ~off & (np.abs(total - 1) > attention.rounding)
    if (
        normal < MOSTLY
        or between.sum() > 0.1 * off.sum()
        or _has_dropout(attention, off)
        or _spread(total[off], attention.rounding)
    ):
        return none, False
    return off, False


def _may_be_sink(attention: Attention, rows: Array) -> bool:
    """Whether a constant sum below 1 can be an attention sink among nearly equal scores, which makes it n / (n + 1).

    Rows over different numbers of keys cannot share such a sum; in float32, equal scores alone make it the same to 1e-5.
    """
    total = attention.measured.total[rows]
    if total.max() > 1:
        return False
    counts = (
        attention.meant.keys_per_query if attention.meant is not None else attention.causal.keys_per_query
    )
    different = np.ptp(np.broadcast_to(counts, attention.shape[:3])[rows]) > 1
    return not different and (np.ptp(total) > 1e-5 or attention.tensor.dtype not in ("float32", "float64"))


def _spread(sums: Array, rounding: float) -> bool:
    """Whether odd sums lie below 1 and differ by more than rounding, as a sink leaves them; a scale leaves them equal."""
    return bool(sums.size > 1 and (sums < 1).all() and np.ptp(sums) > 4 * rounding)


def _has_dropout(attention: Attention, off: Array) -> bool:
    """Whether the odd rows lie on both sides of 1, as kept weights scaled by 1/(1-p) among zeros make them."""
    sums = attention.measured.total[off]
    return bool((sums > 1).any() and (sums < 1).any())


def _has_zeros(attention: Attention) -> bool:
    """Whether rows above 1 also hold exact zeros, as dropout and ReLU attention do."""
    return bool((attention.measured.low[attention.measured.high > 1 + attention.tolerance] == 0).all())


@once
def _softmax_axis(attention: Attention) -> str | None:
    """The axis, other than keys, over which the weights sum to 1; None when keys do or no axis does."""
    total = attention.measured.total
    rows = np.isfinite(total)
    if not rows.all() or (attention.measured.low < 0).any() or attention.looks_empty.all():
        return None
    if (np.abs(total - 1) <= attention.tolerance).mean() > 0.1:
        return None
    batch, heads, queries, _ = attention.shape
    if queries > 1 and all(
        _ones(sums, attention.tolerance) for sums in query_sums(attention.tensor, attention.shape)
    ):
        return "queries"
    over_heads, over_batch = first_sums(attention.tensor, attention.shape)
    if heads > 1 and _ones(over_heads, attention.tolerance):
        return "heads"
    return "batch" if batch > 1 and _ones(over_batch, attention.tolerance) else None


def _ones(sums: Array, tolerance: float) -> bool:
    """Whether sums are 1, all but those of keys that nothing weighs."""
    seen = sums[sums != 0]
    return bool(seen.size > 1 and np.abs(seen - 1).max() <= tolerance)
