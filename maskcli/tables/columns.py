"""What readers of tables give: parts of a table, and chunks of rows as ragged columns, never a list a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array


class Column(NamedTuple):
    """One column of B rows.

    `values` int, float or bool [N] are those of all rows behind one another, `offsets` int64 [B + 1] where
    each row begins and the last ends. Without offsets each row has one number: `values` [B]. A row that is
    null is empty.
    """

    values: Array
    offsets: Array | None = None

    @property
    def lengths(self) -> Array:
        """How many numbers each row has, int64 [B]."""
        return np.ones(len(self.values), np.int64) if self.offsets is None else np.diff(self.offsets)


@dataclass(frozen=True)
class Chunk:
    """Some rows that follow each other: `first` is the number of the first in its part.

    `columns` hold numbers; `objects` what else was asked for (messages, texts), one Python value a row.
    """

    first: int
    rows: int
    columns: dict[str, Column]
    objects: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What one task reads: a file, or a piece of it. Small, and the same in every process.

    `path` is the file, `piece` which piece of it in the reader's own count, `rows` how many it has where the
    file says so, `size` its bytes. `form` names the reader.
    """

    path: str
    form: str
    piece: tuple[int, ...] = ()
    rows: int | None = None
    size: int = 0


@dataclass(frozen=True)
class Table:
    """A training set, or one split of it.

    `name` is what people call it. `numbers` are the columns of numbers that can be read, `others` those of
    anything else (texts, messages), each with what it holds in a word; `unread` are columns that no reader
    reads, and why.
    """

    name: str
    parts: tuple[Part, ...]
    numbers: tuple[str, ...]
    others: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
