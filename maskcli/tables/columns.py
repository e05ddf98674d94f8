"""What readers of tables give: parts of a table, and chunks of rows as ragged columns, never a list a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array

# What a column holds, in a word: numbers, or nothing yet (nulls and empty lists). Any other is no numbers.
NUMBERS = "numbers"
NOTHING = "nothing but nulls and empty lists"
# A chunk's rows times its longest row, and its rows: what a rectangle of them takes, 4 MiB as int64.
CELLS = 2**19
ROWS = 4096


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
    `unasked` are columns that were met and not asked for, each with what it holds in a word.
    """

    first: int
    rows: int
    columns: dict[str, Column]
    objects: dict[str, list[Any]] = field(default_factory=dict)
    unasked: dict[str, str] = field(default_factory=dict)


class Raw(NamedTuple):
    """How a stream of ids without a header is read: its type, and where rows end.

    A row ends behind an id of `eos`, or has `length` tokens where that is given (the last may be shorter).
    """

    dtype: str
    eos: tuple[int, ...] = ()
    length: int | None = None


@dataclass(frozen=True)
class Part:
    """What one task reads: a file, or a piece of it. Small, and the same in every process.

    `path` is the file, `piece` which piece of it in the reader's own count, `rows` how many it has where the
    file says so, `size` its bytes. `form` names the reader, `raw` tells it what a stream does not.
    """

    path: str
    form: str
    piece: tuple[int, ...] = ()
    rows: int | None = None
    size: int = 0
    raw: Raw | None = None


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

    def widened(self, unasked: Mapping[str, str]) -> Table | None:
        """The table with columns that only later rows have, as chunks tell them; None where it has all.

        >>> Table("t", (), ("input_ids",)).widened({"labels": "numbers", "source": "text"})
        Table(name='t', parts=(), numbers=('input_ids', 'labels'), others={'source': 'text'}, unread={})
        """
        settled = {name for name, why in self.unread.items() if why != NOTHING}
        known = {*self.numbers, *self.others, *settled}
        new = {name: word for name, word in unasked.items() if name not in known and word != NOTHING}
        if not new:
            return None
        more = table_of(self.name, self.parts, new)
        return replace(
            more,
            numbers=self.numbers + more.numbers,
            others=self.others | more.others,
            unread={name: why for name, why in self.unread.items() if name not in new},
        )


def table_of(
    name: str, parts: tuple[Part, ...], words: Mapping[str, str], unread: Mapping[str, str] | None = None
) -> Table:
    """A table by what each of its columns holds in a word; `unread` are columns with another reason."""
    empty = {each: word for each, word in words.items() if word == NOTHING}
    numbers = tuple(each for each, word in words.items() if word == NUMBERS)
    others = {each: word for each, word in words.items() if word not in (NUMBERS, NOTHING)}
    return Table(name, parts, numbers, others, {**empty, **(unread or {})})


class Wanted(NamedTuple):
    """What is read of a part: columns of numbers, others as Python values, and how large a chunk may be.

    A chunk has at most `rows` rows, and its rows times its longest row are at most `cells`; a longer row
    comes alone.
    """

    numbers: tuple[str, ...]
    others: tuple[str, ...] = ()
    cells: int = CELLS
    rows: int = ROWS


class Look(NamedTuple):
    """What a file tells before it is read: its parts, and what each column holds in a word."""

    parts: tuple[Part, ...]
    columns: dict[str, str]
