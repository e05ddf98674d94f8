"""Rows in memory as chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tables.columns import Chunk, Column

# Rows that are held at a time.
ROWS = 4096


def chunks_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[Chunk]:
    """Rows of lists of whole numbers, or of one number, as chunks; what else they hold is left out."""
    rows, first = iter(rows), 0
    while some := list(islice(rows, ROWS)):
        names = dict.fromkeys(name for row in some for name in row)
        columns = {name: column for name in names if (column := _column([row.get(name) for row in some]))}
        yield Chunk(first, len(some), columns)
        first += len(some)


def _column(values: list[Any]) -> Column | None:
    """A column of lists or of numbers; None for anything else."""
    arrays: list[Array] = [np.asarray([] if value is None else value) for value in values]
    if any(each.ndim > 1 or (each.size and each.dtype.kind not in "biuf") for each in arrays):
        return None
    if all(each.ndim == 0 for each in arrays):
        return Column(np.stack(arrays))
    if any(each.ndim == 0 for each in arrays):
        raise MaskcliError("a column holds lists in some rows and numbers in others; expected one of both")
    held = [each for each in arrays if each.size] or arrays[:1]
    offsets = np.concatenate([[0], np.cumsum([each.size for each in arrays])])
    return Column(np.concatenate(held), offsets)
