"""Audit a set: parts to chunks, chunks to batches, batches to rules, findings to one report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import chain
from operator import add

import numpy as np

from maskcli.arrays import for_any_numbers
from maskcli.auditing.batch import CELLS, Plan, batches
from maskcli.auditing.fold import Fold, folded, odd_rows, told
from maskcli.auditing.judging import RULES_OF_SETS, judge
from maskcli.auditing.learning import learn
from maskcli.auditing.misfits import left_out
from maskcli.auditing.rendering import Rendering, notes, rendered, rendering_of
from maskcli.auditing.results import Audited
from maskcli.auditing.roles import Columns, columns_of, is_known
from maskcli.auditing.sided import Sided, sided
from maskcli.diagnostics.declare import Meaning
from maskcli.diagnostics.finding import Skipped
from maskcli.diagnostics.rules.targets import label_length
from maskcli.errors import MaskcliError
from maskcli.inputs.spread import Workers, spread
from maskcli.meant.facts import Declared
from maskcli.meant.shown import Shown
from maskcli.tables.columns import Chunk, Part, Table
from maskcli.tables.read import read
from maskcli.tables.rows import Held
from maskcli.tensors import shown
from maskcli.text.learning import Chat
from maskcli.untrusted import MEBIBYTE

# Bytes of a set for which a further process pays, which takes a second to start.
WORTH_A_PROCESS = 16 * MEBIBYTE

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Asked:
    """What a user asks of an audit beside what was meant.

    `columns` is the role of a column by its name. Rows without ids are rendered by a `tokenizer`: `tools` is
    the column of tools, `max_length` where rows are cut. Of the rules `keep` all row numbers are kept (None:
    of all).
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str | None = None
    tools: str | None = None
    max_length: int | None = None
    keep: frozenset[str] | None = frozenset()


@dataclass(frozen=True)
class Task:
    """What is done with every part of a set: small, and the same in every process.

    `declared` are facts, `codes` the rules to report (None: all), `keep` those of which all row numbers are
    kept, `cells` the size of batches. `foreign` is an id of the first rows that the tokenizer has not.
    """

    plan: Plan
    declared: Declared
    rendering: Rendering | None = None
    codes: frozenset[str] | None = None
    keep: frozenset[str] | None = frozenset()
    cells: int = CELLS
    foreign: int | None = None

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns of numbers to read."""
        return () if self.rendering else self.plan.columns.names

    @property
    def others(self) -> tuple[str, ...]:
        """The other columns to read."""
        return self.rendering.read if self.rendering else ()


def audit_table(
    table: Table, meaning: Meaning, asked: Asked, workers: Workers, advance: Advance | None = None
) -> Audited:
    """Audit the rows of files, part by part; `advance` is told of bytes that are done.

    Raises MaskcliError where there is no row, or no column that says anything of tokens.
    """
    task = task_of(table, meaning, asked)
    fold, numbered = Fold(), list(enumerate(table.parts))
    with closing(spread(partial(_auditor, task), numbered, workers, _killed)) as folds:
        for (_, part), more in zip(numbered, folds, strict=True):
            fold += more
            if advance is not None:
                advance(part.size)
    return report(table, fold, [shown(part.path) for part in table.parts], task)


def task_of(table: Table, meaning: Meaning, asked: Asked) -> Task:
    """The task that the first rows of files call for. Raises MaskcliError where there are none."""
    for part in table.parts:
        begun = _begin(table, partial(read, part), meaning, asked)
        if begun is not None:
            return begun[0]
    raise _without_rows(table)


def audit_held(held: Held, meaning: Meaning, asked: Asked) -> Audited:
    """Audit rows that Python holds; those of a generator are read once.

    Raises MaskcliError as `audit_table` does.
    """
    begun = _begin(held.table, held.read, meaning, asked)
    if begun is None:
        raise _without_rows(held.table)
    task, chunks = begun
    return report(held.table, audit_chunks(chunks, 0, task), [held.table.name], task)


def workers_for(table: Table, jobs: int | None = None, dask: str | None = None) -> Workers:
    """Who reads the parts of a table: as many processes as asked for, else as pay, or a Dask cluster."""
    size = sum(part.size for part in table.parts)
    paying = max(1, min(os.cpu_count() or 1, size // WORTH_A_PROCESS))
    return Workers(max(1, min(jobs or paying, len(table.parts))), dask)


def audit_part(task: Task, numbered: tuple[int, Part]) -> Fold:
    """What the rules say of the rows of a part, the so-manieth of its set."""
    number, part = numbered
    return audit_chunks(read(part, task.numbers, task.others), number, task)


def audit_chunks(chunks: Iterable[Chunk], part: int, task: Task) -> Fold:
    """What the rules say of the rows of a part, chunk by chunk."""
    return reduce(add, (audit_chunk(chunk, part, task) for chunk in chunks), Fold())


@for_any_numbers
def audit_chunk(chunk: Chunk, part: int, task: Task) -> Fold:
    """What the rules say of the rows of a chunk, which is one of a part's."""
    odd = Fold(unasked=chunk.unasked)
    if task.rendering is not None:
        chunk, found = rendered(chunk, task.rendering)
        odd = odd_rows(found, part, chunk.unasked)
    rows = sided(chunk, task.plan.columns, task.plan.apart)
    code = label_length.code
    fold = odd + left_out(
        rows,
        chunk.first + np.arange(chunk.rows),
        part,
        task.declared,
        told=task.codes is None or code in task.codes,
        kept=task.keep is None or code in task.keep,
    )
    total = np.sum(list(rows.lengths.values()), axis=0)
    for batch in batches(rows, task.plan, task.declared, task.cells):
        judged = judge(batch, task.declared, task.codes)
        fold += folded(judged, chunk.first + batch.rows, part, int(total[batch.rows].sum()), task.keep)
    return fold


def report(table: Table, fold: Fold, parts: Sequence[str], task: Task) -> Audited:
    """The report on a set; `parts` are the files of its parts, in order."""
    columns = task.plan.columns
    chosen = [rule for rule in RULES_OF_SETS if task.codes is None or rule.code in task.codes]
    skipped = [
        Skipped(rule.code, rule.name, table.name, fold.needs[rule.code])
        for rule in sorted(chosen, key=lambda rule: rule.code)
        if rule.code in fold.needs and rule.code not in fold.decided
    ]
    return Audited(
        table.name,
        fold.counts.glance(),
        told(fold, parts),
        tuple(skipped),
        columns.told(),
        columns.unread | _unread(table, fold, task),
        fold.decided,
        tuple(_notes(fold, parts, task)),
    )


def _begin(
    table: Table, read_rows: Callable[..., Iterator[Chunk]], meaning: Meaning, asked: Asked
) -> tuple[Task, Iterator[Chunk]] | None:
    """The task that the first rows call for, and all rows; None where there are none."""
    if not (table.numbers or table.others or table.unread):
        return None
    if not table.numbers and any(map(is_known, table.unread)):
        listed = ", ".join(map(repr, table.unread))
        raise MaskcliError(f"no row of {table.name!r} holds anything as {listed}; check how it was written")
    rendering = _rendering(table, meaning.declared, asked)
    columns = columns_of(table.numbers if rendering is None else rendering.made, asked.columns)
    numbers, others = (columns.names, ()) if rendering is None else ((), rendering.read)
    chunks = read_rows(numbers, others)
    head = next(chunks, None)
    if head is None:
        return None
    first = head if rendering is None else rendered(head, rendering).chunk
    rows = sided(first, columns, frozenset())
    if not rows.lengths:
        raise _without_tokens(table, columns)
    plan, declared = learn(first, columns, _ready(meaning.declared, rendering))
    task = Task(plan, declared, rendering, meaning.codes, asked.keep, foreign=_foreign(rows, meaning))
    return task, chain([head], chunks)


def _foreign(rows: Sided, meaning: Meaning) -> int | None:
    """The highest id of some rows, where it is none of the tokenizer's."""
    ids = [column.values for role, column in rows.columns.values() if role.role == "input_ids"]
    highest = max((int(values.max(initial=0)) for values in ids), default=0)
    named = None if meaning.token is None else meaning.token(highest)
    return highest if named == f"#{highest}" else None


def _ready(declared: Declared, rendering: Rendering | None) -> Declared:
    """The facts as every process needs them: with what a model and a chat template tell."""
    declared = declared.with_model()
    # What rendering counts it counts where it stands, whatever its name may mean elsewhere.
    masks = () if rendering is None else rendering.made
    shown = Shown(dict.fromkeys(masks, 0), ends=False, starts=())
    return replace(declared, chat=declared.turns or declared.chat, shown=shown if masks else None)


def _rendering(table: Table, declared: Declared, asked: Asked) -> Rendering | None:
    """How rows become tokens where no column holds any."""
    if any(is_known(name) or name in asked.columns for name in table.numbers) or not table.others:
        _check_idle(table, asked)
        return None
    if asked.tokenizer is None:
        listed = ", ".join(map(repr, table.others))
        raise MaskcliError(
            f"{table.name!r} has no column of ids; to encode one of {listed} pass a tokenizer (-t), or say "
            "which column holds ids with --column input_ids=NAME"
        )
    template = declared.chat.template if isinstance(declared.chat, Chat) else None
    return rendering_of(
        table.others, asked.tokenizer, tools=asked.tools, template=template, max_length=asked.max_length
    )


def _check_idle(table: Table, asked: Asked) -> None:
    """Refuse what is said of rows that are rendered where a table holds ids."""
    is_stream = any(part.raw is not None for part in table.parts)
    idle = {"--tools": asked.tools, "--max-length": None if is_stream else asked.max_length}
    said = next((option for option, value in idle.items() if value is not None), None)
    if said is not None:
        raise MaskcliError(
            f"{said} is for rows that a tokenizer renders, and {table.name!r} holds rows of ids; leave it out"
        )


def _unread(table: Table, fold: Fold, task: Task) -> dict[str, str]:
    """Columns that nothing looked at, beside those of numbers of unknown names, and why."""
    later = {
        name: "only later rows have it; give the first one too"
        for name in fold.unasked
        if task.rendering is None and is_known(name) and name not in task.plan.columns.roles
    }
    return table.unread | _of_other_shape(table) | later


def _of_other_shape(table: Table) -> dict[str, str]:
    """Columns that are known by name and hold something else than numbers, and what that is."""
    known = {name: word for name, word in table.others.items() if is_known(name)}
    return {name: f"holds {word}, expected a list of numbers a row" for name, word in known.items()}


def _notes(fold: Fold, parts: Sequence[str], task: Task) -> Iterator[str]:
    for column, count in sorted(fold.left_out.items()):
        yield f"{count:,} row(s) were left out of all else: {column!r} does not fit the ids in length"
    if task.foreign is not None:
        yield f"id {task.foreign} is no token of the tokenizer, which may be another model's"
    if task.rendering is not None:
        odd = [each.odd(fold.rows, parts) for each in fold.odd.values()]
        yield from notes(task.rendering, odd)


def _auditor(task: Task) -> Callable[[tuple[int, Part]], Fold]:
    return partial(audit_part, task)


def _killed(numbered: tuple[int, Part]) -> Fold:
    path = numbered[1].path
    raise MaskcliError(f"the process that read {path!r} was killed, as for want of memory; use fewer --jobs")


def _without_tokens(table: Table, columns: Columns) -> MaskcliError:
    single = dict.fromkeys(columns.names, "holds one number a row, expected a list")
    told = "; ".join(f"{name!r} {why}" for name, why in (single | _of_other_shape(table)).items())
    return MaskcliError(f"no column of {table.name!r} has numbers for tokens: {told}")


def _without_rows(table: Table) -> MaskcliError:
    return MaskcliError(f"there are no rows to audit in {table.name!r}")
