"""Chunks cut to a size that a rectangle of their rows fits into."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.tables.columns import Chunk, Column, Wanted


def cut(chunk: Chunk, wanted: Wanted) -> Iterator[Chunk]:
    """A chunk as smaller ones in its order, of at most `wanted.rows` rows and `wanted.cells` cells each."""
    longest = np.zeros(chunk.rows, np.int64)
    for column in chunk.columns.values():
        np.maximum(longest, column.lengths, out=longest)
    start = 0
    while start < chunk.rows:
        stop = start + _fitting(longest[start : start + wanted.rows], wanted.cells)
        yield chunk if stop - start == chunk.rows else piece(chunk, start, stop)
        start = stop


def _fitting(longest: Array, cells: int) -> int:
    """How many rows from the first fit into a rectangle of so many cells, at least one."""
    sizes = np.maximum.accumulate(longest) * np.arange(1, len(longest) + 1)
    return max(1, int(np.searchsorted(sizes, cells, side="right")))


def piece(chunk: Chunk, start: int, stop: int) -> Chunk:
    """Rows `start` to `stop` of a chunk, not copied."""
    columns = {name: _rows(column, start, stop) for name, column in chunk.columns.items()}
    objects = {name: values[start:stop] for name, values in chunk.objects.items()}
    return Chunk(chunk.first + start, stop - start, columns, objects, chunk.unasked)


def _rows(column: Column, start: int, stop: int) -> Column:
    if column.offsets is None:
        return Column(column.values[start:stop])
    offsets = column.offsets[start : stop + 1]
    return Column(column.values[offsets[0] : offsets[-1]], offsets - offsets[0])
