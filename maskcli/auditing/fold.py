"""What rules found in batches, folded to one finding for a whole set. States are small, and add up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from heapq import nsmallest
from operator import add
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.auditing.glance import Counts, counts_of
from maskcli.auditing.judging import Judged, Verdict
from maskcli.auditing.rendering import Odd
from maskcli.auditing.results import EXAMPLES, Example, RowOf, Told
from maskcli.diagnostics.catalogue import RULES
from maskcli.diagnostics.finding import SEVERITIES
from maskcli.diagnostics.supervision import readings
from maskcli.diagnostics.words import LISTED, filled, listed_words

# Rows of a finding that are named.
FIRST = 5
# Tokens of an example that are kept, from a little before the first that is flagged.
SHOWN, BEFORE = 1024, 64
# Evidence that says how something is, and not how many there are: it does not add up.
MEASURES = frozenset(
    "pad_id prompt_length length ids places first expected lowest highest parts labels_at_index_0".split()
)

# Evidence that counts what stands beside a finding in its batch.
OF_BATCHES = frozenset({"of", "supervised", "supervised_ends", "cause"})

# A row: which part of the set, and its number in there.
At = tuple[int, int]


class Key(NamedTuple):
    """A finding: its code, its severity, its message before numbers are filled in.

    With `of_all` it holds where no row of the set is contrary, else with the severity `of_some`, if any.
    """

    code: str
    severity: str
    message: str
    of_all: bool = False
    of_some: str | None = None


class Range(NamedTuple):
    """The lowest and the highest of some numbers that do not add up."""

    low: float | int | str
    high: float | int | str

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"


class Sample(NamedTuple):
    """A row in which something was found, as far as it is kept; see Example."""

    at: At
    tokens: tuple[int, ...]
    counted: tuple[bool, ...]
    flagged: tuple[bool, ...]
    first: int
    length: int


@dataclass(frozen=True)
class Seen:
    """A finding in some rows. `numbers` are its evidence, summed or as ranges; `where` the numbers of all its
    rows, part by part, when they were asked for.
    """

    fix: str
    rows: int
    tokens: int
    numbers: dict[str, int | float | Range]
    values: dict[str, tuple[int, ...]]
    first: tuple[At, ...]
    samples: tuple[Sample, ...]
    where: dict[int, Array] = field(default_factory=dict)

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            min(self.fix, other.fix),
            self.rows + other.rows,
            self.tokens + other.tokens,
            _added(self.numbers, other.numbers),
            _fewest(self.values, other.values),
            tuple(nsmallest(FIRST, {*self.first, *other.first})),
            tuple(nsmallest(EXAMPLES, (*self.samples, *other.samples), key=lambda sample: sample.at)),
            _rows_of_both(self.where, other.where),
        )


class OddRows(NamedTuple):
    """Rows in which something is odd: how many, which is the first, and why there."""

    what: str
    rows: int
    first: At
    why: str

    def __add__(self, other: OddRows) -> OddRows:  # type: ignore[override]
        first = min(self, other, key=lambda each: each.first)
        return first._replace(rows=self.rows + other.rows)

    def odd(self, rows: dict[int, int], parts: Sequence[str]) -> Odd:
        """The same with the number of the first row in its file."""
        return Odd(self.what, self.rows, row_of(self.first, rows, parts).row, self.why)


@dataclass(frozen=True)
class Fold:
    """What is known of some rows of a set.

    `contrary` are codes of which some rows show the opposite, and whether that clears all others. `rows` are
    the rows of each part that were read, `left_out` those whose columns do not fit each other, by
    column. `odd` is what rendering found, `unasked` are columns that were met and not read.
    """

    counts: Counts = Counts()
    seen: dict[Key, Seen] = field(default_factory=dict)
    contrary: dict[str, bool] = field(default_factory=dict)
    decided: frozenset[str] = frozenset()
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    odd: dict[str, OddRows] = field(default_factory=dict)
    unasked: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Fold) -> Fold:
        return Fold(
            self.counts + other.counts,
            _totals(self.seen, other.seen),
            {code: self.clears(code) or other.clears(code) for code in {**self.contrary, **other.contrary}},
            self.decided | other.decided,
            other.needs | self.needs,
            _totals(self.rows, other.rows),
            _totals(self.left_out, other.left_out),
            _totals(self.odd, other.odd),
            other.unasked | self.unasked,
        )

    def clears(self, code: str) -> bool:
        """Whether some rows show that what a rule says of all is no fault."""
        return self.contrary.get(code, False)

    def settled(self) -> dict[Key, Seen]:
        """What holds of all rows together."""
        settled = dict[Key, Seen]()
        for key, seen in self.seen.items():
            known = key._replace(of_all=False, of_some=None)
            if key.of_all and key.code in self.contrary:
                if key.of_some is None or self.clears(key.code):
                    continue
                known = known._replace(severity=key.of_some)
            settled = _totals(settled, {known: seen})
        return settled


def odd_rows(odd: Sequence[Odd], part: int, unasked: dict[str, str]) -> Fold:
    """What rendering a chunk of a part found."""
    found = {each.what: OddRows(each.what, each.rows, (part, each.first), each.why) for each in odd}
    return Fold(odd=found, unasked=unasked)


def folded(
    judged: Judged, numbers: Array, part: int, tokens: int, keep: frozenset[str] | None = frozenset()
) -> Fold:
    """What was judged of a batch whose rows have these numbers in their part.

    `tokens` are those of its rows before they were filled up; `keep` are codes of which all row numbers are
    kept (None: of all).
    """
    told = dict[Key, list[Verdict]]()
    for verdict in judged.verdicts:
        found = verdict.found
        severity, message = found.severity or verdict.rule.severity, found.of_set or found.message
        key = Key(verdict.rule.code, severity, message, found.of_all, found.of_some)
        told.setdefault(key, []).append(verdict)
    seen = {
        key: _seen(verdicts, numbers, part, kept=keep is None or key.code in keep)
        for key, verdicts in told.items()
    }
    counts = counts_of(judged.scenes, len(numbers), tokens)
    return Fold(
        counts,
        seen,
        dict(judged.contrary),
        frozenset(judged.decided),
        dict(judged.needs),
        {part: len(numbers)},
    )


def _seen(verdicts: Sequence[Verdict], numbers: Array, part: int, *, kept: bool) -> Seen:
    """A finding in a batch; a row of two sides, as a pair has, is one row."""
    whole = reduce(add, (_of_side(verdict, numbers, part, kept=kept) for verdict in verdicts))
    return replace(whole, rows=int(np.any([verdict.rows for verdict in verdicts], axis=0).sum()))


def _of_side(verdict: Verdict, numbers: Array, part: int, *, kept: bool) -> Seen:
    found, items = verdict.found, np.flatnonzero(verdict.rows)
    return Seen(
        found.fix,
        len(items),
        0 if verdict.tokens is None else int(verdict.tokens.sum()),
        {name: _number(name, value) for name, value in found.evidence.items() if name not in OF_BATCHES},
        found.values,
        tuple((part, int(number)) for number in numbers[items[:FIRST]]),
        tuple(_samples(verdict, items[:EXAMPLES], numbers, part)),
        {part: numbers[items]} if kept else {},
    )


def _number(name: str, value: float | int | str) -> int | float | Range:
    return Range(value, value) if name in MEASURES or isinstance(value, str) else value


class _Shown(NamedTuple):
    """Tokens [B, L] that a finding speaks of, which of them are real, and which the loss counts."""

    ids: Array
    real: Array
    counted: Array


def _samples(verdict: Verdict, items: Array, numbers: Array, part: int) -> Iterator[Sample]:
    """Rows of a batch as they are kept: the ids, what the loss counts of them, what the finding is about."""
    told_of = _labels_alone(verdict) or _ids_of(verdict)
    if told_of is None:
        return
    ids, real, counted = told_of
    flagged = np.zeros(ids.shape, bool)
    if verdict.tokens is not None and verdict.tokens.shape == ids.shape:
        flagged = verdict.tokens
    for item in items:
        told = real[item] | counted[item] | flagged[item]
        length = ids.shape[1] - int(told[::-1].argmax())
        first = max(int(flagged[item].argmax()) - BEFORE, 0)
        shown = slice(first, min(first + SHOWN, length))
        yield Sample(
            (part, int(numbers[item])),
            tuple(ids[item, shown].tolist()),
            tuple(counted[item, shown].tolist()),
            tuple(flagged[item, shown].tolist()),
            first,
            length,
        )


def _labels_alone(verdict: Verdict) -> _Shown | None:
    """The labels that a finding is about, where no ids stand beside them, as a decoder's have none."""
    name = next(iter(verdict.found.tensors), "")
    for reading in readings(verdict.scene):
        if reading.name == name and reading.tokens.ids is None:
            counted = reading.supervised
            return _Shown(np.where(counted, reading.labels, 0), counted, counted)
    return None


def _ids_of(verdict: Verdict) -> _Shown | None:
    """The ids that a finding is about: those beside its first tensor, else the first."""
    name = next(iter(verdict.found.tensors), "")
    with_ids = [tokens for tokens in verdict.scene.tokens if tokens.ids is not None]
    named = [tokens for tokens in with_ids if name in tokens.names.values()]
    tokens = next(iter([*named, *with_ids]), None)
    if tokens is None or tokens.ids is None:
        return None
    shape, known = tokens.ids.shape, tokens.known_real(verdict.scene.declared)
    counted = np.zeros(shape, bool)
    for reading in readings(verdict.scene):
        if reading.labels.shape == shape and reading.tokens is tokens:
            counted = reading.taught
    return _Shown(tokens.ids, np.ones(shape, bool) if known is None else known, counted)


def told(fold: Fold, parts: Sequence[str]) -> tuple[Told, ...]:
    """The findings of a whole set, worst first; `parts` are the files of its parts, in order."""
    found = [_told(key, seen, fold, parts) for key, seen in fold.settled().items()]
    return tuple(sorted(found, key=lambda each: (SEVERITIES.index(each.severity), each.code, each.message)))


def _told(key: Key, seen: Seen, fold: Fold, parts: Sequence[str]) -> Told:
    code, severity, message = key[:3]
    numbers = {
        name: str(value) if isinstance(value, Range) else value for name, value in seen.numbers.items()
    }
    words: dict[str, object] = {
        name: f"{value:,}" if isinstance(value, int) else value for name, value in numbers.items()
    }
    words |= listed_words(seen.values)
    rows = f"{seen.rows:,} row{'s' * (seen.rows != 1)}"
    words["items"] = rows
    place = f"{seen.tokens:,} token{'s' * (seen.tokens != 1)} of {rows}" if seen.tokens else None
    return Told(
        code,
        _NAMES[code],
        severity,
        filled(message, words, place),
        filled(seen.fix, words),
        seen.rows,
        fold.counts.rows,
        seen.tokens,
        tuple(row_of(at, fold.rows, parts) for at in seen.first),
        tuple(Example(row_of(sample.at, fold.rows, parts), *sample[1:]) for sample in seen.samples),
        {name: _plain(value) for name, value in seen.numbers.items()},
        _where(seen.where, fold.rows, parts),
    )


def _where(where: dict[int, Array], rows: dict[int, int], parts: Sequence[str]) -> dict[str, Array]:
    """Row numbers in files, of those in parts; parts of one file follow each other."""
    files: dict[str, list[Array]] = {}
    for part in sorted(where):
        before = row_of((part, 0), rows, parts).row
        files.setdefault(parts[part], []).append(where[part] + before)
    return {file: np.concatenate(numbers) for file, numbers in files.items()}


_NAMES = {rule.code: rule.name for rule in RULES}


def _plain(number: int | float | Range) -> int | float | str:
    if not isinstance(number, Range):
        return number
    return number.low if number.low == number.high else str(number)


def row_of(at: At, rows: dict[int, int], parts: Sequence[str]) -> RowOf:
    """A row by its file; parts of one file follow each other."""
    part, number = at
    before = sum(rows.get(earlier, 0) for earlier in range(part) if parts[earlier] == parts[part])
    return RowOf(parts[part], before + number)


def _added(
    first: dict[str, int | float | Range], second: dict[str, int | float | Range]
) -> dict[str, int | float | Range]:
    both = {**first, **second}
    for name in first.keys() & second.keys():
        one, other = first[name], second[name]
        if isinstance(one, Range) and isinstance(other, Range):
            both[name] = Range(min(one.low, other.low), max(one.high, other.high))
        elif not isinstance(one, Range) and not isinstance(other, Range):
            both[name] = one + other
    return both


def _fewest(
    first: dict[str, tuple[int, ...]], second: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The lowest of both, as many as are listed and one more."""
    names = {**first, **second}
    return {
        name: tuple(sorted({*first.get(name, ()), *second.get(name, ())})[: LISTED + 1]) for name in names
    }


def _totals(first: dict[Any, Any], second: dict[Any, Any]) -> dict[Any, Any]:
    """Both, and what stands in both added up."""
    both = {**first, **second}
    for key in first.keys() & second.keys():
        both[key] = first[key] + second[key]
    return both


def _rows_of_both(first: dict[int, Array], second: dict[int, Array]) -> dict[int, Array]:
    """Row numbers by part, sorted."""
    both = {**first, **second}
    for part in first.keys() & second.keys():
        both[part] = np.union1d(first[part], second[part])
    return both
