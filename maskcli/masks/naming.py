"""Mask to spec: the shortest text that rebuilds a mask, or the nearest one and how far off it is.

Every kind contains the mask from some size on. Those tightest kinds, intersected, are the smallest mask the language can
write around it; when that is the mask itself, the terms that do not matter are dropped until the text is shortest. Everything
works on runs: the work grows with them and not with queries x keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.kinds import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Joined, Named, Not, Spec, build, kinds_in, write

# A conjunction of more kinds than this is no name any more.
MOST_TERMS = 4
# Lengths of packed documents written out at most; more make a longer text than the mask deserves.
MOST_DOCUMENTS = 4096
# Two names for one mask that are worth telling: no more than this.
MOST_ALIASES = 2
# Sizes of blocks that are tried, and those of them that become terms: two can overlap (chunked:2 & chunked:3), more are nobody's.
TRIED, MOST_SIZES = 64, 2


@dataclass(frozen=True, eq=False)
class Name:
    """What a mask is called.

    `spec` rebuilds it over `layout` when `exact`; else it is the nearest name, wrong in the cells of `extra` (the name
    attends, the mask does not) and `missing`. `aliases` are other names that mean the same at this length. `layout` holds the
    padding that the mask shows (None when it shows none).
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
    found: list[tuple[Spec, Layout]] = [(spec, layout) for layout in layouts for spec in _exact(mask, layout)]
    if not found:
        found = [(Not(spec), bare) for spec in _exact(~mask, bare)]
    if not found:
        return _nearest(mask, layouts)
    found.sort(key=lambda item: (_length(item[0]), "padding" in kinds_in(item[0])))
    spec, layout = found[0]
    aliases: list[Spec] = []
    for other, _ in found[1:]:
        if all(not kinds_in(told) <= kinds_in(other) for told in (spec, *aliases)):
            aliases.append(other)
    return Name(write(spec), True, layout, tuple(map(write, aliases[:MOST_ALIASES])))


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
    yield from _conjunctions(mask, layout, mask)
    for union in _unions(mask, layout):
        # X | union: X has to cover only what the union does not.
        rest = mask - build(union, layout)
        if not rest.attended and build(union, layout) == mask:
            yield union
        for causal in (False, True):
            if causal and (mask - build(Named("causal"), layout)).attended:
                continue
            if not rest.attended:
                continue
            for inner in _conjunctions(rest, layout, None, limit=2):
                terms = [
                    term for term in _terms(inner) if not (causal and term.name in ("causal", "padding"))
                ]
                for spec in _joined(terms, union, causal, layout):
                    if build(spec, layout) == mask:
                        yield spec


def _joined(terms: list[Named], union: Named, causal: bool, layout: Layout) -> Iterator[Spec]:
    """(terms | union), under causal and padding where asked."""
    if not terms:
        return
    inner: Spec = terms[0] if len(terms) == 1 else Joined("&", tuple(terms))
    either = Joined("|", (inner, union))
    outer = ([Named("causal")] if causal else []) + ([Named("padding")] if layout.real is not None else [])
    yield Joined("&", (*outer, either)) if outer else either


def _terms(spec: Spec) -> list[Named]:
    if isinstance(spec, Named):
        return [spec]
    return (
        [operand for operand in spec.operands if isinstance(operand, Named)]
        if isinstance(spec, Joined)
        else []
    )


def _conjunctions(mask: Mask, layout: Layout, target: Mask | None, limit: int = MOST_TERMS) -> Iterator[Spec]:
    """Conjunctions of kinds that contain `mask` as tightly as they can.

    With a target, those that equal it, shortest combinations first; without one, all up to `limit` terms.
    """
    hull = [(term, build(term, layout)) for term in _supersets(mask, layout)]
    if target is None:
        for size in range(1, limit + 1):
            for chosen in itertools.combinations(hull, size):
                terms = tuple(term for term, _ in chosen)
                yield terms[0] if size == 1 else Joined("&", terms)
        return
    whole = Mask.full(mask.shape)
    for _, part in hull:
        whole = whole & part
    if whole != target:
        return
    if target.attended == target.cells:
        yield Named("full")
    best = None
    for size in range(1, limit + 1):
        for chosen in itertools.combinations(hull, size):
            terms = tuple(term for term, _ in chosen)
            spec = terms[0] if size == 1 else Joined("&", terms)
            if best is not None and size > best and _length(spec) > 64:
                continue
            product = chosen[0][1]
            for _, part in chosen[1:]:
                product = product & part
            if product == target:
                yield spec
                best = size if best is None else best
        if best is not None and size > best:
            return


def _supersets(mask: Mask, layout: Layout) -> list[Named]:
    """Of each kind, the tightest one that contains the mask; kinds that contain everything are left out."""
    edges = _Edges(mask, layout)
    terms = []
    if edges.ahead <= 0:
        terms.append(Named("causal"))
        terms.append(Named("sliding", (max(edges.behind + 1, 1),)))
    if layout.past and edges.top_left <= 0:
        terms.append(Named("causal-top-left"))
    if edges.ahead > 0:
        terms.append(Named("window", (max(edges.ahead, edges.behind, 0),)))
        if edges.prefix_lm is not None:
            terms.append(Named("prefix-lm", (edges.prefix_lm,)))
        terms.append(Named("prefix", (edges.last,)))
    terms += [Named("blocks", (size,)) for size in edges.blocks()]
    if edges.ahead <= 0:
        terms += [Named("chunked", (size,)) for size in edges.chunks()]
    if lengths := edges.documents():
        terms.append(Named("documents", lengths))
    if (step := edges.step()) is not None and step > 1:
        terms.append(Named("dilated", (max(edges.ahead, edges.behind, 0), step)))
    terms = [term for term in terms if build(term, layout).attended < mask.cells]
    return [*terms, Named("padding")] if layout.real is not None else terms


def _unions(mask: Mask, layout: Layout) -> Iterator[Named]:
    """global:N and prefix:N that lie inside the mask (but for the future and the padding), largest N."""
    real = build(Named("padding"), layout) if layout.real is not None else Mask.full(mask.shape)
    past = build(Named("causal"), layout)
    causal = (mask - past).attended == 0
    inside = real & past if causal else real
    for kind in ("prefix", "global"):
        size = _largest(mask, layout, kind, inside)
        if size and size < mask.shape[3]:
            yield Named(kind, (size,))


def _largest(mask: Mask, layout: Layout, kind: str, inside: Mask) -> int:
    """The largest N for which kind:N, as far as it may count, lies in the mask: mostly 0, so the search starts there."""

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


class _Edges:
    """Where the runs of a mask begin and end, seen from each query's own position."""

    def __init__(self, mask: Mask, layout: Layout) -> None:
        self.mask, self.layout = mask, layout
        per = np.diff(mask.pointer)
        rows = np.flatnonzero(per)
        query = rows % mask.stored[2]
        if mask.stored[2] == 1:
            # One row for every query: the first and the last position bound it on both sides.
            rows, query = np.repeat(rows, 2), np.tile([0, layout.queries - 1], rows.size)
        self.item = rows // (mask.stored[1] * mask.stored[2])
        self.position = query + layout.past
        self.query = query
        self.first = mask.starts[mask.pointer[:-1][rows]].astype(np.int64)
        self.stop = mask.stops[mask.pointer[1:][rows] - 1].astype(np.int64)
        self.rows = rows

    @property
    def ahead(self) -> int:
        """How far the furthest key lies behind its query's position (0: itself)."""
        return int((self.stop - 1 - self.position).max())

    @property
    def behind(self) -> int:
        """How far the earliest key lies before its query's position."""
        return int((self.position - self.first).max())

    @property
    def top_left(self) -> int:
        """`ahead`, counted from the first key whatever the past."""
        return int((self.stop - 1 - self.query).max())

    @property
    def last(self) -> int:
        """The end of the furthest run."""
        return int(self.stop.max())

    @property
    def prefix_lm(self) -> int | None:
        """The N of a prefix-LM: where rows that look ahead end; None when they do not end together."""
        ahead = self.stop - 1 > self.position
        ends = self.stop[ahead]
        return int(ends.max()) if ends.size and self.position.max() + 1 > ends.max() else None

    def blocks(self) -> list[int]:
        """Sizes B for which every run stays in its query's block, smallest first."""
        return self._grid(np.zeros_like(self.position))

    def chunks(self) -> list[int]:
        """The same, counted from the first real token of each item."""
        real = self.layout.real
        left = (
            np.zeros_like(self.position)
            if real is None
            else real.argmax(axis=1)[np.minimum(self.item, len(real) - 1)]
        )
        return self._grid(left)

    def _grid(self, left: Array) -> list[int]:
        first, last, position = self.first - left, self.stop - 1 - left, self.position - left
        # A block has to reach from each query to its furthest key on both sides; borders lie where no run crosses.
        need = int(max((position - first).max(), (last - position).max())) + 1
        keys = self.layout.keys
        crossed = np.zeros(keys + 1, np.int64)
        low, high = np.minimum(first, position), np.maximum(last, position)
        np.add.at(crossed, np.clip(low + 1, 0, keys), 1)
        np.add.at(crossed, np.clip(high + 1, 0, keys), -1)
        free = np.cumsum(crossed)[:keys] == 0
        borders = np.flatnonzero(free)
        sizes = borders[(borders >= max(need, 1)) & (borders < keys)][:TRIED].tolist()
        return [size for size in sizes if free[size::size].all()][:MOST_SIZES]

    def documents(self) -> tuple[int, ...]:
        """Lengths between the borders that no query looks across; empty for one document, or when items differ."""
        keys = self.layout.keys
        if self.layout.queries + self.layout.past > keys:
            return ()
        low, high = np.minimum(self.first, self.position), np.maximum(self.stop - 1, self.position)
        items = int(self.item.max()) + 1
        crossed = np.zeros((items, keys + 1), np.int64)
        np.add.at(crossed, (self.item, low + 1), 1)
        np.add.at(crossed, (self.item, high + 1), -1)
        free = (np.cumsum(crossed, axis=1)[:, :keys] == 0).all(axis=0)
        free[0] = True
        borders = np.flatnonzero(free)
        if not 2 <= borders.size <= MOST_DOCUMENTS:
            return ()
        lengths = np.diff(np.append(borders, keys)).tolist()
        # What is left over is a document of its own, so the last length need not be written.
        return tuple(lengths[:-1])

    def step(self) -> int | None:
        """The D of a dilated mask: the greatest number that divides the distance of every attended key."""
        mask = self.mask
        if mask.stored[2] == 1 or mask.starts.size == 0 or (mask.stops - mask.starts > 1).any():
            return None
        position = mask.row_of_run() % mask.stored[2] + self.layout.past
        distance = np.abs(mask.starts - position)
        divisor = int(np.gcd.reduce(distance))
        return divisor or None


def _nearest(mask: Mask, layouts: list[Layout]) -> Name:
    """The spec that differs in the fewest cells, among common masks of the sizes that most rows show."""
    best: tuple[int, int, Spec, Layout] | None = None
    for layout in layouts:
        for spec in _common(mask, layout):
            wrong = (build(spec, layout) ^ mask).attended
            if best is None or (wrong, _length(spec)) < best[:2]:
                best = (wrong, _length(spec), spec, layout)
    assert best is not None
    _, _, spec, layout = best
    named = build(spec, layout)
    return Name(write(spec), named == mask, layout, (), named - mask, mask - named)


def _common(mask: Mask, layout: Layout) -> Iterator[Spec]:
    tail: tuple[Spec, ...] = (Named("padding"),) if layout.real is not None else ()
    bases: list[tuple[Spec, ...]] = [(), (Named("causal"),), (Named("causal-top-left"),)]
    if mask.attended:
        edges = _Edges(mask, layout)
        behind, ahead = _usual(edges.position - edges.first), _usual(edges.stop - 1 - edges.position)
        bases.append((Named("sliding", (max(behind + 1, 1),)),))
        bases.append((Named("window", (max(behind, ahead, 0),)),))
        bases.append((Named("prefix", (_usual(edges.stop),)),))
        bases += [(term,) for term in _supersets(mask, layout) if term.name != "padding"]
        bases += [
            (Named("causal"), term[0])
            for term in bases[3:]
            if isinstance(term[0], Named) and term[0].name in ("blocks", "documents", "window")
        ]
    for base in bases:
        terms = (*base, *tail)
        yield Named("full") if not terms else terms[0] if len(terms) == 1 else Joined("&", terms)


def _usual(values: Array) -> int:
    """The most frequent value."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])
