"""Where weights fall although something forbids it, and which cause is behind that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Rows
from maskcli.diagnostics.verdicts.soft import multiplied, soft
from maskcli.diagnostics.verdicts.verdict import EXACTLY, HEAVY, LEAK, LEAK_FLOOR, LEAK_OF_EVEN, Kind, Verdict
from maskcli.masks.kinds import causal, causal_top_left, sliding
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Joined, Named, Spec, build, conjuncts, names_files
from maskcli.measure.passes import measure
from maskcli.scene.scene import LOCAL, Attention

# Without a declaration at least this share of heads, and of layers, must agree before any is accused.
AGREE = 0.8
# At least this share of the heads must leak themselves; the others may leak too little to count.
HALF = 0.5
# The share of rows in which a leak has to show for its size not to matter.
ALWAYS = 0.95


class Leaking(NamedTuple):
    """Real rows [B, H, Q] with mass outside of each probe, and on padding in any head, agreed or not."""

    rows: dict[str, Rows]
    in_any_head: Rows

    @property
    def some(self) -> bool:
        """Whether any row leaks anywhere."""
        return any(rows.any() for rows in self.rows.values())


def find_leaks(attention: Attention) -> Leaking:
    """The leaks of one map."""
    rows = {probe: leaks(attention, probe) for probe in ("padding", "keep", "expected", "future")}
    return Leaking(rows, leaks(attention, "padding", agreed=False))


def leaks(attention: Attention, probe: str, agreed: bool = True) -> Rows:
    """Real rows [B, H, Q] with mass outside of a probe mask (padding, keep, expected, future, documents).

    In items where heads agree that it is attended, or in any head when they need not.
    """
    mask = attention.probes.get(probe)
    if mask is None or (probe == "future" and not attention.future_expected):
        return np.zeros(attention.shape[:3], bool)

    mass = attention.measured.mass[probe]
    allowed = mask if attention.meant is None else attention.meant
    hidden = attention.shape[3] - mask.keys_per_query
    rows = attention.rows(attention.real_rows & (allowed.keys_per_query > 0) & (hidden > 0))
    rows = rows & ~np.isnan(mass) & ~attention.uniform
    if not rows.any():
        return rows

    count = rows.sum(axis=2)
    checked = count > 0
    mean = _mean(mass, rows, count)
    even = _mean(attention.rows(hidden / attention.shape[3]), rows, count)
    attended = mean > np.maximum(np.minimum(LEAK, LEAK_OF_EVEN * even), LEAK_FLOOR)

    # However little: what a mask hides weighs exactly 0, and a weak fill leaves something in every row of
    # every head.
    always = ((rows & (mass > LEAK_FLOOR)).sum(axis=2) >= ALWAYS * count) | ~checked
    attended = attended | (always.all(axis=1)[:, None] & checked)
    heavy = rows & (mass > HEAVY)
    if agreed and attention.expected is None:
        heads = checked.sum(axis=1)
        touched = ((mean > 0) & checked).sum(axis=1) >= AGREE * heads
        attended = attended & (touched & (attended.sum(axis=1) >= HALF * heads))[:, None]
        heavy = heavy & _agreed(rows, mass)
    leaking: Rows = rows & ((attended[..., None] & (mass > LEAK_FLOOR)) | heavy)
    return leaking


def _agreed(rows: Rows, mass: Array) -> Rows:
    """Rows that leak in nearly all heads, and much in at least half of them, [B, 1, Q]."""
    heads = rows.sum(axis=1, keepdims=True)
    touched = (rows & (mass > 0)).sum(axis=1, keepdims=True) >= AGREE * heads
    agreed: Rows = touched & ((rows & (mass > HEAVY)).sum(axis=1, keepdims=True) >= HALF * heads)
    return agreed


def _mean(values: Array, rows: Rows, count: Array) -> Array:
    """The mean over flagged rows, [B, H]; 0 where there are none."""
    mean: Array = np.divide((values * rows).sum(axis=2), count, out=np.zeros(count.shape), where=count > 0)
    return mean


def is_binary(attention: Attention) -> bool:
    """Whether the saved mask is floats of 0 and 1, which is right only when it is not added."""
    given = attention.given
    return given is not None and given.reason == "values" and given.is_float and not given.added


def not_exact(attention: Attention) -> list[Verdict]:
    """With --exact, any weight other than 0 where a real query has to ignore."""
    authority = attention.authority
    if not attention.exact or authority is None or is_binary(attention):
        return []
    share = attention.measured.mass[authority]
    if authority == "keep" and attention.padding is not None:
        share = np.maximum(share, attention.measured.mass["padding"])
    rows = attention.real & (share != 0) & ~np.isnan(share)
    return [Verdict(Kind.NOT_APPLIED, rows, share, attention.meant, EXACTLY)] if rows.any() else []


def of_leaks(attention: Attention, leaking: Leaking) -> list[Verdict]:
    """What the leaks of a map come from: one cause that explains them all, else where they go."""
    authority = attention.authority
    if authority is None or not leaking.some:
        return []
    mass, rows = attention.measured.mass, leaking.rows
    if is_binary(attention) and rows["keep"].any():
        added = Verdict(Kind.ADDED, rows["keep"], mass["keep"], attention.keep)
        return [multiplied(attention, rows["keep"], mass["keep"]) or added]

    broken, share = rows[authority], mass[authority]
    if not broken.any() and not rows["keep"].any():
        none = np.zeros(attention.shape[:3], bool)
        behind = np.where(rows["future"], mass.get("future", none), 0)
        broken, share = rows["padding"] | rows["future"], np.maximum(mass.get("padding", none), behind)
    one = _other_side(attention, broken, share)
    if one is not None:
        return [one]
    targets = _targets(attention, leaking)
    if any(target.kind is Kind.SHIFTED for target in targets) and not _left_over(attention, leaking, targets):
        return targets
    one = soft(attention, broken, share)
    if one is not None:
        return [one]
    if rows[authority].any():
        return _unexplained(attention, leaking, targets) or targets
    return targets or _beside_the_mask(attention, leaking)


def _beside_the_mask(attention: Attention, leaking: Leaking) -> list[Verdict]:
    """Weights that are as declared, and not as the saved mask: another one was applied."""
    rows = leaking.rows["keep"]
    if not rows.any() or attention.declared is None:
        return []
    obeyed = f"{attention.declared.source} {attention.spec!r}"
    return [Verdict(Kind.NOT_APPLIED, rows, attention.measured.mass["keep"], attention.keep, obeyed)]


def _other_side(attention: Attention, rows: Rows, share: Array) -> Verdict | None:
    """Cross-attention that leaks while both paddings are known, whether or not it fits the target's."""
    padding, queries, shape = attention.padding, attention.queries, attention.shape
    if attention.roled.kind != "cross" or padding is None or queries is None:
        return None
    fits = False
    if shape[2] == shape[3] and not queries.real.all():
        target = Mask.from_dense(queries.real[:, None, None, :]).broadcast_to(shape)
        fits = target is not None and _obeys(attention, target, attention.real)
    return Verdict(Kind.OTHER_SIDE, rows, share, padding, fits)


def _targets(attention: Attention, leaking: Leaking) -> list[Verdict]:
    """Where leaks go: to padding, into the future, or both."""
    targets: list[Verdict] = []
    if leaking.rows["padding"].any():
        mass = attention.measured.mass["padding"]
        targets.append(Verdict(Kind.PADDING, leaking.rows["padding"], mass, attention.padding))
    behind = leaking.rows["future"]
    if targets and attention.padding is not None and behind.any():
        # Padding behind a query is padding: it is told once.
        either = attention.causal | ~attention.padding
        mass = measure(attention.tensor, attention.shape, {"real": either}).mass["real"]
        behind = behind & (mass > LEAK_FLOOR)
    if behind.any():
        targets.append(_future(attention, behind))
    return targets


def _future(attention: Attention, rows: Rows) -> Verdict:
    """A leak into the future: shifted when nothing but the key right behind each query gets any of it."""
    mass = attention.measured.mass["future"]
    one_more = causal(attention.layout.moved(1))
    shows = attention.rows(one_more.keys_per_query < attention.shape[3]) & rows
    if shows.any() and _obeys(attention, one_more, rows):
        return Verdict(Kind.SHIFTED, rows, mass, attention.causal)
    return Verdict(Kind.FUTURE, rows, mass, attention.causal)


def _unexplained(attention: Attention, leaking: Leaking, targets: list[Verdict]) -> list[Verdict]:
    """One verdict for what a mask forbids, when leaks to padding and the future are not all of it."""
    authority = attention.authority or "padding"
    broken, share = leaking.rows[authority], attention.measured.mass[authority]
    unexplained = _left_over(attention, leaking, targets)
    if unexplained:
        wider = _loosened(attention, broken, share)
        if wider is not None:
            return [wider]
    if unexplained or (leaking.rows["keep"].any() and len(targets) > 1):
        forbidden, obeyed = attention.probes[authority], _explanation(attention)
        return [Verdict(Kind.NOT_APPLIED, broken, share, forbidden, obeyed)]
    return []


def _left_over(attention: Attention, leaking: Leaking, targets: list[Verdict]) -> bool:
    """Whether leaks to padding and the future are not all of what the authority forbids."""
    authority = attention.authority or "padding"
    broken, share = leaking.rows[authority], attention.measured.mass[authority]
    told = sum((target.share for target in targets), np.zeros(attention.shape[:3]))
    return not targets or bool((broken & (share - told > LEAK)).any())


def _loosened(attention: Attention, rows: Rows, share: Array) -> Verdict | None:
    """A declared mask whose window, chunks or documents alone were not kept."""
    wider = without(attention, LOCAL)
    if wider is not None and _obeys(attention, wider, rows):
        return Verdict(Kind.WINDOW, rows, share, attention.expected, reach(attention))
    wider = without(attention, {"documents"})
    if wider is not None and _obeys(attention, wider, rows):
        return Verdict(Kind.DOCUMENTS, rows, share, attention.expected)
    return None


def without(attention: Attention, names: set[str]) -> Mask | None:
    """The declared mask with its conjuncts of these kinds taken out.

    A sliding window or chunks leave a causal mask. None when it has none, or when the rest names files.
    """
    if attention.declared is None or names_files(attention.declared.spec):
        return None
    parts = conjuncts(attention.declared.spec)
    wider = tuple(_freed(part, names) for part in parts)
    if all(after is before for after, before in zip(wider, parts, strict=True)):
        return None
    mask = build(wider[0] if len(wider) == 1 else Joined("&", wider), attention.layout)
    return mask if attention.padding is None else mask & attention.padding


def _freed(part: Spec, names: set[str]) -> Spec:
    if not isinstance(part, Named) or part.name not in names:
        return part
    # chunked:C,L sees its whole chunk, what lies ahead as well.
    looks_back = part.name == "sliding" or (part.name == "chunked" and len(part.numbers) == 1)
    return Named("causal" if looks_back else "full")


def reach(attention: Attention) -> int:
    """How many keys the sampled real rows look back over at most, themselves included."""
    sample = attention.sample
    weighed = (sample.values > 0) & sample.of(attention.real_rows)[..., None]
    distances = attention.placement.distances(sample.queries)[: sample.items, None]
    return int(np.where(weighed, distances + 1, 0).max(initial=0))


def _obeys(attention: Attention, mask: Mask, rows: Rows) -> bool:
    """Whether flagged rows [B, H, Q] put no more than rounding outside of a mask."""
    mass = measure(attention.tensor, attention.shape, {"mask": mask}).mass["mask"][rows]
    return bool(mass.size and np.nanmax(mass) < LEAK_FLOOR)


def _explanation(attention: Attention) -> str:
    """The tightest common mask that the weights do obey, in words."""
    candidates = dict(_common(attention))
    mass = measure(attention.tensor, attention.shape, candidates).mass
    fits = [
        (mask.attended, words)
        for words, mask in candidates.items()
        if np.nanmean(mass[words][attention.real]) < LEAK_FLOOR
    ]
    if fits:
        return min(fits)[1]
    return "another mask, none of the common ones" if _hides(attention) else "no mask at all"


def _hides(attention: Attention) -> bool:
    """Whether some cells of the sampled real rows weigh exactly 0 in every head."""
    sample = attention.sample
    real = sample.of(attention.real_rows).any(axis=1)
    seen: Array = np.any(sample.values > 0, axis=1)
    return not bool(seen[real].all())


def _common(attention: Attention) -> Iterator[tuple[str, Mask]]:
    """Masks that are in use everywhere, by what they are called."""
    seen = reach(attention)
    orders = [("a causal mask", attention.causal)]
    if 1 < seen < attention.shape[3]:
        orders.append((f"a sliding window of {seen} keys", sliding(attention.layout, seen)))
    yield from orders
    if attention.padding is not None:
        yield "the padding alone", attention.padding
        for words, mask in orders:
            yield f"{words} with the padding", mask & attention.padding
    if attention.past:
        yield "a causal mask aligned to the top left", causal_top_left(attention.layout)
    if attention.expected is not None and attention.keep is not None:
        yield "the saved mask", attention.keep
