"""Arrow's own files and streams, mapped into memory: their batches of rows are not copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from maskcli.tables import arrow
from maskcli.tables.columns import Chunk, Look, Part, Wanted
from maskcli.tables.limits import MAX_DECODED, PART
from maskcli.tables.places import opened, size_of
from maskcli.tensors import is_remote
from maskcli.untrusted import memory_limit

# What files and streams begin with.
FILE = b"ARROW1"
MAGIC = (FILE, b"\xff\xff\xff\xff")


def look(path: str, form: str) -> Look:
    """Its parts, some batches each, and its columns."""
    size = size_of(path)
    with _mapped(path) as (pyarrow, source, is_file):
        if is_file:
            reader = pyarrow.ipc.open_file(source)
            count, schema = reader.num_record_batches, reader.schema
        else:
            schema = pyarrow.ipc.open_stream(source).schema
            source.seek(0)
            messages = pyarrow.ipc.MessageReader.open_stream(source)
            count = sum(message.type == "record batch" for message in messages)
        step = max(1, count * PART // max(1, size))
        pieces = [(first, min(first + step, count)) for first in range(0, count, step)]
        parts = (Part(path, form, piece, size=size * (piece[1] - piece[0]) // count) for piece in pieces)
        return Look(tuple(parts), arrow.checked(schema, path))


def read(part: Part, wanted: Wanted) -> Iterator[Chunk]:
    """The rows of some batches."""
    at = 0
    with _mapped(part.path) as (pyarrow, source, is_file):
        asked = {*wanted.numbers, *wanted.others}
        batches = _batches(pyarrow, source, is_file, part.piece)
        while True:
            # Batches may be packed, and are expanded whole.
            with memory_limit(MAX_DECODED):
                whole = next(batches, None)
            if whole is None:
                return
            batch = whole.select([name for name in whole.schema.names if name in asked])
            # Offsets that lead out of a column would be followed by numpy.
            batch.validate(full=True)
            for start in range(0, whole.num_rows, wanted.rows):
                rows = batch.slice(start, wanted.rows)
                yield arrow.chunk_of(rows, at + start, wanted, part.path)
            at += whole.num_rows


def _batches(pyarrow: Any, source: Any, is_file: bool, piece: tuple[int, ...]) -> Iterator[Any]:
    if is_file:
        reader = pyarrow.ipc.open_file(source)
        return (reader.get_batch(at) for at in range(*piece))
    return islice(iter(pyarrow.ipc.open_stream(source)), *piece)


@contextmanager
def _mapped(path: str) -> Iterator[tuple[Any, Any, bool]]:
    """pyarrow, the file for it, and whether it is a file of Arrow's and no stream."""
    with arrow.sentences(path, "arrow") as pyarrow, opened(path) as file:
        is_file = file.read(len(FILE)) == FILE
        file.seek(0)
        with pyarrow.PythonFile(file) if is_remote(path) else pyarrow.memory_map(path) as source:
            yield pyarrow, source, is_file
