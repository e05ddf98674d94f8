"""Why a cell is forbidden: which operand of a spec forbids it, and in which sense."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from maskcli.masks.kinds import KINDS as MASK_KINDS
from maskcli.masks.kinds import causal, document_ids, full
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.runs import runs_of
from maskcli.masks.spec import (
    Joined,
    Named,
    PerDocument,
    Resolve,
    Spec,
    build,
    conjuncts,
    in_each_document,
    parse,
    write,
)
from maskcli.masks.words import runs_in_words

# What a forbidden cell is called, by the first of these that holds of it.
KINDS = ("padding", "document", "future", "window", "other")


@dataclass(frozen=True)
class Reason:
    """Cells [B, H, Q, K] that an operand of a spec forbids: `kind` is one of KINDS, `operand` its text."""

    kind: str
    operand: str
    forbids: Mask


def reasons(parsed: Spec, layout: Layout, resolve: Resolve | None = None) -> tuple[Reason, ...]:
    """Why `parsed` forbids what it forbids over `layout`: disjoint masks, whose union is all of that.

    A cell that several operands forbid has the first kind of KINDS. What no operand forbids alone, as in
    a | b, has the text of the whole. Whatever hides all later keys hides them as the future. Raises
    MaskcliError where the mask itself cannot be built.

    >>> [(each.kind, each.operand) for each in reasons(parse("causal & sliding:2"), Layout(1, 4, 4))]
    [('future', 'causal'), ('window', 'sliding:2')]
    """
    return tuple(_forbidden(parsed, layout, resolve))


class Because(NamedTuple):
    """Why a query may or may not see a key: in words, and what forbids it."""

    text: str
    reason: Reason | None


def because(
    parsed: Spec,
    layout: Layout,
    query: int,
    key: int,
    batch: int = 0,
    head: int = 0,
    resolve: Resolve | None = None,
) -> Because:
    """Why a query may or may not see a key, with the arithmetic, without a full stop.

    >>> because(parse("causal & sliding:2"), Layout(1, 6, 6), 4, 2).text
    'outside sliding:2 (4 - 2 >= 2)'
    >>> because(parse("causal & sliding:2"), Layout(1, 6, 6), 4, 3).text
    'causal and sliding:2 allow it'
    """
    cell = _Cell(layout, query, key, batch, head)
    for reason in reasons(parsed, layout, resolve):
        if cell.within(reason.forbids):
            return Because(cell.forbidden(reason, resolve), reason)
    allowing = list(dict.fromkeys(cell.allowing(parsed, resolve)))
    return Because(f"{' and '.join(allowing)} allow{'s' * (len(allowing) == 1)} it", None)


def _forbidden(spec: Spec, layout: Layout, resolve: Resolve | None) -> list[Reason]:
    """The reasons of a spec, disjoint, in the order of KINDS."""
    operands = list(_operands(spec))
    if len(operands) > 1:
        found = (reason for operand in operands for reason in _forbidden(operand, layout, resolve))
        return _apart(found, Mask.full(layout.shape))
    (only,) = operands
    if isinstance(only, PerDocument):
        return _by_document(only, layout, resolve)

    forbidden = ~build(only, layout, resolve)
    if isinstance(only, Joined):
        found = (reason for operand in only.operands for reason in _forbidden(operand, layout, resolve))
        return _apart((replace(reason, operand=write(only)) for reason in found), forbidden)
    return _apart(_of_one(only, layout, forbidden), forbidden)


def _operands(spec: Spec) -> Iterator[Spec]:
    """What a spec joins by &: a kind may join others, and documents keep to all that is joined in them."""
    for operand in conjuncts(spec):
        if isinstance(operand, Named) and MASK_KINDS[operand.name].joins:
            yield from map(Named, MASK_KINDS[operand.name].joins)
        elif isinstance(operand, PerDocument):
            yield from (replace(operand, operand=inner) for inner in _operands(operand.operand))
        else:
            yield operand


def _of_one(spec: Spec, layout: Layout, forbidden: Mask) -> Iterator[Reason]:
    """What an operand forbids, by its own word; the reasons overlap, and the first counts."""
    text = write(spec)
    word = MASK_KINDS[spec.name].forbids if isinstance(spec, Named) else "other"
    if layout.keys_at is not None:
        yield Reason("padding", text, ~full(layout))
    if word in ("window", "other"):
        later = ~causal(layout)
        if not (later - forbidden).attended:
            yield Reason("future", text, later)
    yield Reason(word, text, forbidden)


def _by_document(spec: PerDocument, layout: Layout, resolve: Resolve | None) -> list[Reason]:
    """What each document forbids by itself, and what stands in another."""
    text = write(spec)

    def inside(kind: str) -> Mask:
        return in_each_document(spec, layout, lambda part: _of_kind(kind, spec.operand, part, resolve))

    found = [Reason(kind, text, inside(kind)) for kind in KINDS]
    if layout.keys_at is not None:
        found.append(Reason("padding", text, ~full(layout)))
    own = in_each_document(spec, layout, lambda part: Mask.full(part.shape))
    return _apart([*found, Reason("document", text, ~own)], Mask.full(layout.shape))


def _of_kind(kind: str, spec: Spec, layout: Layout, resolve: Resolve | None) -> Mask:
    """All that a spec forbids as this kind."""
    cells = Mask.from_intervals(layout.shape, 0, 0)
    for reason in _forbidden(spec, layout, resolve):
        if reason.kind == kind:
            cells = cells | reason.forbids
    return cells


def _apart(found: Iterable[Reason], rest: Mask) -> list[Reason]:
    """Reasons for the cells of `rest`, each cell with its first; those of one operand and kind as one."""
    apart: dict[tuple[str, str], Mask] = {}
    for reason in sorted(found, key=lambda each: KINDS.index(each.kind)):
        cells = reason.forbids & rest
        if not cells.attended:
            continue
        named = reason.kind, reason.operand
        apart[named] = apart[named] | cells if named in apart else cells
        rest = rest - cells
    return [Reason(kind, operand, cells) for (kind, operand), cells in apart.items()]


@dataclass(frozen=True)
class _Cell:
    """One cell of a layout, and what is to be said of it."""

    layout: Layout
    query: int
    key: int
    batch: int
    head: int

    def within(self, mask: Mask) -> bool:
        """Whether a mask has the cell."""
        rows, keys = (self.query, self.query + 1), (self.key, self.key + 1)
        return bool(mask.dense(self.batch, self.head, rows, keys)[0, 0])

    def forbidden(self, reason: Reason, resolve: Resolve | None) -> str:
        """What an operand has against it."""
        spec = parse(reason.operand)
        if self._query_at < 0:
            return f"query {self.query} holds no token"
        if reason.kind == "padding":
            return f"key {self.key} {'is padding' if self._key_at >= 0 else 'holds no token'}"
        if reason.kind == "future":
            return f"key {self.key} stands after query {self.query}{self._positions}"
        if reason.kind == "document":
            return self._documents(spec)
        inner = spec.operand if isinstance(spec, PerDocument) else spec
        if not isinstance(inner, Named):
            return f"forbidden by {reason.operand}"
        detail = _distance(inner, self._query_at, self._key_at)
        if detail is None:
            detail = self._seen(build(spec, self.layout, resolve))
        return f"outside {reason.operand} ({detail})"

    def allowing(self, spec: Spec, resolve: Resolve | None) -> Iterator[str]:
        """The operands that allow the cell: of alternatives those that do."""
        for operand in _operands(spec):
            if not isinstance(operand, Joined):
                yield write(operand)
                continue
            for other in operand.operands:
                if self.within(build(other, self.layout, resolve)):
                    yield from self.allowing(other, resolve)

    @property
    def _query_at(self) -> int:
        row = self.layout.positions[:, 0]
        return int(row[min(self.batch, len(row) - 1), self.query])

    @property
    def _key_at(self) -> int:
        told = self.layout.keys_at
        return self.key if told is None else int(told[min(self.batch, len(told) - 1), self.key])

    @property
    def _positions(self) -> str:
        """Both positions, where they are not the numbers of the row and the column."""
        if (self._query_at, self._key_at) == (self.query, self.key):
            return ""
        return f" (positions {self._key_at} and {self._query_at})"

    def _documents(self, spec: Spec) -> str:
        """The documents of the query and of the key."""
        lengths = spec.lengths if isinstance(spec, PerDocument) else getattr(spec, "numbers", ())
        layout = self.layout if self.layout.keys_at is None else self.layout.by_position
        ids = document_ids(layout, *lengths)
        row = ids[min(self.batch, len(ids) - 1)]
        return (
            f"query {self.query} is in document {row[self._query_at]}, "
            f"key {self.key} in document {row[self._key_at]}"
        )

    def _seen(self, mask: Mask) -> str:
        """The keys that the query does see."""
        row = mask.dense(self.batch, self.head, (self.query, self.query + 1))[0]
        seen = runs_in_words(runs_of(row), "key", "keys") if row.any() else "no key"
        return f"query {self.query} sees {seen} there"


def _distance(spec: Named, query: int, key: int) -> str | None:
    """Why a key is too far away, for the kinds that measure distances; None for others."""
    numbers = spec.numbers
    if spec.name == "sliding":
        return f"{query} - {key} >= {numbers[0]}"
    if spec.name not in ("window", "dilated"):
        return None
    before, after = (numbers[0], numbers[-1]) if spec.name == "window" else (numbers[0], numbers[0])
    if 0 <= before < query - key:
        return f"{query} - {key} > {before}"
    if 0 <= after < key - query:
        return f"{key} - {query} > {after}"
    return f"{max(query, key)} - {min(query, key)} is no multiple of {numbers[1]}"


def by_kind(found: Iterable[Reason]) -> dict[str, Mask]:
    """The cells of each kind, of all operands together."""
    cells: dict[str, Mask] = {}
    for reason in found:
        cells[reason.kind] = cells[reason.kind] | reason.forbids if reason.kind in cells else reason.forbids
    return cells
