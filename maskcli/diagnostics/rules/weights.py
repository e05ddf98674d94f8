"""Rules on what weights are by themselves, whatever the mask: MSK205, MSK206, MSK209 and MSK212."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.common import FEW, MOSTLY, Hit, fold, found, told_places
from maskcli.diagnostics.verdicts.causes import of_sample
from maskcli.diagnostics.verdicts.judge import is_binary, verdicts
from maskcli.masks.mask import Mask
from maskcli.measure.passes import measure
from maskcli.measure.questions import column_mass
from maskcli.scene.scene import Attention, Scene

# Masked after the softmax: nearly all rows with forbidden keys lack something, on average more than a faint sink takes.
CUT_ROWS, CUT = 0.9, 0.02


@rule("MSK205", "uniform-masked-row", "error", needs=("weights",), explained_by=("MSK109", "MSK214"))
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
                members,
                where,
                each,
                f"{told_places(where, each, 'queries')} ({who} tokens) weigh every key exactly {size:.4g}, forbidden ones "
                "too: fully masked rows with a finite fill",
                "harmless for padding tokens, as long as nothing reads their output"
                if severity
                else "let every real token attend at least to itself; zero the output of rows without any key",
                {"weight": size, "rows": int(sum(np.any(hit.rows, axis=1).sum() for hit in members))},
                severity,
            )


@rule("MSK206", "uniform-attention", "error", needs=("weights",))
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
            members,
            where,
            each,
            f"every row weighs its keys exactly the same, {members[0].note}",
            "look at the scores before the softmax: equal scores point to query and key, one large negative number to the mask",
            {"rows": int(sum(hit.rows.sum() for hit in members)), "largest_support": largest},
        )


@rule("MSK209", "mask-after-softmax", "error", needs=("weights",), explained_by=("MSK216", "MSK208"))
def mask_after_softmax(scene: Scene) -> Iterator[Found | Undecided]:
    """The mask was multiplied into the weights after the softmax: forbidden keys weigh 0, and what they took is lost.

    Every query then gets a smaller output the more it has to ignore: the first tokens of a causal model hardly get any. The
    scores of ignored keys still decide how much is left, so the future leaks through the sum.

    In code: `softmax(scores) * mask`, dropout of masked positions after the softmax.

    Fix: mask the scores before the softmax, or divide by the sum that is left.
    """
    hits = []
    for attention in scene.attentions:
        mask = (
            attention.meant
            if attention.meant is not None
            else attention.causal
            if _sees_no_future(attention)
            else None
        )
        if mask is None or not _is_cut(attention, mask):
            continue
        if (matches := _cut_softmax(attention, mask)) is None:
            yield Undecided(f"scores, or a query of {attention.name} that may attend to every key")
        elif matches:
            rows = np.broadcast_to(
                attention.real_rows & (mask.keys_per_query < attention.shape[3]), attention.shape[:3]
            )
            hits.append(Hit(attention.name, rows, None, attention.measured.total))
    for members, where, each in fold(hits):
        low = min(float(hit.share[hit.rows].min()) for hit in members if hit.share is not None)
        high = max(float(hit.share[hit.rows].max()) for hit in members if hit.share is not None)
        yield found(
            members,
            where,
            each,
            f"{told_places(where, each, 'queries')} have forbidden keys and sum to {low:.3g} to {high:.3g}, while rows that may see every key sum to "
            "1: the mask was multiplied in after the softmax",
            "mask the scores before the softmax",
            {"lowest_sum": low, "highest_sum": high},
        )


@rule("MSK212", "double-softmax", "warning", needs=("weights",), explained_by=("MSK216",))
def double_softmax(scene: Scene) -> Iterator[Found]:
    """The weights are the softmax of a softmax.

    A softmax of numbers between 0 and 1 is nearly flat: no key can weigh more than e times another. Attention is blurred in
    every layer, and the model trains, badly.

    In code: `softmax` on what already is `attn_weights`, a library that returns probabilities where scores were expected.

    Fix: take one of the two away.
    """
    for members, where, each in fold(Hit(a.name, v.rows, None) for a, v in verdicts(scene, "doubled")):
        largest = max(
            float(np.nanmax(a.measured.high))
            for a in scene.attentions
            if a.name in {hit.tensor for hit in members}
        )
        yield found(
            members,
            where,
            each,
            "the logarithm of every row, shifted by a constant, is itself a row of probabilities: a softmax was taken of a softmax",
            "apply the softmax once",
            {"largest_weight": largest},
        )


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
    if (
        (lacking > attention.rounding).mean() < CUT_ROWS
        or lacking.min() < -attention.tolerance
        or lacking.mean() < CUT
    ):
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
        return f"over all {keys} keys, forbidden ones too: everything was masked with a finite fill, or no mask and equal scores"
    return f"over all {keys} keys: the scores are equal (zero query or key?), or everything was masked with a finite fill"


def _real_rows(attention: Attention, uniform: Array) -> Array:
    """Rows of real tokens, bool [B, 1, Q]. When nothing else tells, a uniform row whose own key gets nothing from any other
    row belongs to padding.
    """
    if (
        attention.queries is not None
        or attention.keep is not None
        or attention.past + attention.shape[2] > attention.shape[3]
    ):
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
