"""Parquet: groups of rows as parts, decoded a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.tables import arrow
from maskcli.tables.columns import Chunk, Look, Part, Wanted
from maskcli.tables.limits import MAX_VALUES, PART
from maskcli.tables.places import opened

# Bytes read at a time of a column: a group of rows is never held whole.
BUFFER = 2**20


def look(path: str, form: str) -> Look:
    """Its parts, some groups of rows each, and its columns, as its end tells them."""
    with _file(path) as file:
        parts = list[Part]()
        first = rows = size = 0
        groups = file.metadata.num_row_groups
        for at in range(groups):
            group = file.metadata.row_group(at)
            rows += group.num_rows
            size += group.total_byte_size
            if size >= PART or at == groups - 1:
                parts.append(Part(path, form, (first, at + 1), rows, size))
                first, rows, size = at + 1, 0, 0
        return Look(tuple(parts), arrow.checked(file.schema_arrow, path))


def read(part: Part, wanted: Wanted) -> Iterator[Chunk]:
    """The rows of some groups, as many at a time as have about `wanted.cells` numbers in a column."""
    at = 0
    with _file(part.path) as file:
        names = [name for name in file.schema_arrow.names if name in (*wanted.numbers, *wanted.others)]
        for group in range(*part.piece):
            rows = _at_once(part.path, file.metadata.row_group(group), names, wanted)
            for batch in file.iter_batches(rows, [group], names, use_threads=False):
                yield arrow.chunk_of(batch, at, wanted, part.path)
                at += batch.num_rows


def _at_once(path: str, group: Any, names: list[str], wanted: Wanted) -> int:
    """How many rows of a group are decoded at once; refuses one whose rows would be too long."""
    longest = 1.0
    for at in range(group.num_columns):
        column = group.column(at)
        name = column.path_in_schema.partition(".")[0]
        if name not in names:
            continue
        each = column.num_values / max(1, group.num_rows)
        if each > MAX_VALUES:
            said = f"says that its rows have {each:.0f} values each as {name!r}"
            raise MaskcliError(f"{path!r} {said}, expected at most {MAX_VALUES}; check what it is")
        longest = max(longest, each)
    return max(1, min(wanted.rows, int(wanted.cells / longest)))


@contextmanager
def _file(path: str) -> Iterator[Any]:
    """The file, open; what pyarrow cannot read in it is a MaskcliError."""
    with arrow.sentences(path, "parquet"), opened(path) as stream:
        from pyarrow import parquet

        yield parquet.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False)
