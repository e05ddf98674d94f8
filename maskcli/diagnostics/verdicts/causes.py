"""What a map of weights that disobeys its mask comes from: each cause that can be told from the numbers, one function each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Joined, Named, Spec, build, conjuncts, names_files
from maskcli.measure.passes import measure
from maskcli.measure.questions import column_mass_by_head
from maskcli.scene.scene import LOCAL, Attention, once

# Above this share of a row an ignored key is attended; below the floor it is rounding. A guard against 0 / 0.
LEAK, LEAK_FLOOR, TINY = 1e-3, 1e-6, 1e-30
# A soft mask leaves a forbidden key at most this share of an allowed one's weight: exp(-3). What a model that reads its
# padding gives it lies between 0.15 and 1 (measured), and differs from head to head.
SOFTENED = 0.05
# How far log W - S strays on allowed keys: 0, 0.015 and 0.022 in float32, float16 and bfloat16 (measured), with room.
BIAS = {"float64": 1e-3, "float32": 1e-3, "float16": 0.03, "bfloat16": 0.06}
# The second of two softmaxes sees probabilities: its log is one again, up to this much rounding.
DOUBLED = {"float64": 1e-5, "float32": 1e-4, "float16": 2e-3, "bfloat16": 1.2e-2}
# Saved keys read at once when empty slots are looked for.
SLOTS = 4096
# Rows of fewer keys than this pass for a softmax of a softmax whatever they are.
FEW_KEYS = 3
# Rows of at least this many keys tell a share above 0.5 from chance: 1/n is then far below it.
TELLING_KEYS = 8


@dataclass(frozen=True, eq=False)
class Verdict:
    """What explains a map: `kind` is inverted, uniform, doubled, slots, swapped, another, soft, binary, shifted, window,
    documents, padding, future or not-applied.

    `rows` bool [B, H, Q] are the rows that show it, `share` [B, H, Q] their mass on ignored keys, `ignored` the mask of
    keys they should have ignored, `label` what was inverted or what explains the weights instead, `size` a number that
    belongs to it (an implied bias, the keys that a window really holds).
    """

    kind: str
    rows: Array
    share: Array
    ignored: Mask | None
    label: str = ""
    violation: float = 0.0
    inverse_violation: float = 0.0
    size: float = 0.0


@once
def doubled(attention: Attention) -> bool:
    """Whether every row is the softmax of a softmax, in every head.

    If W = softmax(P) and P sums to 1 over n keys, then log W - mean(log W) + 1/n is P: never negative, and above 0.5 for
    some long row of each head: scores that are as often below their mean as above it cannot be both. No weight over n keys
    can then pass e / (n - 1 + e): nearly every map has it in most of its rows, and is spared a closer look.
    """
    measured = attention.measured
    rows = (
        np.broadcast_to(attention.real_rows, attention.shape[:3]) & (measured.total > 0) & (measured.low >= 0)
    )
    if (
        attention.shape[3] < FEW_KEYS
        or not rows.any()
        or (measured.high[rows] > np.e / (FEW_KEYS - 1 + np.e)).mean() > 0.5
    ):
        return False
    tolerance = DOUBLED.get(attention.tensor.dtype, 0.1)
    # One row tells nearly all maps that are nothing of the kind; it spares them the others.
    first = int(np.flatnonzero(rows.reshape(-1))[-1])
    if _twice(attention.tensor.rows(first, first + 1).astype(np.float64))[0].min(initial=0.0) < -tolerance:
        return False
    found = attention.sample
    lowest, highest, counts = _twice(found.values.astype(np.float64))
    chosen = found.of(rows) & (counts >= FEW_KEYS)
    if chosen.sum() < FEW_KEYS or not chosen.any(axis=(0, 2)).all():
        return False
    peak = np.where(chosen & (counts >= TELLING_KEYS), highest, 0.0).max(axis=(0, 2))
    return bool(
        (lowest[chosen] >= -tolerance).all() and (peak > 0.5).all() and (peak <= 1 + 2 * tolerance).all()
    )


def _twice(values: Array) -> tuple[Array, Array, Array]:
    """The lowest and highest of log W - mean(log W) + 1/n over the n keys that each row of W [..., K] weighs, and n."""
    weighed = values > 0
    counts = weighed.sum(axis=-1)
    logs = np.log(values, out=np.zeros(values.shape), where=weighed)
    share = logs + ((1 - logs.sum(axis=-1)) / np.maximum(counts, 1))[..., None]
    return *_extremes(share, weighed), counts


def slots(attention: Attention, real: Array) -> Verdict | None:
    """Whether all sampled rows weigh the empty slots of a cache, all of them bitwise the same: their keys are all zeros."""
    filled = _filled(attention)
    if filled is None:
        return None
    found = attention.sample
    slots = found.values[..., filled:]
    chosen = found.of(real) & np.isfinite(slots).all(axis=3)
    if (
        not chosen.any()
        or not ((slots.min(axis=3) > 0) & (slots.min(axis=3) == slots.max(axis=3)))[chosen].all()
    ):
        return None
    kept = Mask.from_intervals(attention.shape, np.zeros((1, 1, 1), np.int64), np.full((1, 1, 1), filled))
    mass = measure(attention.tensor, attention.shape, {"slots": kept}).mass["slots"]
    return Verdict("slots", real & (mass > 0), mass, kept, size=filled)


def _filled(attention: Attention) -> int | None:
    """How many keys stand before the trailing run of saved keys that are all zeros; None when there is no such run."""
    key, length = attention.parts.get("key"), attention.shape[3]
    if (
        key is None
        or len(key.shape) not in (3, 4)
        or key.shape[-2] != length
        or key.shape[0] != attention.shape[0]
    ):
        return None
    leading = (slice(None),) * (len(key.shape) - 2)
    for start in range((length - 1) // SLOTS * SLOTS, -1, -SLOTS):
        stop = min(start + SLOTS, length)
        used = np.flatnonzero(
            (key.read((*leading, slice(start, stop))) != 0).any(axis=-1).reshape(-1, stop - start).any(axis=0)
        )
        if used.size:
            filled = start + int(used[-1]) + 1
            return filled if filled < length else None
    return None


def one_cause(attention: Attention, rows: Array, share: Array) -> Verdict | None:
    """One cause behind all leaks: the wrong side's padding, or a soft mask."""
    if attention.roled.kind == "cross" and attention.padding is not None and attention.queries is not None:
        swapped = _target_padding(attention)
        real = np.broadcast_to(attention.real_rows, attention.shape[:3])
        fits = swapped is not None and _obeys(attention, swapped, real)
        return Verdict("swapped", rows, share, attention.padding, "the target's padding" if fits else "")
    return _soft(attention, rows, share)


def _target_padding(attention: Attention) -> Mask | None:
    """The target's padding laid over the keys of cross-attention; None when their lengths differ or it hides nothing."""
    if attention.queries is None or attention.shape[2] != attention.shape[3] or attention.queries.real.all():
        return None
    return Mask.from_dense(attention.queries.real[:, None, None, :]).broadcast_to(attention.shape)


def another(attention: Attention) -> str:
    """How the padding of other samples explains every head of every sample; empty when it does not.

    Two orders are looked for: another sample for all heads alike, and `repeat` where `repeat_interleave` was meant, which
    gives head h of sample b the mask of sample (b * H + h) % B. Maps that simply use every key prove nothing: somewhere a real
    token must be ignored because it is padding in the other sample.
    """
    batch, heads = attention.shape[:2]
    if (
        attention.keys is None
        or attention.padding is None
        or batch < 2
        or (attention.keys.real == attention.keys.real[:1]).all()
    ):
        return ""
    real = attention.keys.real
    rows = np.broadcast_to(attention.real_rows, attention.shape[:3]) & ~attention.looks_empty
    mass = column_mass_by_head(attention.tensor, attention.shape, rows)
    total = np.maximum(mass.sum(axis=2), TINY)
    outside = (mass @ (~real).T.astype(np.float64)) / total[..., None]
    unweighed = (mass > 0) @ (~real).T.astype(np.float64) == 0
    b, h = np.arange(batch)[:, None], np.arange(heads)[None]
    orders = {
        "sample (b * H + h) % B for head h of sample b: repeat where repeat_interleave was meant": (
            b * heads + h
        )
        % batch
    }
    for shift in range(1, batch):
        orders[f"sample (b + {shift}) % {batch} for sample b"] = np.broadcast_to(
            (b + shift) % batch, (batch, heads)
        )
    orders["the samples in reverse order"] = np.broadcast_to(batch - 1 - b, (batch, heads))
    for label, other in orders.items():
        obeyed = outside[b, h, other] < LEAK_FLOOR
        # Padding of the other sample that is real in this one, and that no row of this map weighs.
        tells = (real[:, None] & ~real[other]).any(axis=2) & unweighed[b, h, other]
        if obeyed.all() and tells.any() and (outside[b, h, b] > LEAK).any():
            return label
    return ""


def _soft(attention: Attention, rows: Array, share: Array) -> Verdict | None:
    """A mask that only softens: forbidden keys keep a small, constant or evenly shifted part of their weight."""
    if attention.meant is None:
        return None
    found = attention.sample
    allowed = found.allowed(attention.meant)
    chosen = found.of(rows) & (allowed.sum(axis=3) > 0) & ((~allowed).sum(axis=3) > 0)
    if not chosen.any():
        return None
    if (bias := implied_bias(attention, allowed, chosen)) is not None:
        strength, spread = bias
        tolerance = BIAS.get(attention.tensor.dtype, 0.2)
        if spread <= 4 * tolerance and strength < -4 * tolerance:
            return Verdict("soft", rows, share, attention.meant, "shift", size=strength)
        if spread <= 4 * tolerance:
            return None
    values = found.values.astype(np.float64)
    # Padding tokens that share a position have one key, and so one weight, without any mask: only real tokens tell.
    real = (
        True if attention.keys is None or bias is not None else attention.keys.real[: found.items, None, None]
    )
    telling = ~allowed & real
    several = chosen & (telling.sum(axis=3) > 1) & (allowed.sum(axis=3) > 1)
    low, high = _extremes(values, telling)
    least, most = _extremes(values, allowed)
    constant = several & (low == high) & (low > 0) & (most > 1.01 * least)
    if several.sum() >= FEW_KEYS and constant[several].all():
        return Verdict("soft", rows, share, attention.meant, "constant", size=float(low[several].mean()))
    per_allowed = (values * allowed).sum(axis=3) / np.maximum(allowed.sum(axis=3), 1)
    per_forbidden = (values * ~allowed).sum(axis=3) / np.maximum((~allowed).sum(axis=3), 1)
    ratio = np.divide(per_forbidden, per_allowed, out=np.ones(per_allowed.shape), where=per_allowed > 0)
    heads = np.array([ratio[:, h][chosen[:, h]].max(initial=0.0) for h in range(ratio.shape[1])])
    if heads.min() > 0 and heads.max() < SOFTENED:
        return Verdict("soft", rows, share, attention.meant, "small", size=float(ratio[chosen].mean()))
    return None


def _extremes(values: Array, chosen: Array) -> tuple[Array, Array]:
    return np.min(values, axis=-1, where=chosen, initial=np.inf), np.max(
        values, axis=-1, where=chosen, initial=-np.inf
    )


def of_sample(attention: Attention, role: str) -> Array | None:
    """The sampled rows of a tensor of the map's own shape, such as its scores; None when it was not saved in that shape."""
    tensor = attention.parts.get(role)
    if tensor is None or tensor.shape != attention.tensor.shape:
        return None
    found = attention.sample
    raw = np.empty(found.values.shape)
    for item, head in np.ndindex(found.items, found.heads):
        start = (item * attention.shape[1] + head) * attention.shape[2]
        raw[item, head] = [tensor.rows(start + q, start + q + 1)[0] for q in found.queries.tolist()]
    return raw


def implied_bias(attention: Attention, allowed: Array, chosen: Array) -> tuple[float, float] | None:
    """What was really added to forbidden scores, and how far that varies, from log W - S centred on the allowed keys; None
    without scores of the map's shape, or when W is no softmax of S on the allowed keys.
    """
    raw = of_sample(attention, "scores")
    if raw is None:
        return None
    found = attention.sample
    weighed = (found.values > 0) & np.isfinite(raw) & chosen[..., None]
    bias = np.log(found.values, out=np.zeros(raw.shape), where=weighed) - np.where(weighed, raw, 0.0)
    kept, lost = allowed & weighed, ~allowed & weighed
    counts = kept.sum(axis=3, keepdims=True)
    bias = bias - (bias * kept).sum(axis=3, keepdims=True) / np.maximum(counts, 1)
    lost &= counts > 0
    kept &= counts > 0
    if not lost.any() or np.abs(bias[kept]).max(initial=0.0) > 4 * BIAS.get(attention.tensor.dtype, 0.2):
        return None
    return float(np.median(bias[lost])), float(np.abs(bias[lost] - np.median(bias[lost])).max())


def future(attention: Attention, rows: Array) -> Verdict:
    """A leak into the future: shifted when nothing but the key right behind each query gets any of it."""
    shape = attention.shape
    mass = attention.measured.mass["future"]
    layout = attention.layout
    if (np.broadcast_to(layout.positions + 2 < shape[3], shape[:3]) & rows).any():
        one_more = Mask.from_intervals(shape, np.zeros(1, np.int64), layout.positions + 2)
        if _obeys(attention, one_more, rows):
            return Verdict("shifted", rows, mass, attention.causal)
    return Verdict("future", rows, mass, attention.causal)


def loosened(attention: Attention, rows: Array, share: Array) -> Verdict | None:
    """A declared mask whose window, chunks or documents alone were not kept."""
    for kind, names in (("window", LOCAL), ("documents", {"documents"})):
        wider = without(attention, names)
        if wider is not None and _obeys(attention, wider, rows):
            return Verdict(
                kind,
                rows,
                share,
                attention.expected,
                size=float(reach(attention)) if kind == "window" else 0.0,
            )
    return None


def without(attention: Attention, names: set[str]) -> Mask | None:
    """The declared mask with its conjuncts of these kinds taken out (a sliding window or chunks leave a causal mask); None
    when it has none, or when the rest names files.
    """
    if attention.declared is None:
        return None
    parts = conjuncts(attention.declared.spec)
    if names_files(attention.declared.spec) or not any(
        isinstance(part, Named) and part.name in names for part in parts
    ):
        return None
    wider: tuple[Spec, ...] = tuple(
        part
        if not (isinstance(part, Named) and part.name in names)
        else Named("causal" if part.name in ("sliding", "chunked") else "full")
        for part in parts
    )
    mask = build(wider[0] if len(wider) == 1 else Joined("&", wider), attention.layout)
    return mask if attention.padding is None else mask & attention.padding


def reach(attention: Attention) -> int:
    """How many keys the sampled real rows look back over at most, themselves included."""
    found = attention.sample
    positions = found.queries + attention.past
    weighed = (found.values > 0) & found.of(attention.real_rows)[..., None]
    behind = np.where(weighed, positions[:, None] - np.arange(attention.shape[3]) + 1, 0)
    return int(behind.max(initial=0))


def _obeys(attention: Attention, mask: Mask, rows: Array) -> bool:
    """Whether flagged rows [B, H, Q] put no more than rounding outside of a mask."""
    mass = measure(attention.tensor, attention.shape, {"mask": mask}).mass["mask"][rows]
    return bool(mass.size and np.nanmax(mass) < LEAK_FLOOR)
