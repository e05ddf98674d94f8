"""Rows that Python holds: datasets, loaders of batches, lists and generators of rows, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.tables import arrow
from maskcli.tables.batches import chunks_of, words_of
from maskcli.tables.columns import CELLS, ROWS, Chunk, Table, Wanted, table_of
from maskcli.tables.cut import cut

# Items of an iterable that tell its columns.
HEAD = 16


@dataclass(frozen=True)
class Held:
    """A table of rows that Python holds, and who reads them: as `read`, but for the part."""

    table: Table
    chunks: Callable[[Wanted], Iterator[Chunk]]

    def read(
        self, numbers: Sequence[str], others: Sequence[str] = (), *, cells: int = CELLS, rows: int = ROWS
    ) -> Iterator[Chunk]:
        """The rows in chunks of bounded size; rows of a generator are there once only."""
        wanted = Wanted(tuple(numbers), tuple(others), cells, rows)
        for chunk in self.chunks(wanted):
            yield from cut(chunk, wanted)


def from_rows(data: Any, name: str = "rows") -> list[Held]:
    """Python data as tables: one, or one for each split of a DatasetDict.

    `data` is a `datasets.Dataset`, a loader or any iterable of batches (as a collator makes them: tensors
    [B, L], or lists of lists), any iterable of rows (mappings of numbers, lists, arrays or tensors [L]), or
    one such batch. Raises MaskcliError for anything else, with the row's number.

    >>> held, = from_rows([{"input_ids": [5, 6, 7]}, {"input_ids": [8]}])
    >>> [chunk.columns["input_ids"].lengths.tolist() for chunk in held.read(["input_ids"])]
    [[3, 1]]
    """
    if isinstance(data, Mapping) and data and all(hasattr(value, "column_names") for value in data.values()):
        return [held for split, value in data.items() for held in from_rows(value, str(split))]
    if hasattr(data, "with_format") and hasattr(data, "format") and data.format["type"] != "custom":
        return [_from_dataset(data, name)]
    return [_from_iterable([data] if isinstance(data, Mapping) else data, name)]


# Datasets


def _from_dataset(data: Any, name: str) -> Held:
    """A Dataset by its own Arrow batches: its selection of rows and columns holds, its format does not."""
    known = arrow.words_of(data.features.arrow_schema)
    words = {each: known[each] for each in data.format["columns"]}

    def chunks(wanted: Wanted) -> Iterator[Chunk]:
        first = 0
        asked = [each for each in words if each in (*wanted.numbers, *wanted.others)]
        if not asked:
            return
        for table in data.with_format("arrow", columns=asked).iter(wanted.rows):
            for batch in table.combine_chunks().to_batches():
                yield arrow.chunk_of(batch, first, wanted, name)
                first += batch.num_rows

    return Held(table_of(name, (), words), chunks)


# Rows and batches, one after the other


def _from_iterable(data: Any, name: str) -> Held:
    items = _iterator(data)
    head = list(islice(items, HEAD))
    words = words_of(head, name)
    waiting = [chain(head, items)]

    def chunks(wanted: Wanted) -> Iterator[Chunk]:
        again = waiting.pop() if waiting else _iterator(data)
        if again is items:
            raise MaskcliError(f"{name!r} gives its rows only once; pass a list or a Dataset of them")
        return chunks_of(again, name, wanted)

    return Held(table_of(name, (), words), chunks)


def _iterator(data: Any) -> Iterator[Any]:
    try:
        return iter(data)
    except TypeError:
        raise MaskcliError(
            f"{type(data).__name__!r} is no training set, expected a datasets.Dataset, a DataLoader or rows "
            "such as [{'input_ids': [...], 'labels': [...]}]"
        ) from None
