"""Rules on what weights are by themselves, whatever the mask: MSK205, MSK206, MSK209 and MSK212."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Rows
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.common import FEW, MOSTLY
from maskcli.diagnostics.rules.hits import Hit, fold_by
from maskcli.diagnostics.verdicts.judge import verdicts
from maskcli.diagnostics.verdicts.leaks import is_binary
from maskcli.diagnostics.verdicts.soft import of_sample
from maskcli.diagnostics.verdicts.verdict import Kind
from maskcli.masks.mask import Mask
from maskcli.measure.passes import measure
from maskcli.measure.questions import column_mass
from maskcli.scene.scene import Attention, Scene

# What rows lost and other rows did not, by whether it was the padding alone.
_CUT_OFF = {False: ("forbidden keys", "may see every key"), True: ("padding before them", "have none")}
# Masked after the softmax: nearly all rows with forbidden keys lack something, on average more than a faint
# sink takes.
CUT_ROWS, CUT = 0.9, 0.02


@rule(
    "MSK205", "uniform-masked-row", "error", needs=("weights",), explained_by=("MSK108", "MSK109", "MSK214")
)
def uniform_masked_row(scene: Scene) -> Iterator[Found]:
    """A row weighs every key exactly the same, forbidden ones too: it was fully masked with a finite fill.

    The token averages the whole row, padding and future included, without any NaN to warn of it: when every
    key of a row gets the same large negative number, softmax cancels it and returns 1/K everywhere. For
    padding tokens that is harmless (a note); for a real token the mask left it nothing.

    In code: left padding combined with a causal mask, or a sliding window that lies inside the padding, with
    `torch.finfo(dtype).min` as the fill.

    Fix: leave every real token at least itself to attend to; zero the output of rows that have nothing.
    """
    whole_maps = (Kind.UNIFORM, Kind.INVERTED, Kind.OTHER_SAMPLE)
    explained = [found for kind in whole_maps for found in verdicts(scene, kind)]
    names = {attention.name for attention, _ in explained}
    real_hits, pad_hits = [], []
    for attention in scene.attentions:
        uniform = attention.uniform & _forbids(attention)
        if attention.name in names or not uniform.any():
            continue
        # A head or two can be uniform by design; a fully masked row is so in all of them.
        whole = attention.rows(np.all(uniform, axis=1, keepdims=True))
        real = attention.rows(_real_rows(attention))
        real_hits.append((Hit(attention.name, whole & real), attention))
        pad_hits.append((Hit(attention.name, whole & ~real), attention))

    fix = "let every real token attend at least to itself; zero the output of rows without any key"
    harmless = "harmless for padding tokens, as long as nothing reads their output"
    for hits, who, advice, severity in (
        (real_hits, "real", fix, None),
        (pad_hits, "padding", harmless, "note"),
    ):
        for group in fold_by(hits, alike=lambda _: None):
            weight = float(group.extra.measured.high[group.hits[0].rows].mean())
            yield group.found(
                f"{group.told('queries')} ({who} tokens) weigh every key exactly {weight:.4g}, forbidden "
                "ones too: fully masked rows with a finite fill",
                advice,
                severity=severity,
                weight=weight,
                rows=sum(int(np.any(hit.rows, axis=1).sum()) for hit in group.hits),
            )


@rule("MSK206", "uniform-attention", "error", needs=("weights",))
def uniform_attention(scene: Scene) -> Iterator[Found]:
    """Every row is exactly uniform: the scores are all equal, or everything was masked with a finite fill.

    Attention that is bitwise the same for every key has not looked at anything. Random initialisation is only
    nearly uniform, so this is never just an untrained model.

    In code: queries or keys that are all zero, a mask passed in place of the scores, scores multiplied by 0,
    or a fill that covers every key.

    Fix: print the scores before the softmax. All equal: look at query and key. All at the fill: look at the
    mask.
    """
    hits = (
        (Hit(attention.name, verdict.rows), (attention, _which_uniform(attention, verdict.rows)))
        for attention, verdict in verdicts(scene, Kind.UNIFORM)
    )
    for group in fold_by(hits, alike=lambda extra: extra[1]):
        yield group.found(
            f"every row weighs its keys exactly the same, {group.extra[1]}",
            "look at the scores before the softmax: equal scores point to query and key, one large negative "
            "number to the mask",
            rows=group.rows,
            largest_support=max(int(attention.support.max()) for attention, _ in group.extras),
        )


@rule("MSK209", "mask-after-softmax", "error", needs=("weights",), explained_by=("MSK216", "MSK208"))
def mask_after_softmax(scene: Scene) -> Iterator[Found | Undecided]:
    """The mask was multiplied in after the softmax: forbidden keys weigh 0, and what they took is lost.

    Every query then gets a smaller output the more it has to ignore: the first tokens of a causal model
    hardly get any. The scores of ignored keys still decide how much is left, so the future leaks through the
    sum.

    In code: `softmax(scores) * mask`, dropout of masked positions after the softmax.

    Fix: mask the scores before the softmax, or divide by the sum that is left.
    """
    hits = []
    for attention in scene.attentions:
        cuts = [cut for cut in _cuts(attention) if _is_cut(attention, cut)]
        matches = [_cut_softmax(attention, cut) for cut in cuts]
        if True in matches:
            cut = cuts[matches.index(True)]
            hit = Hit(attention.name, _forbidding(attention, cut), None, attention.measured.total)
            hits.append((hit, cut.only_padding))
        elif None in matches:
            yield Undecided(f"scores, or a query of {attention.name} that may attend to every key")

    for group in fold_by(hits):
        cut_off, kept = _CUT_OFF[group.extra]
        sums = np.concatenate([hit.share[hit.rows] for hit in group.hits if hit.share is not None])
        low, high = float(sums.min()), float(sums.max())
        yield group.found(
            f"{group.told('queries')} have {cut_off} and sum to {low:.3g} to {high:.3g}, while rows that "
            f"{kept} sum to 1: the mask was multiplied in after the softmax",
            "mask the scores before the softmax",
            lowest_sum=low,
            highest_sum=high,
        )


@rule("MSK212", "double-softmax", "warning", needs=("weights",), explained_by=("MSK216",))
def double_softmax(scene: Scene) -> Iterator[Found]:
    """The weights are the softmax of a softmax.

    Attention is blurred in every layer, and the model trains, badly: a softmax of numbers between 0 and 1 is
    nearly flat, and no key can weigh more than e times another.

    In code: `softmax` on what already is `attn_weights`, a library that returns probabilities where scores
    were expected.

    Fix: take one of the two away.
    """
    hits = ((Hit(a.name, verdict.rows), a) for a, verdict in verdicts(scene, Kind.DOUBLE_SOFTMAX))
    for group in fold_by(hits, alike=lambda _: None):
        yield group.found(
            "the logarithm of every row, shifted by a constant, is itself a row of probabilities: a softmax "
            "was taken of a softmax",
            "apply the softmax once",
            largest_weight=max(float(np.nanmax(attention.measured.high)) for attention in group.extras),
        )


class _Cut(NamedTuple):
    """A mask that may have been multiplied in after a softmax over so many keys of each row, [b, h, q].

    `only_padding`: the softmax was causal, and what it lost is padding.
    """

    mask: Mask
    before: Array
    only_padding: bool


def _cuts(attention: Attention) -> Iterator[_Cut]:
    """What may have been cut off: all that is forbidden, or the padding alone where nothing looks ahead."""
    mask = _obeyed(attention)
    if mask is None:
        return
    yield _Cut(mask, np.full((1, 1, 1), attention.shape[3]), only_padding=False)
    if attention.padding is not None and _sees_no_future(attention):
        causal = attention.causal
        yield _Cut(attention.padding & causal, causal.keys_per_query, only_padding=True)


def _forbidding(attention: Attention, cut: _Cut) -> Rows:
    """Real rows [B, H, Q] that lose some key."""
    return attention.rows(attention.real_rows & (cut.mask.keys_per_query < cut.before))


def _obeyed(attention: Attention) -> Mask | None:
    """What was meant, else a causal mask where no weights look ahead."""
    if attention.meant is not None:
        return attention.meant
    return attention.causal if _sees_no_future(attention) else None


def _sees_no_future(attention: Attention) -> bool:
    """Whether no real row weighs a key behind it, in a map that is square or whose queries come last."""
    future = attention.measured.mass.get("future")
    if future is None or attention.shape[2] < 2:
        return False
    rows = attention.real & ~np.isnan(attention.measured.total)
    return bool(rows.any()) and not future[rows].any()


def _is_cut(attention: Attention, cut: _Cut) -> bool:
    """Whether forbidden keys weigh exactly 0 and nearly all rows that have some lack a good part of 1."""
    rows = _forbidding(attention, cut)
    lacking = 1 - attention.measured.total[rows]
    if lacking.size < FEW or not np.isfinite(lacking).all() or (attention.measured.low < 0).any():
        return False
    nearly_all = (lacking > attention.rounding).mean() >= CUT_ROWS
    if not nearly_all or lacking.min() < -attention.tolerance or lacking.mean() < CUT:
        return False
    return not measure(attention.tensor, attention.shape, {"mask": cut.mask}).mass["mask"][rows].any()


def _cut_softmax(attention: Attention, cut: _Cut) -> bool | None:
    """Whether a softmax was cut: rows that lose nothing sum to 1, or W is softmax(S) where kept.

    None when there is neither such a row nor the scores: a sink looks the same.
    """
    total, tolerance = attention.measured.total, attention.tolerance
    whole = attention.rows(attention.real_rows & (cut.mask.keys_per_query == cut.before))
    if whole.any():
        return bool((np.abs(total[whole] - 1) <= tolerance).all())
    scores = of_sample(attention, "scores")
    if scores is None:
        return None
    sample = attention.sample
    if cut.only_padding:
        scores = np.where(sample.allowed(attention.causal), scores, -np.inf)
    powers = np.exp(scores - scores.max(axis=3, keepdims=True))
    made = powers / powers.sum(axis=3, keepdims=True) * sample.allowed(cut.mask)
    apart = np.abs(made - sample.values)[sample.of(attention.real_rows)]
    return bool(apart.max(initial=0.0) <= tolerance)


def _which_uniform(attention: Attention, rows: Rows) -> str:
    """Over which keys every row is uniform, and what that points to."""
    every = f"over all {attention.shape[3]} keys"
    if not attention.uniform[rows].all():
        return (
            "over the keys they may attend to: the mask works, but the scores are equal (zero query or "
            "key, or a mask in place of the scores)"
        )
    if (_forbids(attention) & rows).any():
        cause = "everything was masked with a finite fill, or no mask and equal scores"
        return f"{every}, forbidden ones too: {cause}"
    return f"{every}: the scores are equal (zero query or key?), or everything was masked with a finite fill"


def _real_rows(attention: Attention) -> Array:
    """Rows of real tokens, bool [B, 1, Q].

    When nothing else tells, a uniform row whose own key gets nothing from any other row belongs to padding.
    """
    known = attention.queries is not None or attention.keep is not None
    own = attention.placement.own
    if known or attention.roled.kind == "cross" or (own < 0).any():
        return attention.real_rows
    mass = column_mass(attention.tensor, attention.shape, ~attention.uniform).sum(axis=1)
    own = np.broadcast_to(own, (len(mass), own.shape[1]))
    hidden = np.all(attention.uniform, axis=1) & (np.take_along_axis(mass, own, axis=1) == 0)
    real: Array = attention.real_rows & ~hidden[:, None]
    return real


def _forbids(attention: Attention) -> Rows:
    """Rows [B, H, Q] that must ignore at least one key, by what was meant or by what the other rows show."""
    keys = attention.shape[3]
    forbids = np.zeros(attention.shape[:3], bool)
    if attention.meant is not None and not is_binary(attention):
        forbids = attention.rows(attention.meant.keys_per_query < keys)
    if attention.authority in ("expected", "keep") or attention.roled.kind == "cross":
        return forbids
    # Nothing says causal: it is when every row that is not uniform sees no future.
    others = ~attention.uniform & ~np.isnan(attention.measured.total)
    future = attention.rows(attention.causal.keys_per_query < keys)
    checked = others & future
    if others.mean() < MOSTLY or checked.sum() < FEW or attention.measured.mass["future"][checked].max() > 0:
        return forbids
    return forbids | future
