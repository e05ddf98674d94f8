"""Rules on what weights are by themselves, whatever the mask: MSK205 to MSK209, MSK212 and MSK216."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from maskcli.diagnostics.causes import of_sample
from maskcli.diagnostics.evidence import column_mass, first_sums, measure, query_sums
from maskcli.diagnostics.explain import is_binary, verdicts
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.rules.common import (
    Hit,
    fold,
    found,
    listed,
    told_places,
)
from maskcli.diagnostics.scene import Attention, Scene, once
from maskcli.masks.mask import Mask

Array = npt.NDArray[Any]

# At least this share of rows must sum to 1 before the others are called the odd ones.
MOSTLY = 0.5
# Fewer rows than this say nothing about all the others.
FEW = 4
# Masked after the softmax: nearly all rows with forbidden keys lack something, on average more than a faint sink takes.
CUT_ROWS, CUT = 0.9, 0.02


def uniform_masked_row(scene: Scene) -> Iterator[Found]:
    """A row weighs every key exactly the same, forbidden ones too: it was fully masked with a finite fill.

    When every key of a row gets the same large negative number, softmax cancels it and returns 1/K everywhere. The token
    then averages the whole row, padding and future included, without any NaN to warn of it. For padding tokens that is
    harmless (a note); for a real token the mask left it nothing.

    In code: left padding combined with a causal mask, or a sliding window that lies inside the padding, with
    `torch.finfo(dtype).min` as the fill.

    Fix: leave every real token at least itself to attend to; zero the output of rows that have nothing.
    """
    real_hits, pad_hits = [], []
    for attention in scene.attentions:
        uniform = attention.uniform & _forbids(attention)
        if not uniform.any() or any(v for a, v in verdicts(scene, "uniform") if a is attention):
            continue
        if any(a is attention for a, _ in verdicts(scene, "inverted")):
            continue
        real = np.broadcast_to(_real_rows(attention, attention.uniform), uniform.shape)
        # A head or two can be uniform by design; a fully masked row is so in all of them.
        whole = np.broadcast_to(np.all(uniform, axis=1, keepdims=True), uniform.shape)
        if (whole & real).any():
            real_hits.append(Hit(attention.name, whole & real, None, attention.measured.high))
        if (whole & ~real).any():
            pad_hits.append(Hit(attention.name, whole & ~real, None, attention.measured.high))
    for hits, severity, who in ((real_hits, None, "real"), (pad_hits, "note", "padding")):
        for members, where, each in fold(hits):
            size = float(members[0].share[members[0].rows].mean()) if members[0].share is not None else 0.0
            yield found(
                members, where, each,
                f"{told_places(where, each, 'queries')} ({who} tokens) weigh every key exactly {size:.4g}, forbidden ones "
                "too: fully masked rows with a finite fill",
                "harmless for padding tokens, as long as nothing reads their output"
                if severity else "let every real token attend at least to itself; zero the output of rows without any key",
                {"weight": size, "rows": int(sum(np.any(hit.rows, axis=1).sum() for hit in members))},
                severity,
            )  # fmt: skip


def uniform_attention(scene: Scene) -> Iterator[Found]:
    """Every row is exactly uniform: the scores are all equal, or everything was masked with a finite fill.

    Attention that is bitwise the same for every key has not looked at anything. Random initialisation is only nearly
    uniform, so this is never just an untrained model.

    In code: queries or keys that are all zero, a mask passed in place of the scores, scores multiplied by 0, or a fill that
    covers every key.

    Fix: print the scores before the softmax. All equal: look at query and key. All at the fill: look at the mask.
    """
    maps = {a.name: (a, v) for a, v in verdicts(scene, "uniform")}
    hits = [Hit(name, v.rows, None, v.share, _which_uniform(a, v.rows)) for name, (a, v) in maps.items()]
    for members, where, each in fold(hits):
        largest = max(int(maps[hit.tensor][0].support.max()) for hit in members)
        yield found(
            members, where, each,
            f"every row weighs its keys exactly the same, {members[0].note}",
            "look at the scores before the softmax: equal scores point to query and key, one large negative number to the mask",
            {"rows": int(sum(hit.rows.sum() for hit in members)), "largest_support": largest},
        )  # fmt: skip


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
            hits.append(Hit(attention.name, rows, None, attention.measured.total, "constant" if constant else ""))
    for members, where, each in fold(hits):
        low, high = (float(f(m.share[m.rows])) for m, f in ((members[0], np.min), (members[0], np.max)) if m.share is not None)
        which = (
            f"all rows sum to {low:.6g}"
            if members[0].note
            else f"{told_places(where, each, 'queries')} sum to {low:.4g} to {high:.4g}, all others to 1"
        )
        yield found(
            members, where, each,
            f"{which}; a softmax over the keys sums to 1",
            "save the weights right behind the softmax, before they are scaled, clipped or averaged",
            {"lowest_sum": low, "highest_sum": high},
        )  # fmt: skip


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
                members, where, each,
                f"weights sum to 1 over {'the ' if axis == 'batch' else ''}{axis} and to {low:.3g} to {high:.3g} over keys: "
                f"the softmax ran over dim={dims[axis]}",
                "use softmax(dim=-1): each query's weights over the keys sum to 1",
                {"lowest_row_sum": low, "highest_row_sum": high},
            )  # fmt: skip


def mask_after_softmax(scene: Scene) -> Iterator[Found | Undecided]:
    """The mask was multiplied into the weights after the softmax: forbidden keys weigh 0, and what they took is lost.

    Every query then gets a smaller output the more it has to ignore: the first tokens of a causal model hardly get any. The
    scores of ignored keys still decide how much is left, so the future leaks through the sum.

    In code: `softmax(scores) * mask`, dropout of masked positions after the softmax.

    Fix: mask the scores before the softmax, or divide by the sum that is left.
    """
    hits = []
    for attention in scene.attentions:
        mask = attention.meant if attention.meant is not None else attention.causal if _sees_no_future(attention) else None
        if mask is None or not _is_cut(attention, mask):
            continue
        if (matches := _cut_softmax(attention, mask)) is None:
            yield Undecided(f"scores, or a query of {attention.name} that may attend to every key")
        elif matches:
            rows = np.broadcast_to(attention.real_rows & (mask.keys_per_query < attention.shape[3]), attention.shape[:3])
            hits.append(Hit(attention.name, rows, None, attention.measured.total))
    for members, where, each in fold(hits):
        low = min(float(hit.share[hit.rows].min()) for hit in members if hit.share is not None)
        high = max(float(hit.share[hit.rows].max()) for hit in members if hit.share is not None)
        yield found(
            members, where, each,
            f"{told_places(where, each, 'queries')} have forbidden keys and sum to {low:.3g} to {high:.3g}, while rows that may see every key sum to "
            "1: the mask was multiplied in after the softmax",
            "mask the scores before the softmax",
            {"lowest_sum": low, "highest_sum": high},
        )  # fmt: skip


def double_softmax(scene: Scene) -> Iterator[Found]:
    """The weights are the softmax of a softmax.

    A softmax of numbers between 0 and 1 is nearly flat: no key can weigh more than e times another. Attention is blurred in
    every layer, and the model trains, badly.

    In code: `softmax` on what already is `attn_weights`, a library that returns probabilities where scores were expected.

    Fix: take one of the two away.
    """
    for members, where, each in fold(Hit(a.name, v.rows, None) for a, v in verdicts(scene, "doubled")):
        largest = max(float(np.nanmax(a.measured.high)) for a in scene.attentions if a.name in {hit.tensor for hit in members})
        yield found(
            members, where, each,
            "the logarithm of every row, shifted by a constant, is itself a row of probabilities: a softmax was taken of a softmax",
            "apply the softmax once",
            {"largest_weight": largest},
        )  # fmt: skip


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
            members, where, each,
            f"values run from {low_value:.4g} to {high_value:.4g}, where weights lie between 0 and 1: "
            f"{listed([m.tensor for m in members])} holds scores or something else",
            "save what comes out of the softmax (or pass --role scores=FILE:TENSOR when these are the scores)",
            {"lowest": _finite(low_value), "highest": _finite(high_value)},
        )  # fmt: skip


def _sees_no_future(attention: Attention) -> bool:
    """Whether no real row weighs a key behind it, in a map that is square or whose queries come last."""
    rows = np.broadcast_to(attention.real_rows, attention.shape[:3]) & ~np.isnan(attention.measured.total)
    future = attention.measured.mass.get("future")
    return future is not None and attention.shape[2] > 1 and bool(rows.any()) and not future[rows].any()


def _is_cut(attention: Attention, mask: Mask) -> bool:
    """Whether forbidden keys weigh exactly 0 and nearly all rows that have some lack a good part of 1."""
    total = attention.measured.total
    rows = np.broadcast_to(attention.real_rows & (mask.keys_per_query < attention.shape[3]), total.shape)
    if rows.sum() < FEW or not np.isfinite(total[rows]).all() or (attention.measured.low < 0).any():
        return False
    lacking = 1 - total[rows]
    if (lacking > attention.rounding).mean() < CUT_ROWS or lacking.min() < -attention.tolerance or lacking.mean() < CUT:
        return False
    return not measure(attention.tensor, attention.shape, {"mask": mask}).mass["mask"][rows].any()


def _cut_softmax(attention: Attention, mask: Mask) -> bool | None:
    """Whether a softmax over all keys was cut: rows without forbidden keys sum to 1, or W is softmax(S) where it is kept.

    None when there is neither such a row nor the scores: a sink looks the same.
    """
    total = attention.measured.total
    whole = np.broadcast_to(attention.real_rows & (mask.keys_per_query == attention.shape[3]), total.shape)
    if whole.any():
        return bool((np.abs(total[whole] - 1) <= attention.tolerance).all())
    found = attention.sample
    if (scores := of_sample(attention, "scores")) is None:
        return None
    with np.errstate(all="ignore"):
        powers = np.exp(scores - scores.max(axis=3, keepdims=True))
        made = powers / powers.sum(axis=3, keepdims=True) * found.allowed(mask)
    chosen = found.of(attention.real_rows)
    return bool((np.abs(made - found.values)[chosen].max(initial=0.0)) <= attention.tolerance)


def _which_uniform(attention: Attention, rows: Array) -> str:
    """Over which keys every row is uniform, and what that points to."""
    keys = attention.shape[3]
    if not attention.uniform[rows].all():
        return (
            "over the keys they may attend to: the mask works, but the scores are equal (zero query or key, or a mask in place of "
            "the scores)"
        )
    if (_forbids(attention) & rows).any():
        return (
            f"over all {keys} keys, forbidden ones too: everything was masked with a finite fill, or no mask and equal scores"
        )
    return f"over all {keys} keys: the scores are equal (zero query or key?), or everything was masked with a finite fill"


def _finite(value: float) -> float | str:
    return float(value) if np.isfinite(value) else str(float(value))


def _real_rows(attention: Attention, uniform: Array) -> Array:
    """Rows of real tokens, bool [B, 1, Q]. When nothing else tells, a uniform row whose own key gets nothing from any other
    row belongs to padding.
    """
    if attention.queries is not None or attention.keep is not None or attention.past + attention.shape[2] > attention.shape[3]:
        return attention.real_rows
    mass = column_mass(attention.tensor, attention.shape, ~uniform)
    own = mass[:, attention.past : attention.past + attention.shape[2]]
    hidden = np.all(uniform, axis=1) & (own == 0)
    real: Array = attention.real_rows & ~hidden[:, None]
    return real


def _forbids(attention: Attention) -> Array:
    """Rows [B, H, Q] that must ignore at least one key, by what was meant or by what the other rows show."""
    keys = attention.shape[3]
    forbids = np.zeros(attention.shape[:3], bool)
    if attention.meant is not None and not is_binary(attention):
        forbids = np.broadcast_to(attention.meant.keys_per_query < keys, forbids.shape)
    if attention.expected is not None or attention.keep is not None or attention.roled.kind == "cross":
        return forbids
    # Nothing says causal: it is when every row that is not uniform sees no future.
    others = ~attention.uniform & ~np.isnan(attention.measured.total)
    future = np.broadcast_to(attention.causal.keys_per_query < keys, forbids.shape)
    checked = others & future
    if others.mean() < MOSTLY or checked.sum() < FEW:
        return forbids
    return forbids | future if float(attention.measured.mass["future"][checked].max()) == 0.0 else forbids


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
    counts = attention.meant.keys_per_query if attention.meant is not None else attention.causal.keys_per_query
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
    if queries > 1 and all(_ones(sums, attention.tolerance) for sums in query_sums(attention.tensor, attention.shape)):
        return "queries"
    over_heads, over_batch = first_sums(attention.tensor, attention.shape)
    if heads > 1 and _ones(over_heads, attention.tolerance):
        return "heads"
    return "batch" if batch > 1 and _ones(over_batch, attention.tolerance) else None


def _ones(sums: Array, tolerance: float) -> bool:
    """Whether sums are 1, all but those of keys that nothing weighs."""
    seen = sums[sums != 0]
    return bool(seen.size > 1 and np.abs(seen - 1).max() <= tolerance)
