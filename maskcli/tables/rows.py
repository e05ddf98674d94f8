"""Rows that Python holds: datasets, loaders of batches, lists and generators of rows, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.tables import arrow, gather
from maskcli.tables.columns import CELLS, NOTHING, ROWS, Chunk, Table, Wanted, table_of
from maskcli.tables.cut import cut
from maskcli.tensors import from_array

# Endings of the names of columns that tell whether a mapping is a row or a batch, the surest first.
TELLING = ("input_ids", "tokens", "ids", "labels", "mask", "")
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
    words: dict[str, str] = {}
    unread: dict[str, str] = {}
    for at, item in enumerate(head):
        rows, apart = _rows_of(item, at, name)
        unread |= dict.fromkeys(apart, "belongs to a whole batch and not to its rows")
        words = gather.words(rows) | {each: word for each, word in words.items() if word != NOTHING}
    waiting = [chain(head, items)]

    def chunks(wanted: Wanted) -> Iterator[Chunk]:
        again = waiting.pop() if waiting else _iterator(data)
        if again is items:
            raise MaskcliError(f"{name!r} gives its rows only once; pass a list or a Dataset of them")
        return _chunks(again, name, wanted)

    return Held(table_of(name, (), words, unread), chunks)


def _iterator(data: Any) -> Iterator[Any]:
    try:
        return iter(data)
    except TypeError:
        raise MaskcliError(
            f"a {type(data).__name__} is no training set, expected a datasets.Dataset, a DataLoader or rows "
            "such as [{'input_ids': [...], 'labels': [...]}]"
        ) from None


def _chunks(items: Iterable[Any], name: str, wanted: Wanted) -> Iterator[Chunk]:
    """Rows and batches in groups of about the size that is wanted."""
    group = list[Mapping[str, Any]]()
    cells = first = 0
    for at, item in enumerate(items):
        rows, _ = _rows_of(item, at, name)
        group += rows
        cells += sum(max(map(_length, row.values()), default=0) for row in rows)
        if cells >= wanted.cells or len(group) >= wanted.rows:
            yield _chunk(group, first, name, wanted)
            first += len(group)
            group, cells = [], 0
    if group:
        yield _chunk(group, first, name, wanted)


def _chunk(rows: list[Mapping[str, Any]], first: int, name: str, wanted: Wanted) -> Chunk:
    return gather.chunk_of(rows, first, wanted, lambda at: f"row {first + at} of {name!r}")


def _rows_of(item: Any, at: int, name: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The rows of one item of an iterable: itself, or those of a batch; and what of a batch is of no row."""
    if not hasattr(item, "items"):
        raise MaskcliError(
            f"item {at} of {name!r} is a {type(item).__name__}, expected a row or batch by its columns, such "
            "as {'input_ids': [...], 'labels': [...]}"
        )
    columns = {str(key): value for key, value in item.items()}
    size = _batch_size(columns)
    if size is None:
        return [columns], []
    whole = {key: _aligned(value, key, size) for key, value in columns.items() if value is not None}
    kept = [(key, value) for key, value in whole.items() if value is not None]
    rows: list[Mapping[str, Any]] = [{key: value[row] for key, value in kept} for row in range(size)]
    return rows, [key for key, value in whole.items() if value is None]


def _batch_size(columns: Mapping[str, Any]) -> int | None:
    """How many rows a batch has, by the column that tells it best; None for one row by itself."""
    telling = ((ending, key) for ending in TELLING for key in columns if key.endswith(ending))
    value = next((columns[key] for _, key in telling if _length(columns[key])), None)
    if value is None:
        return None
    if isinstance(value, list | tuple):
        inner = next((part for part in value if part is not None), None)
        is_batch = isinstance(inner, list | tuple) or len(getattr(inner, "shape", ())) == 1
        return len(value) if is_batch else None
    return int(value.shape[0]) if len(getattr(value, "shape", ())) > 1 else None


def _aligned(value: Any, key: str, size: int) -> Sequence[Any] | None:
    """A batch's values row by row; None where they are not one a row. A batch of one row has all of them."""
    if hasattr(value, "shape"):
        tensor = from_array(key, value)
        if tensor.refusal:
            return None
        value = tensor.read()
    if _length(value) == size:
        return value  # type: ignore[no-any-return]
    return [value] if size == 1 else None


def _length(value: Any) -> int:
    """How many elements a list or array has along its first axis, 0 for what has none."""
    if isinstance(value, list | tuple):
        return len(value)
    shape: tuple[int, ...] = getattr(value, "shape", ())
    return int(shape[0]) if len(shape) else 0
