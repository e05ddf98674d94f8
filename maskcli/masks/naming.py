"""Mask to spec: the shortest text that rebuilds a mask, or the nearest one and how far off it is.

Every kind contains the mask from some size on. Those tightest kinds, intersected, are the smallest mask the
language can write around it; when that is the mask itself, the terms that do not matter are dropped until the
text is shortest. Everything works on runs: the work grows with them and not with queries x keys.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.edges import edges_of
from maskcli.masks.kinds import KINDS, Fit
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Named, Not, Spec, build, joined, kinds_in, write

# A conjunction of more kinds than this is no name any more.
MOST_TERMS = 4
# Two names for one mask that are worth telling: no more than this.
MOST_ALIASES = 2
# A conjunction of one term more than the shortest is a name as well up to this many characters.
LONG = 64

CAUSAL, PADDING = Named("causal"), Named("padding")
# A kind with its numbers, and its mask.
Term = tuple[Named, Mask]


@dataclass(frozen=True, eq=False)
class Name:
    """What a mask is called.

    `spec` rebuilds it over `layout` when `exact`; else it is the nearest name, wrong in the cells of `extra`
    (the name attends, the mask does not) and `missing`. `aliases` are other names that mean the same at this
    length. `layout` holds the padding that the mask shows (None when it shows none).
    """

    spec: str
    exact: bool
    layout: Layout
    aliases: tuple[str, ...]
    extra: Mask | None = None
    missing: Mask | None = None

    @property
    def padding(self) -> tuple[tuple[int, int, int], ...]:
        """Padding tokens of each item: left, right, and in holes; empty when the mask shows none."""
        if self.layout.real is None or "padding" not in self.spec:
            return ()
        return tuple(_padding_of(row) for row in self.layout.real)

    @property
    def wrong(self) -> int:
        """Cells in which the name and the mask differ."""
        return (self.extra.attended if self.extra else 0) + (self.missing.attended if self.missing else 0)


def _padding_of(real: Array) -> tuple[int, int, int]:
    """How many padding tokens stand left, right and in holes of a row, bool [K]."""
    kept = np.flatnonzero(real)
    if not kept.size:
        return 0, len(real), 0
    left, right = int(kept[0]), int(len(real) - 1 - kept[-1])
    return left, right, int(len(real) - kept.size - left - right)


def name_of(mask: Mask, past: int | None = None) -> Name:
    """The shortest spec found that rebuilds the mask [B, H, Q, K], or the nearest one.

    Keys that no query attends to may be padding, item by item; names without padding are tried first.
    """
    mask = mask.compact()
    bare = _layout(mask, past, None)
    seen = np.broadcast_to(mask.seen.any(axis=1), (mask.shape[0], mask.shape[3]))
    layouts = [bare] if seen.all() or not seen.any() else [bare, _layout(mask, past, seen)]
    exact: list[tuple[Spec, Layout]] = [(spec, layout) for layout in layouts for spec in _exact(mask, layout)]
    if not exact:
        exact = [(Not(spec), bare) for spec in _exact(~mask, bare)]
    if not exact:
        return _nearest(mask, layouts)

    exact.sort(key=lambda item: (_length(item[0]), "padding" in kinds_in(item[0])))
    name, *aliases = map(write, _distinct(spec for spec, _ in exact))
    return Name(name, True, exact[0][1], tuple(aliases[:MOST_ALIASES]))


def _distinct(specs: Iterable[Spec]) -> list[Spec]:
    """Specs, the shortest first, without those that use all kinds of a shorter one and say nothing new."""
    told: list[Spec] = []
    for spec in specs:
        if not any(kinds_in(shorter) <= kinds_in(spec) for shorter in told):
            told.append(spec)
    return told


def _layout(mask: Mask, past: int | None, real: Array | None) -> Layout:
    batch, heads, queries, keys = mask.shape
    return Layout(batch, queries, keys, heads, max(keys - queries, 0) if past is None else past, real)


def _length(spec: Spec) -> int:
    return len(write(spec))


def _exact(mask: Mask, layout: Layout) -> Iterator[Spec]:
    """Every short spec found that rebuilds the mask."""
    if not mask.attended:
        yield Named("prefix", (0,))
        return
    yield from _conjunctions(mask, layout)
    for union in _inside(mask, layout):
        yield from _with_union(mask, layout, union)


def _with_union(mask: Mask, layout: Layout, union: Named) -> Iterator[Spec]:
    """X | union, under causal and padding where they hold: X has to cover only what the union does not."""
    part = build(union, layout)
    rest = mask - part
    if not rest.attended:
        if part == mask:
            yield union
        return

    hull = [term for term, _ in _hull(rest, layout)]
    padding = [PADDING] if layout.real is not None else []
    specs = _either(hull, union, padding)
    if not (mask - build(CAUSAL, layout)).attended:
        specs += _either([term for term in hull if term not in (CAUSAL, PADDING)], union, [CAUSAL, *padding])
    for spec in specs:
        if build(spec, layout) == mask:
            yield spec


def _either(terms: list[Named], union: Named, outside: list[Named]) -> list[Spec]:
    """(X | union) & outside, where X is one of the terms or two."""
    choices = [*itertools.combinations(terms, 1), *itertools.combinations(terms, 2)]
    return [joined([*outside, joined([joined(inner), union], "|")]) for inner in choices]


def _conjunctions(mask: Mask, layout: Layout) -> Iterator[Spec]:
    """Conjunctions of kinds that equal the mask: the shortest, and short ones of one term more."""
    hull = _hull(mask, layout)
    if _product(hull, mask) != mask:
        return
    if mask.attended == mask.cells:
        yield Named("full")
    found = False
    for size in range(1, MOST_TERMS + 1):
        longer = found
        for chosen in itertools.combinations(hull, size):
            spec = joined([term for term, _ in chosen])
            if longer and _length(spec) > LONG:
                continue
            if _product(chosen, mask) == mask:
                yield spec
                found = True
        if longer:
            return


def _product(terms: Sequence[Term], mask: Mask) -> Mask:
    """The intersection of the terms; everything, without any."""
    return functools.reduce(operator.and_, [part for _, part in terms] or [Mask.full(mask.shape)])


def _hull(mask: Mask, layout: Layout) -> list[Term]:
    """Of each kind, the tightest that contain the mask, with their masks; none that contain everything."""
    edges = edges_of(mask, layout)
    terms = [
        Named(name, numbers) for name, fit in _fits() if fit.when(edges) for numbers in fit.numbers(edges)
    ]
    hull = [(term, build(term, layout)) for term in terms]
    hull = [(term, part) for term, part in hull if part.attended < mask.cells]
    return [*hull, (PADDING, build(PADDING, layout))] if layout.real is not None else hull


def _fits() -> list[tuple[str, Fit]]:
    """The kinds that can be found in a mask, in the order in which a name says them."""
    fits = [(name, kind.fit) for name, kind in KINDS.items() if kind.fit is not None]
    return sorted(fits, key=lambda item: item[1].rank)


def _inside(mask: Mask, layout: Layout) -> Iterator[Named]:
    """prefix:N and its like, with the largest N that lies inside the mask but for future and padding."""
    inside = build(PADDING, layout) if layout.real is not None else Mask.full(mask.shape)
    past = build(CAUSAL, layout)
    if not (mask - past).attended:
        inside = inside & past
    for name, kind in KINDS.items():
        size = _largest(mask, layout, name, inside) if kind.grows else 0
        if 0 < size < mask.shape[3]:
            yield Named(name, (size,))


def _largest(mask: Mask, layout: Layout, kind: str, inside: Mask) -> int:
    """The largest N for which kind:N lies in the mask, as far as it may count: mostly 0, where we start."""

    def fits(size: int) -> bool:
        return not ((build(Named(kind, (size,)), layout) & inside) - mask).attended

    keys, size = mask.shape[3], 1
    while size <= keys and fits(size):
        size *= 2
    low, high = size // 2, min(size - 1, keys)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _nearest(mask: Mask, layouts: list[Layout]) -> Name:
    """The spec that differs in the fewest cells, the shorter of two, among common masks."""
    tried = []
    for layout in layouts:
        for spec in _common(mask, layout):
            wrong = (build(spec, layout) ^ mask).attended
            tried.append((wrong, _length(spec), spec, layout))
    _, _, spec, layout = min(tried, key=lambda item: item[:2])
    named = build(spec, layout)
    return Name(write(spec), named == mask, layout, (), named - mask, mask - named)


def _common(mask: Mask, layout: Layout) -> Iterator[Spec]:
    """What the mask may have been meant to be: kinds of the sizes that most rows show, or around it."""
    edges = edges_of(mask, layout).usual()
    usual = [(name, fit) for name, fit in _fits() if fit.usual]
    terms = [Named(name, numbers) for name, fit in usual for numbers in fit.numbers(edges)]
    terms += [term for term, _ in _hull(mask, layout) if term != PADDING]
    under_causal = {name for name, fit in _fits() if fit.under_causal}
    padding = [PADDING] if layout.real is not None else []
    yield joined(padding or [Named("full")])
    for term in terms:
        yield joined([term, *padding])
    for term in terms:
        if term.name in under_causal:
            yield joined([CAUSAL, term, *padding])
