"""Which mask explains a map of weights: the one judgement behind the rules on where weights fall, made once a map."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.verdicts.causes import (
    LEAK,
    LEAK_FLOOR,
    TINY,
    Verdict,
    another,
    doubled,
    future,
    loosened,
    one_cause,
    reach,
    slots,
)
from maskcli.masks.kinds import causal_top_left, sliding
from maskcli.masks.mask import Mask
from maskcli.measure.passes import measure
from maskcli.scene.scene import Attention, Scene, once

# Without a declaration at least this share of heads, and of layers, must agree before any is accused.
AGREE = 0.8
# An ignored key is attended above LEAK of a row, or above this share of what an even spread would give it where that is less.
LEAK_OF_EVEN = 0.1
# The share of rows in which a leak has to show for its size not to matter.
ALWAYS = 0.95
# How far rounding takes a sum of equal weights from a whole multiple of one (bfloat16 keeps 8 bits).
WHOLE = 2.0**-7
# Inverted: this much mass on ignored keys, and less than that outside of the inverse.
INVERTED, INVERSE_FITS = 0.5, 0.05


def verdicts(scene: Scene, kind: str) -> list[tuple[Attention, Verdict]]:
    """The maps of a scene with a verdict of this kind; undeclared ones only when the other layers do not contradict."""
    found = [
        (attention, verdict)
        for attention in scene.attentions
        for verdict in judge(attention)
        if verdict.kind == kind
    ]
    return [
        (attention, verdict)
        for attention, verdict in found
        if _certain(attention, kind) or _agreed(scene, attention, kind)
    ]


def _certain(attention: Attention, kind: str) -> bool:
    """Whether one map alone is enough: what was declared is checked layer by layer, and equal scores are no accident in
    float32 (in sixteen bits, scores near 0 can be equal for want of digits).
    """
    if kind == "uniform":
        return attention.tensor.dtype in ("float32", "float64")
    return attention.expected is not None


def _agreed(scene: Scene, attention: Attention, kind: str) -> bool:
    """Whether nearly all maps of this kind that can be checked are sick as well, of whatever."""
    family = [each for each in scene.attentions if _same_family(each, attention)]
    peers = [each for each in family if kind == "uniform" or (each.meant is not None and _finite(each))]
    return sum(1 for each in family if judge(each)) >= AGREE * max(len(peers), 1)


@once
def judge(attention: Attention) -> list[Verdict]:
    """The verdicts on one map: at most one, or padding and future together when no saved mask covers both."""
    measured, meant = attention.measured, attention.meant
    real = np.broadcast_to(attention.real_rows, attention.shape[:3])
    if doubled(attention):
        return [Verdict("doubled", real, measured.high, None)]
    if empty := slots(attention, real):
        return [empty]
    suspect = real & attention.looks_empty
    leaking = {name: leaks(attention, name) for name in ("padding", "keep", "expected", "future")}
    pads = leaks(attention, "padding", agreed=False)
    leaky = any(rows.any() for rows in leaking.values())
    if not suspect.any() and not pads.any() and not leaky:
        return _exact(attention, real)
    if meant is not None and (inverted := _inverted(attention)):
        return [inverted]
    if not leaky and (real & ~np.isnan(measured.total)).any() and _all_uniform(attention, real):
        return [Verdict("uniform", real & (attention.support > 1), measured.high, None)]
    if pads.any() and attention.roled.kind != "cross" and (order := another(attention)):
        return [Verdict("another", pads, measured.mass["padding"], attention.padding, order)]
    return _leak_verdicts(attention, leaking) or _exact(attention, real)


def is_binary(attention: Attention) -> bool:
    """Whether the saved mask is floats of 0 and 1, which is right only when it is not added."""
    given = attention.given
    return given is not None and given.reason == "values" and given.is_float and not given.added


def leaks(attention: Attention, probe: str, agreed: bool = True) -> Array:
    """Real rows [B, H, Q] with mass outside of a probe mask (padding, keep, expected, future, documents), in items where
    heads agree that it is attended (or in any head, when they need not).
    """
    mask = _probed(attention, probe)
    none = np.zeros(attention.shape[:3], bool)
    if mask is None:
        return none
    mass = attention.measured.mass[probe]
    allowed = attention.meant.keys_per_query if attention.meant is not None else mask.keys_per_query
    hidden = attention.shape[3] - mask.keys_per_query
    rows = np.broadcast_to(attention.real_rows & (allowed > 0) & (hidden > 0), none.shape)
    rows = rows & ~np.isnan(mass) & ~attention.uniform
    if not rows.any():
        return none
    even = np.broadcast_to(hidden / attention.shape[3], none.shape)
    count = rows.sum(axis=2)
    mean = np.divide((mass * rows).sum(axis=2), count, out=np.zeros(count.shape), where=count > 0)
    share = np.divide((even * rows).sum(axis=2), count, out=np.zeros(count.shape), where=count > 0)
    attended = mean > np.maximum(np.minimum(LEAK, LEAK_OF_EVEN * share), LEAK_FLOOR)
    checked = count > 0
    # However little it is: what a mask hides weighs exactly 0, and a weak fill leaves something in every row of every head.
    always = ((rows & (mass > LEAK_FLOOR)).sum(axis=2) >= ALWAYS * count) | ~checked
    attended = attended | (always.all(axis=1)[:, None] & checked)
    if agreed and attention.expected is None:
        agree = ((mean > 0) & checked).sum(axis=1) >= AGREE * checked.sum(axis=1)
        attended = attended & (agree & (attended.sum(axis=1) >= 0.5 * checked.sum(axis=1)))[:, None]
    leaking: Array = rows & attended[..., None] & (mass > LEAK_FLOOR)
    return leaking


def _probed(attention: Attention, probe: str) -> Mask | None:
    if probe == "future":
        return attention.causal if attention.future_expected else None
    found: Mask | None = {
        "padding": attention.padding,
        "keep": attention.keep,
        "expected": attention.expected,
        "documents": attention.same_document,
    }[probe]
    return found


def _exact(attention: Attention, real: Array) -> list[Verdict]:
    """With --exact, any weight other than 0 where a real query has to ignore."""
    if not attention.exact or attention.meant is None or is_binary(attention):
        return []
    share = attention.measured.mass[
        "expected" if attention.expected is not None else "keep" if attention.keep is not None else "padding"
    ]
    if attention.expected is None and attention.padding is not None:
        share = np.maximum(share, attention.measured.mass["padding"])
    rows = real & (share != 0) & ~np.isnan(share)
    return [Verdict("not-applied", rows, share, attention.meant, "exact")] if rows.any() else []


def _leak_verdicts(attention: Attention, leaking: dict[str, Array]) -> list[Verdict]:
    """What the leaks of a map come from: one cause that explains them all, else where they go."""
    mass = attention.measured.mass
    none = np.zeros(attention.shape[:3], bool)
    if not any(rows.any() for rows in leaking.values()):
        return []
    if is_binary(attention) and leaking["keep"].any():
        return [Verdict("binary", leaking["keep"], mass["keep"], attention.keep)]
    pads, behind = leaking["padding"], leaking["future"]
    base = "expected" if attention.expected is not None else "keep"
    broken = leaking[base]
    ignored = attention.expected if attention.expected is not None else attention.keep
    whole = broken if broken.any() else pads | behind
    share = (
        mass[base]
        if broken.any()
        else np.maximum(mass.get("padding", none), np.where(behind, mass.get("future", none), 0))
    )
    if cause := one_cause(attention, whole, share):
        return [cause]
    found = []
    if pads.any():
        found.append(Verdict("padding", pads, mass["padding"], attention.padding))
    if behind.any():
        found.append(future(attention, behind))
    if not broken.any() or ignored is None:
        return found
    told = sum(
        (mass["future" if v.kind == "shifted" else v.kind] for v in found), np.zeros(attention.shape[:3])
    )
    rest = broken & (mass[base] - told > LEAK)
    if (rest.any() or not found) and (wider := loosened(attention, broken, mass[base])):
        return [wider]
    if rest.any() or not found or (leaking["keep"].any() and len(found) > 1):
        return [Verdict("not-applied", broken, mass[base], ignored, _explanation(attention))]
    return found


def _inverted(attention: Attention) -> Verdict | None:
    """Inverted polarity, by the measured criterion: only an inverse of what was meant explains every row."""
    inverses: dict[str, Mask] = {}
    if attention.padding is not None:
        inverses["the padding mask"] = ~attention.padding
        inverses["the padding mask, under a causal one,"] = attention.causal & ~attention.padding
    if attention.keep is not None and attention.given is not None and attention.given.reason != "assumed":
        inverses[f"the mask {attention.given.tensor.name!r}"] = ~attention.keep
    if attention.expected is not None:
        inverses[f"the declared mask {attention.spec!r}"] = ~attention.expected
    inverses = {label: mask for label, mask in inverses.items() if mask.attended}
    if not inverses or attention.meant is None:
        return None
    empty = attention.looks_empty
    mass = measure(attention.tensor, attention.shape, {**inverses, "meant": attention.meant}).mass
    for label, inverse in inverses.items():
        open_rows = np.broadcast_to(inverse.keys_per_query > 0, empty.shape)
        told = open_rows & ~np.isnan(mass[label]) & ~empty
        if (
            not told.any()
            or not empty[~open_rows].all()
            or np.isnan(mass[label][open_rows]).mean() > INVERSE_FITS
        ):
            continue
        violation, other = mass["meant"][told].mean(), mass[label][told].mean()
        real = np.broadcast_to(attention.real_rows, empty.shape)
        # Of a narrow mask, even attention to everything puts next to nothing on what its inverse hides.
        even = 1 - np.broadcast_to(inverse.keys_per_query, empty.shape)[told].mean() / attention.shape[3]
        if violation > INVERTED and other < min(INVERSE_FITS, LEAK_OF_EVEN * even + LEAK_FLOOR):
            rows, share = real & (told | empty), np.nan_to_num(mass["meant"])
            return Verdict("inverted", rows, share, attention.meant, label, float(violation), float(other))
    return None


def _all_uniform(attention: Attention, real: Array) -> bool:
    """Whether every real row that could differ is exactly uniform; short rows of 16-bit types can coincide by chance."""
    # In a uniform row the sum is the weight times the number of keys: what is no whole multiple is not worth reading again.
    multiple = attention.measured.total / np.maximum(attention.measured.high, TINY)
    spread = real & (np.round(multiple) > 1)
    whole = np.abs(multiple - np.round(multiple)) <= WHOLE * multiple
    if not spread.any() or not whole[spread].all() or not (attention.support[spread] > 1).all():
        return False
    longest, count = int(attention.support[spread].max()), int(spread.sum())
    return count >= 4 and longest >= (2 if attention.tensor.dtype in ("float32", "float64") else 8)


def _explanation(attention: Attention) -> str:
    """The tightest common mask that the weights do obey, in words."""
    candidates = dict(_common(attention))
    mass = measure(attention.tensor, attention.shape, candidates).mass
    real = np.broadcast_to(attention.real_rows, attention.shape[:3])
    fits = [
        (mask.attended, label)
        for label, mask in candidates.items()
        if np.nanmean(mass[label][real]) < LEAK_FLOOR
    ]
    return min(fits)[1] if fits else "no mask at all"


def _common(attention: Attention) -> Iterator[tuple[str, Mask]]:
    """Masks that are in use everywhere, by what they are called."""
    yield "a causal mask", attention.causal
    held = reach(attention)
    if 1 < held < attention.shape[3]:
        yield f"a sliding window of {held} keys", sliding(attention.layout, held)
    if attention.padding is not None:
        yield "the padding alone", attention.padding
        yield "a causal mask with the padding", attention.causal & attention.padding
        if 1 < held < attention.shape[3]:
            yield (
                f"a sliding window of {held} keys with the padding",
                sliding(attention.layout, held) & attention.padding,
            )
    if attention.past:
        yield "a causal mask aligned to the top left", causal_top_left(attention.layout)
    if attention.expected is not None and attention.keep is not None:
        yield "the saved mask", attention.keep


def _same_family(a: Attention, b: Attention) -> bool:
    return a.roled.kind == b.roled.kind and a.roled.group == b.roled.group


def _finite(attention: Attention) -> bool:
    return bool(np.isfinite(attention.measured.total).any())
