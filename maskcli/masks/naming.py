"""Mask to spec: the shortest text that rebuilds a mask, or the nearest one and how far off it is.

Every kind contains the mask from some size on. Those tightest kinds, intersected, are the smallest mask the
language can write around it; when that is the mask itself, the terms that do not matter are dropped until the
text is shortest. Everything works on runs: the work grows with them and not with queries x keys.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError, TooManyRunsError
from maskcli.masks.edges import MOST_RANGES, edges_of
from maskcli.masks.kinds import KINDS, Fit, Numbers
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.name import Name
from maskcli.masks.runs import runs_of
from maskcli.masks.spec import Named, Not, PerDocument, Spec, build, joined, kinds_in, parse, write

# A conjunction of more kinds than this is no name any more.
MOST_TERMS = 4
# Documents whose lengths a name of what is inside of them writes out at most.
MOST_NAMED = 64
# Two names for one mask that are worth telling: no more than this.
MOST_ALIASES = 2
# A conjunction of one term more than the shortest is a name as well up to this many characters.
LONG = 64
# Of a name longer than this, there may be a shorter one with a union.
SHORT = 20
# Labels of one tensor that are tried one by one.
MOST_LABELS = 4

CAUSAL, PADDING = Named("causal"), Named("padding")
# A kind with its numbers, and its mask.
Term = tuple[Named, Mask]


def name_of(mask: Mask, past: int | None = None, labels: Mapping[str, Array] | None = None) -> Name:
    """The shortest spec found that rebuilds the mask [B, H, Q, K], or the nearest one.

    Keys that no query attends to may be padding, item by item; names without padding are tried first. Tokens
    may be told apart by `labels` int [b, K], which names then read.
    """
    mask = mask.compact()
    bare = _layout(mask, past, None)
    seen = np.broadcast_to(mask.seen.any(axis=1), (mask.shape[0], mask.shape[3]))
    layouts = [bare] if seen.all() or not seen.any() else [bare, _layout(mask, past, seen)]
    exact: list[tuple[Spec, Layout]] = []
    # Beside what cannot be built no mask of few words was found.
    with suppress(TooManyRunsError):
        exact = _names(mask, layouts, labels or {})
    if not exact:
        return _nearest(mask, layouts)

    exact.sort(key=lambda item: _order(item[0]))
    if mask.shape[0] == 1 and mask.shape[2] > 1:
        # The same first keys for every query of one text are a prefix: padding differs from text to text.
        exact.sort(key=lambda item: not _is_prefix(item[0]))
    name, *aliases = map(write, _distinct(spec for spec, _ in exact))
    return Name(name, True, exact[0][1], tuple(aliases[:MOST_ALIASES]))


def _is_prefix(spec: Spec) -> bool:
    return isinstance(spec, Named) and spec.name == "prefix"


def _names(mask: Mask, layouts: list[Layout], labels: Mapping[str, Array]) -> list[tuple[Spec, Layout]]:
    """Specs that rebuild the mask, each with its layout; the further kinds only where no short one does."""
    bare = layouts[0]
    exact = [found for layout in layouts for found in _telling(_exact(mask, layout), layout)]
    if not exact:
        exact = [(Not(spec), bare) for spec in _exact(~mask, bare)]
    if not _is_short(exact):
        exact += [found for layout in layouts for found in _telling(_unions(mask, layout), layout)]
    if mask.attended and not _is_short(exact):
        exact += [found for layout in layouts for found in _labelled(mask, layout, labels)]
    if not exact:
        exact = [(spec, bare) for spec in _inside_documents(mask, bare)]
    return exact


def _telling(specs: Iterable[Spec], layout: Layout) -> Iterator[tuple[Spec, Layout]]:
    """Specs with their layout, without those that need padding and do not name it, as chunks behind it do."""
    for spec in specs:
        if layout.real is None or "padding" in kinds_in(spec):
            yield spec, layout


def _is_short(exact: list[tuple[Spec, Layout]]) -> bool:
    """Whether some name is short, and one of words that everybody knows."""
    best = min((spec for spec, _ in exact), key=_order, default=None)
    return best is not None and _length(best) <= SHORT and "block-diffusion" not in kinds_in(best)


def _order(spec: Spec) -> tuple[int, bool, bool]:
    """Short names first, of those as long as one another those that take less to know."""
    kinds = kinds_in(spec)
    return _length(spec), "padding" in kinds, "block-diffusion" in kinds


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


def _unions(mask: Mask, layout: Layout) -> Iterator[Spec]:
    """Unions in which one part is not of KINDS that grow alone: the past, a window, columns of keys."""
    padding = build(PADDING, layout) if layout.real is not None else Mask.full(mask.shape)
    past = build(CAUSAL, layout)
    for union in _parts(mask, layout, padding, past):
        found = next(filter(_is_telling, _with_union(mask, layout, union)), None)
        if found is not None:
            yield found
            return


def _labelled(mask: Mask, layout: Layout, labels: Mapping[str, Array]) -> Iterator[tuple[Spec, Layout]]:
    """Masks by labels: blocks of tokens that see one another beside the past, or nothing across them."""
    fitting = {name: rows for name, rows in labels.items() if _fits_keys(rows, layout)}
    edges = edges_of(mask, layout)
    # Blocks that no window cuts reach further back than most rows do.
    reaches = sorted({max(edges.behind, 0), max(edges.usual().behind, 0)})
    padding = " & padding" if layout.real is not None else ""
    for name, rows in fitting.items():
        told = replace(layout, tensors=fitting.__getitem__)
        for block in _blocks(name, rows):
            texts = [block, f"causal | {block}", f"causal & {block}"]
            for reach in reaches:
                texts += [f"sliding:{reach + 1} | {block}", f"sliding:{reach + 1} & {block}"]
                texts.append(f"(causal | {block}) & window:{reach},-1")
            for text in texts:
                spec = parse(f"({text}){padding}" if padding else text)
                if build(spec, told) == mask:
                    yield spec, told
                    return


def _blocks(name: str, rows: Array) -> Iterator[str]:
    """What labels can tell: the same label, one of them, or an unbroken stretch of it."""
    values = np.unique(rows[rows >= 0])[:MOST_LABELS].tolist()
    yield f"same:{name}"
    for value in values:
        yield f"spans:{name}={value}"
        yield f"same:{name}={value}"
    yield f"spans:{name}"


def _fits_keys(rows: Array, layout: Layout) -> bool:
    inside = layout.past + layout.queries <= layout.keys
    return inside and rows.shape[1] == layout.keys and len(rows) in (1, layout.batch)


def _is_telling(spec: Spec) -> bool:
    """Whether a union says more than that some single cells are wrong, which any mask could be called by."""
    return _length(spec) <= LONG and not kinds_in(spec) & {"dilated", "rows"}


def _parts(mask: Mask, layout: Layout, padding: Mask, past: Mask) -> Iterator[Named]:
    """Kinds that lie inside the mask, but for padding, and for the future where the mask hides it."""
    if not ((past & padding) - mask).attended:
        yield CAUSAL
    behind = past if not (mask - past).attended else Mask.full(mask.shape)
    columns = _columns(mask, layout, behind & padding)
    if columns[:2] == (0, 1) and len(columns) > 2:
        # Looking back alone, every query sees the first key.
        yield Named("keys", columns[2:])
    if columns:
        yield Named("keys", columns)
    size = _largest(mask, layout, "sliding", padding)
    if 0 < size < mask.shape[3]:
        yield Named("sliding", (size,))


def _columns(mask: Mask, layout: Layout, inside: Mask) -> Numbers:
    """The ranges of keys that every query sees where it may, but the last; empty for many or none."""
    if mask.stored[:2] != (1, 1):
        return ()
    lacking: Array = (inside - mask).seen[0, 0]
    runs = [run for run in runs_of(~lacking) if run[1] < layout.keys]
    return tuple(border for run in runs for border in run) if len(runs) <= MOST_RANGES else ()


def _inside_documents(mask: Mask, layout: Layout) -> Iterator[Spec]:
    """per-document:LENGTHS(X), where X is a name of the longest document."""
    square = layout.past == 0 and layout.queries == layout.keys
    if not mask.attended or not square or mask.stored[:2] != (1, 1) or mask.stored[2] == 1:
        return
    for lengths in edges_of(mask, layout).documents()[:1]:
        if len(lengths) > MOST_NAMED:
            return
        ends = np.cumsum([*lengths, layout.keys - sum(lengths)])
        sizes = np.diff(ends, prepend=0)
        longest = sizes.argmax()
        span = slice(int(ends[longest] - sizes[longest]), int(ends[longest]))
        name = name_of(mask.select(rows=span, keys=span))
        if not name.exact or name.layout.real is not None:
            return
        for text in (name.spec, *name.aliases):
            if _rebuilds(spec := PerDocument(parse(text), lengths), mask, layout):
                yield spec
                return


def _rebuilds(spec: Spec, mask: Mask, layout: Layout) -> bool:
    """Whether a spec is the mask; one that no shorter document can have is not."""
    try:
        return build(spec, layout) == mask
    except MaskcliError:
        return False


def _either(terms: list[Named], union: Named, outside: list[Named]) -> list[Spec]:
    """(X | union) & outside, where X is one of the terms or two."""
    choices = [*itertools.combinations(terms, 1), *itertools.combinations(terms, 2)]
    both = ([union, joined(inner)] if union == CAUSAL else [joined(inner), union] for inner in choices)
    return [joined([*outside, joined(each, "|")]) for each in both]


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
    fits = [(name, fit) for name, fit in _fits() if fit.when(edges)]
    terms = [(Named(name, numbers), fit.guess) for name, fit in fits for numbers in fit.numbers(edges)]
    built = [(term, guess, build(term, layout)) for term, guess in terms]
    hull = [
        (term, part)
        for term, guess, part in built
        if part.attended < mask.cells and not (guess and (mask - part).attended)
    ]
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
            with suppress(TooManyRunsError):
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
