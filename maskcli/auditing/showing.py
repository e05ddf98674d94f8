"""One row of a set, token by token: what its columns say, and what follows for the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from maskcli.auditing.audit import Asked, Task, task_of
from maskcli.auditing.batch import Batch, batches
from maskcli.auditing.rendering import rendered
from maskcli.auditing.results import RowOf
from maskcli.auditing.sided import Side, Sided, side_of, sided
from maskcli.diagnostics.declare import Meaning
from maskcli.diagnostics.supervision import readings
from maskcli.errors import MaskcliError
from maskcli.scene.assemble import build_scenes
from maskcli.tables.columns import Chunk, Table
from maskcli.tables.cut import piece
from maskcli.tables.read import read

# Rows on either side that are read too: what one row leaves open its neighbours may tell.
NEAR = 16
# What columns of these roles are called here; others keep their name.
NAMES = {
    "input_ids": "id",
    "padding_mask": "attention_mask",
    "position_ids": "position_id",
    "token_type_ids": "token_type_id",
    "segment_ids": "document",
    "labels": "label",
}
ORDER = ("id", "turn", "role", "part", "attention_mask", "position_id", "token_type_id", "document")
PARTS = ("", "header", "content", "end", "behind")


class SideOfRow(NamedTuple):
    """The tokens of one side of a row (chosen, rejected, decoder; "" for the only one): columns by name, each
    with a value for every token, None where it has none.
    """

    name: str
    columns: dict[str, list[Any]]


class ShownRow(NamedTuple):
    """A row, side by side."""

    row: RowOf
    sides: tuple[SideOfRow, ...]


def shown_rows(
    tables: Sequence[Table], wanted: Sequence[str], meaning: Meaning, asked: Asked
) -> Iterator[ShownRow]:
    """The rows that are asked for as NUMBER or FILE:NUMBER, counted from 0.

    Raises MaskcliError for a row that is not there, or in one of several files.
    """
    for text in wanted:
        table, row = _found(tables, text)
        yield _shown(table, row, task_of(table, meaning, asked))


def _found(tables: Sequence[Table], text: str) -> tuple[Table, RowOf]:
    """The table and row that a text names."""
    file, _, digits = text.rpartition(":")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        raise MaskcliError(f"--show {text!r} is no row; write its number, or FILE:NUMBER, counted from 0")
    files = {part.path: table for table in tables for part in table.parts}
    if not file and len(files) > 1:
        first = next(iter(files))
        raise MaskcliError(
            f"--show {text}: there are {len(files)} files; say of which, such as {first}:{digits}"
        )
    file = file or next(iter(files), "")
    if file not in files:
        raise MaskcliError(f"--show {text!r}: {file!r} is none of the files; there are {', '.join(files)}")
    return files[file], RowOf(file, int(digits))


def _shown(table: Table, row: RowOf, task: Task) -> ShownRow:
    chunk, at = _chunk(table, row, task)
    if task.rendering is not None:
        chunk, odd = rendered(chunk, task.rendering)
        why = next((each.why for each in odd if each.why and each.first == chunk.first + at), None)
        if why is not None:
            raise MaskcliError(f"row {row.row} of {row.file!r} could not be rendered: {why}")
    rows = sided(chunk, task.plan.columns, task.plan.apart)
    sides = _saved(rows, at, task)
    for batch in batches(rows, task.plan, task.declared):
        if at in batch.rows:
            _add_read(sides, rows, batch, int(np.flatnonzero(batch.rows == at)[0]), task)
    _add_turns(sides, task)
    return ShownRow(row, tuple(_side(side, columns) for side, columns in sides.items()))


def _chunk(table: Table, row: RowOf, task: Task) -> tuple[Chunk, int]:
    """Some rows of which one is asked for, and which of them that is."""
    before = 0
    for part in (part for part in table.parts if part.path == row.file):
        if part.rows is not None and before + part.rows <= row.row:
            before += part.rows
            continue
        stop = 0
        for chunk in read(part, task.numbers, task.others):
            at = row.row - before - chunk.first
            if 0 <= at < chunk.rows:
                first = max(at - NEAR, 0)
                return piece(chunk, first, min(at + NEAR, chunk.rows)), at - first
            stop = chunk.first + chunk.rows
        before += stop
    raise MaskcliError(f"there is no row {row.row} in {row.file!r}, which has {before:,} (counted from 0)")


def _saved(rows: Sided, at: int, task: Task) -> dict[Side, dict[str, list[Any]]]:
    """What the columns themselves hold, by side; what rendering made of a row is told as counted."""
    sides: dict[Side, dict[str, list[Any]]] = {}
    for name, (role, column) in rows.columns.items():
        if column.offsets is None or (task.rendering is not None and role.role == "loss_mask"):
            continue
        values = column.values[column.offsets[at] : column.offsets[at + 1]].tolist()
        sides.setdefault(side_of(role), {}).setdefault(NAMES.get(role.role, name), values)
    return sides


def _add_read(
    sides: dict[Side, dict[str, list[Any]]], rows: Sided, batch: Batch, at: int, task: Task
) -> None:
    """What the loss counts, and packed texts, as the rules read them."""
    for scene in build_scenes("", batch.tensors, task.declared):
        for reading in readings(scene):
            names = [name for name in reading.tokens.names.values() if name in rows.columns]
            columns = sides[side_of(rows.columns[names[0]][0])]
            columns["counted"] = reading.taught[at].tolist()
            if reading.tokens.documents is not None:
                columns.setdefault("document", reading.tokens.documents[at].tolist())


def _add_turns(sides: dict[Side, dict[str, list[Any]]], task: Task) -> None:
    """Whose turn each token is in, and which part of it."""
    turns = task.declared.turns
    if turns is None:
        return
    from maskcli.text.markers import ROLES

    for columns in sides.values():
        if "id" in columns:
            real = np.asarray(columns.get("attention_mask", np.ones(len(columns["id"])))) != 0
            split = turns.split_real(np.asarray(columns["id"], np.int64)[None], real[None])
            roles = [ROLES[role] if role >= 0 else None for role in split.role[0].tolist()]
            columns["turn"] = [turn if turn >= 0 else None for turn in split.turn[0].tolist()]
            columns["role"] = roles
            columns["part"] = [PARTS[part] or None for part in split.part[0].tolist()]


def _side(side: Side, columns: dict[str, list[Any]]) -> SideOfRow:
    """A side's columns in order, as long as the longest that the row itself has."""
    group, kind = side
    words = [group, "" if kind == "self" else kind]
    made = ("counted", "document")
    length = max(len(values) for name, values in columns.items() if name not in made)
    first = [name for name in ORDER if name in columns]
    last = [name for name in ("counted", "label") if name in columns]
    names = [*first, *(name for name in columns if name not in (*first, *last)), *last]
    filled = {name: [*columns[name], *[None] * length][:length] for name in names}
    return SideOfRow(" ".join(word for word in words if word), filled)
