"""Parquet: groups of rows as parts, decoded a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from maskcli.tables import arrow
from maskcli.tables.columns import Chunk, Look, Part, Wanted
from maskcli.tables.limits import MAX_DECODED, PART
from maskcli.tables.places import opened
from maskcli.untrusted import memory_limit

# Bytes read at a time of a column: a group of rows is never held whole.
BUFFER = 2**20
# Bytes of a number once it is decoded.
VALUE = 8


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
            for batch in _batches(file, group, names, wanted):
                yield arrow.chunk_of(batch, at, wanted, part.path)
                at += batch.num_rows


def _batches(file: Any, group: int, names: list[str], wanted: Wanted) -> Iterator[Any]:
    """A group's rows, decoded some at a time."""
    # What a file claims of a column ends the process where pyarrow is asked for it and it is unsound; reading
    # a row finds that first, and raises.
    with memory_limit(MAX_DECODED):
        next(file.iter_batches(1, [group], names, use_threads=False), None)
    batches = file.iter_batches(_at_once(file, group, names, wanted), [group], names, use_threads=False)
    while True:
        with memory_limit(MAX_DECODED):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _at_once(file: Any, group: int, names: list[str], wanted: Wanted) -> int:
    """How many rows have about as many values, or bytes of text, as are wanted, by what the file says."""
    told = file.metadata.row_group(group)
    longest = 1.0
    for at in range(told.num_columns):
        if file.schema.column(at).path.partition(".")[0] not in names:
            continue
        column = told.column(at)
        values = max(column.num_values, column.total_uncompressed_size / VALUE)
        longest = max(longest, values / max(1, told.num_rows))
    return max(1, min(wanted.rows, int(wanted.cells / longest)))


@contextmanager
def _file(path: str) -> Iterator[Any]:
    """The file, open; what pyarrow cannot read in it is a MaskcliError."""
    with arrow.sentences(path, "parquet"), opened(path) as stream:
        from pyarrow import parquet

        yield parquet.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False)
