"""Tables through the rules: what is read of each, its parts to folds, and the folds to one report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from maskcli.auditing.audit import Task, audit_chunk, learn, report
from maskcli.auditing.fold import Fold, row_of
from maskcli.auditing.rendering import REFUSED, Odd, Rendering, notes, rendered, rendering_of, together
from maskcli.auditing.results import Audited
from maskcli.auditing.roles import Columns, columns_of
from maskcli.diagnostics.declare import Meaning
from maskcli.errors import MaskcliError
from maskcli.tables.columns import Chunk, Part, Table
from maskcli.tables.read import read


@dataclass(frozen=True)
class Asked:
    """What a user says of a set: the roles of columns, by their names; how rows without ids are rendered; the
    rules of which all row numbers are kept (None: all).
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str | None = None
    template: str | None = None
    tools: str | None = None
    max_length: int | None = None
    keep: frozenset[str] | None = frozenset()


@dataclass(frozen=True)
class Plan:
    """How a table is audited: what is read of its parts, and what is done with their rows.

    Small, and the same in every process.
    """

    parts: tuple[Part, ...]
    task: Task
    rendering: Rendering | None = None

    def audit(self, number: int) -> Done:
        """What the rules say of a part."""
        done = Done(number)
        for chunk, odd in _chunks(self.parts[number], self.task.plan.columns, self.rendering):
            done = Done(
                number,
                done.fold + audit_chunk(chunk, number, self.task),
                together([*done.odd, *odd]),
                {**done.unasked, **chunk.unasked},
            )
        return done


class Done(NamedTuple):
    """What is known of a part: its fold, what was odd, and columns that were met and not asked for."""

    number: int
    fold: Fold = Fold()
    odd: tuple[Odd, ...] = ()
    unasked: Mapping[str, str] = {}


def plan_of(table: Table, asked: Asked, meaning: Meaning) -> Plan:
    """How a table is audited, as its first rows show.

    Raises MaskcliError where it has no rows, or none that say anything of tokens.
    """
    rendering = _rendering(table, asked)
    names = table.numbers if rendering is None else rendering.made
    columns = columns_of(names, asked.columns if rendering is None else {})
    for part in table.parts:
        for chunk, _ in _chunks(part, columns, rendering):
            task = replace(learn(chunk, columns, meaning), keep=asked.keep)
            return Plan(table.parts, task, rendering)
    raise MaskcliError(f"{table.name!r} has no rows; pass a set that holds some")


def audited(table: Table, plan: Plan, parts: Iterable[Done]) -> Audited:
    """The report on a table; `parts` come in their order.

    Raises MaskcliError where none of its rows could be rendered.
    """
    files = [part.path for part in plan.parts]
    fold, odd = Fold(), list[Odd]()
    for done in parts:
        fold += done.fold
        odd += [_placed(each, done.number, fold, files) for each in done.odd]
    whole = report(table.name, fold, files, plan.task)
    told = notes(plan.rendering, odd) if plan.rendering is not None else ()
    refused = next((each for each in together(odd) if each.what == REFUSED), None)
    if refused is not None and refused.rows == whole.glance.rows:
        raise MaskcliError(f"no row of {table.name!r} could be rendered; the first: {refused.why}")
    return replace(whole, notes=(*told, *whole.notes), unread={**table.unread, **whole.unread})


def wider(table: Table, plan: Plan, parts: Sequence[Done], asked: Asked) -> Table | None:
    """The table with columns that only later rows have, where one of them would be read."""
    unasked = {name: word for done in parts for name, word in done.unasked.items()}
    widened = table.widened(unasked) if plan.rendering is None else None
    if widened is None:
        return None
    before = plan.task.plan.columns.names
    return widened if set(columns_of(widened.numbers, asked.columns).names) - set(before) else None


def _rendering(table: Table, asked: Asked) -> Rendering | None:
    """How rows are rendered, where no column of numbers holds ids."""
    if _has_ids(table, asked):
        return None
    if asked.tokenizer is None:
        found = rendering_of(table.others, "")
        if found is None:
            return None
        raise MaskcliError(
            f"{table.name!r} has no ids, but {' and '.join(map(repr, found.read))}; pass --tokenizer with "
            "the model's, whose chat template renders them"
        )
    return rendering_of(
        table.others, asked.tokenizer, tools=asked.tools, template=asked.template, max_length=asked.max_length
    )


def _has_ids(table: Table, asked: Asked) -> bool:
    try:
        columns = columns_of(table.numbers, asked.columns)
    except MaskcliError:
        return bool(asked.columns)
    return bool(columns.joined) or any(role.role == "input_ids" for role in columns.roles.values())


def _chunks(
    part: Part, columns: Columns, rendering: Rendering | None
) -> Iterator[tuple[Chunk, tuple[Odd, ...]]]:
    """The rows of a part, rendered where they have no ids."""
    if rendering is None:
        yield from ((chunk, ()) for chunk in read(part, columns.names))
    else:
        yield from (rendered(chunk, rendering) for chunk in read(part, (), rendering.read))


def _placed(odd: Odd, part: int, fold: Fold, files: Sequence[str]) -> Odd:
    """What is odd, with the row's number in its file."""
    file, row = row_of((part, odd.first), fold.rows, files)
    return odd._replace(first=row, file=file if len(set(files)) > 1 else "")
