"""Causes that show in a whole map of weights, whatever leaks: one function tells each from the numbers."""

from __future__ import annotations

import numpy as np

from maskcli.arrays import Array, Rows
from maskcli.diagnostics.verdicts.leaks import Leaking
from maskcli.diagnostics.verdicts.soft import extremes
from maskcli.diagnostics.verdicts.verdict import (
    FEW_KEYS,
    LEAK,
    LEAK_FLOOR,
    LEAK_OF_EVEN,
    TINY,
    Inverted,
    Kind,
    Verdict,
)
from maskcli.masks.mask import Mask
from maskcli.measure.passes import measure
from maskcli.measure.questions import column_mass
from maskcli.scene.scene import Attention
from maskcli.tensors.tolerances import has_digits, tells_equal, tolerances

# Inverted: this much mass on ignored keys, and less than that outside of the inverse.
INVERTED, INVERSE_FITS = 0.5, 0.05
# How far rounding takes a sum of equal weights from a whole multiple of one (bfloat16 keeps 8 bits).
WHOLE = 2.0**-7
# A map is uniform over at least this many rows; where digits are few, the longest has at least that many
# keys.
UNIFORM_ROWS, LONG = 4, 8
# Saved keys read at once when empty slots are looked for.
SLOTS = 4096
# Rows of at least this many keys tell a share above 0.5 from chance: 1/n is then far below it.
TELLING_KEYS = 8


def double_softmax(attention: Attention) -> Verdict | None:
    """Whether every row is the softmax of a softmax, in every head.

    If W = softmax(P) and P sums to 1 over n keys, then log W - mean(log W) + 1/n is P: never negative, and
    above 0.5 for some long row of each head: scores that are as often below their mean as above it cannot be
    both. No weight over n keys can then pass e / (n - 1 + e): nearly every map has it in most of its rows,
    and is spared a closer look.
    """
    measured = attention.measured
    rows = attention.real & (measured.total > 0) & (measured.low >= 0)
    if attention.shape[3] < FEW_KEYS or not rows.any():
        return None
    peaked = measured.high[rows] > np.e / (FEW_KEYS - 1 + np.e)
    if peaked.mean() > 0.5 or not _was_a_softmax(attention, rows):
        return None
    return Verdict(Kind.DOUBLE_SOFTMAX, attention.real, measured.high)


def _was_a_softmax(attention: Attention, rows: Rows) -> bool:
    """Whether the logs of the sampled rows, shifted, are rows of probabilities themselves."""
    tolerance = tolerances(attention.tensor.dtype).logs
    # One row tells nearly all maps that are nothing of the kind; it spares them the others.
    last = int(np.flatnonzero(rows.reshape(-1))[-1])
    lowest, _, _ = _before_softmax(attention.tensor.rows(last, last + 1).astype(np.float64))
    if lowest.min(initial=0.0) < -tolerance:
        return False
    lowest, highest, counts = _before_softmax(attention.sample.values.astype(np.float64))
    chosen = attention.sample.of(rows) & (counts >= FEW_KEYS)
    if chosen.sum() < FEW_KEYS or not chosen.any(axis=(0, 2)).all():
        return False
    peak = np.where(chosen & (counts >= TELLING_KEYS), highest, 0.0).max(axis=(0, 2))
    peaks = (peak > 0.5) & (peak <= 1 + 2 * tolerance)
    return bool((lowest[chosen] >= -tolerance).all() and peaks.all())


def _before_softmax(values: Array) -> tuple[Array, Array, Array]:
    """The extremes of log W - mean(log W) + 1/n over the n keys that each row of W [..., K] weighs, and n."""
    weighed = values > 0
    counts = weighed.sum(axis=-1)
    logs = np.log(values, out=np.zeros(values.shape), where=weighed)
    share = logs + ((1 - logs.sum(axis=-1)) / np.maximum(counts, 1))[..., None]
    return *extremes(share, weighed), counts


def empty_slots(attention: Attention) -> Verdict | None:
    """Whether all sampled rows weigh the empty slots of a cache (keys of zeros), each bitwise the same."""
    filled = _filled(attention)
    if filled is None:
        return None
    sample, shape = attention.sample, attention.shape
    slots = sample.values[..., filled:]
    chosen = sample.of(attention.real) & np.isfinite(slots).all(axis=3)
    low, high = slots.min(axis=3), slots.max(axis=3)
    if not chosen.any() or not ((low > 0) & (low == high))[chosen].all():
        return None
    kept = Mask.from_intervals(shape, np.zeros((1, 1, 1), np.int64), np.full((1, 1, 1), filled))
    mass = measure(attention.tensor, shape, {"slots": kept}).mass["slots"]
    return Verdict(Kind.EMPTY_SLOTS, attention.real & (mass > 0), mass, kept, filled)


def _filled(attention: Attention) -> int | None:
    """How many keys stand before the trailing run of saved keys that are all zeros; None without one."""
    key, (batch, _, _, length) = attention.parts.get("key"), attention.shape
    if key is None or len(key.shape) not in (3, 4):
        return None
    if (key.shape[0], key.shape[-2]) != (batch, length):
        return None
    leading = (slice(None),) * (len(key.shape) - 2)
    for start in range((length - 1) // SLOTS * SLOTS, -1, -SLOTS):
        values = key.read((*leading, slice(start, min(start + SLOTS, length))))
        used = (values != 0).any(axis=-1)
        slots = np.flatnonzero(used.reshape(-1, used.shape[-1]).any(axis=0))
        if slots.size:
            filled = start + int(slots[-1]) + 1
            return filled if filled < length else None
    return None


def inverted(attention: Attention) -> Verdict | None:
    """Inverted polarity, by the measured criterion: only an inverse of what was meant explains every row."""
    inverses = {what: mask for what, mask in _inverses(attention).items() if mask.attended}
    if not inverses or attention.meant is None:
        return None
    mass = measure(attention.tensor, attention.shape, {**inverses, "meant": attention.meant}).mass
    for what, inverse in inverses.items():
        told = _told_by(attention, inverse, mass[what])
        if told is None:
            continue
        violation, other = mass["meant"][told].mean(), mass[what][told].mean()
        # Of a narrow mask, even attention to everything puts next to nothing on what its inverse hides.
        even = 1 - attention.rows(inverse.keys_per_query)[told].mean() / attention.shape[3]
        if violation > INVERTED and other < min(INVERSE_FITS, LEAK_OF_EVEN * even + LEAK_FLOOR):
            rows = attention.real & (told | attention.looks_empty)
            share, extra = np.nan_to_num(mass["meant"]), Inverted(what, float(violation), float(other))
            return Verdict(Kind.INVERTED, rows, share, attention.meant, extra)
    return None


def _inverses(attention: Attention) -> dict[str, Mask]:
    """The inverse of everything that may have been inverted, by what that is."""
    inverses: dict[str, Mask] = {}
    if attention.padding is not None:
        inverses["the padding mask"] = ~attention.padding
        inverses["the padding mask, under a causal one,"] = attention.causal & ~attention.padding
        if attention.future_expected:
            inverses["the padding mask, with the causal one,"] = ~(attention.causal & attention.padding)
    given = attention.given
    if attention.keep is not None and given is not None and given.reason != "assumed":
        inverses[f"the mask {given.tensor.name!r}"] = ~attention.keep
    if attention.expected is not None:
        inverses[f"the declared mask {attention.spec!r}"] = ~attention.expected
    return inverses


def _told_by(attention: Attention, inverse: Mask, mass: Array) -> Rows | None:
    """The rows [B, H, Q] that tell whether an inverse is obeyed; None when its empty rows do not look it."""
    empty = attention.looks_empty
    open_rows = attention.rows(inverse.keys_per_query > 0)
    told: Rows = open_rows & ~np.isnan(mass) & ~empty
    if not told.any() or not empty[~open_rows].all():
        return None
    return None if np.isnan(mass[open_rows]).mean() > INVERSE_FITS else told


def uniform(attention: Attention, leaking: Leaking) -> Verdict | None:
    """Whether every real row that could differ is exactly uniform; short 16-bit rows can be by chance."""
    if leaking.some or not tells_equal(attention.tensor.dtype):
        return None
    # In a uniform row the sum is the weight times the number of keys: what is no whole multiple is not worth
    # reading again.
    multiple = attention.measured.total / np.maximum(attention.measured.high, TINY)
    keys = np.round(multiple)
    rows = attention.real & (keys > 1)
    whole = np.abs(multiple - keys) <= WHOLE * multiple
    if rows.sum() < UNIFORM_ROWS or not whole[rows].all():
        return None
    support = attention.support
    longest = 2 if has_digits(attention.tensor.dtype) else LONG
    if not (support[rows] > 1).all() or support[rows].max() < longest:
        return None
    return Verdict(Kind.UNIFORM, attention.real & (support > 1), attention.measured.high)


def other_sample(attention: Attention, pads: Rows) -> Verdict | None:
    """Whether other samples' padding explains every head of every sample; `pads` are rows that read its own.

    Maps that simply use every key prove nothing: somewhere a real token must be ignored because it is padding
    in the other sample.
    """
    (batch, heads), keys = attention.shape[:2], attention.keys
    if not pads.any() or keys is None or attention.roled.kind == "cross":
        return None
    if batch < 2 or (keys.real == keys.real[:1]).all():
        return None
    rows = attention.real & ~attention.looks_empty
    mass = column_mass(attention.tensor, attention.shape, rows)
    hidden = (~keys.real).T.astype(np.float64)
    outside = (mass @ hidden) / np.maximum(mass.sum(axis=2), TINY)[..., None]
    unweighed = (mass > 0) @ hidden == 0
    item, head = np.arange(batch)[:, None], np.arange(heads)[None]
    if not (outside[item, head, item] > LEAK).any():
        return None
    for order, other in (_orders(item, head) | _any_order(outside, unweighed)).items():
        obeyed = outside[item, head, other] < LEAK_FLOOR
        # Padding of the other sample that is real in this one, and that no row of this map weighs.
        tells = (keys.real[:, None] & ~keys.real[other]).any(axis=2) & unweighed[item, head, other]
        if obeyed.all() and tells.any():
            share = attention.measured.mass["padding"]
            return Verdict(Kind.OTHER_SAMPLE, pads, share, attention.padding, order)
    return None


def _orders(item: Array, head: Array) -> dict[str, Array]:
    """Which sample's mask each sample [B, 1] and head [1, H] may have got: int [B, H] by the order in words.

    `repeat` where `repeat_interleave` was meant gives head h of sample b the mask of sample (b * H + h) % B.
    """
    batch, heads = len(item), head.shape[1]
    repeated = "sample (b * H + h) % B for head h of sample b: repeat where repeat_interleave was meant"
    orders = {repeated: (item * heads + head) % batch}
    for shift in range(1, batch):
        orders[f"sample (b + {shift}) % {batch} for sample b"] = (item + shift) % batch + 0 * head
    orders["the samples in reverse order"] = batch - 1 - item + 0 * head
    return orders


def _any_order(outside: Array, unweighed: Array) -> dict[str, Array]:
    """The one other order of samples that explains every head, by padding that each head leaves out."""
    fits = np.all((outside < LEAK_FLOOR) & unweighed, axis=1)
    if not fits.any(axis=1).all():
        return {}
    # Of the samples whose padding is kept to, the one with most of it: the fewest others keep to it.
    rare = fits.sum(axis=0)
    chosen = np.where(fits, rare, rare.max() + 1).argmin(axis=1)
    if len(np.unique(chosen)) < len(chosen):
        return {}
    told = ", ".join(f"{other} for {item}" for item, other in enumerate(chosen.tolist()) if item != other)
    return {f"that of sample {told}": np.broadcast_to(chosen[:, None], outside.shape[:2])}
