"""Rows and batches as Python holds them: taken apart by rows, and gathered to chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.tables.columns import NOTHING, Chunk, Wanted
from maskcli.tables.gather import as_tensor, chunk_of, words

# Endings of the names of columns that tell whether a mapping is a row or a batch, the surest first.
TELLING = ("input_ids", "tokens", "ids", "labels", "mask", "")
# What a column of batches holds that is of no row.
OF_BATCHES = "one value for a whole batch"


def words_of(items: Iterable[Any], name: str) -> dict[str, str]:
    """What each column of some rows and batches holds in a word."""
    found: dict[str, str] = {}
    for at, item in enumerate(items):
        rows, apart = rows_of(item, at, name)
        told = {each: word for each, word in found.items() if word != NOTHING}
        found = dict.fromkeys(apart, OF_BATCHES) | words(rows) | told
    return found


def chunks_of(items: Iterable[Any], name: str, wanted: Wanted) -> Iterator[Chunk]:
    """Rows and batches in groups of about the size that is wanted."""
    group = list[Mapping[str, Any]]()
    cells = first = 0
    for at, item in enumerate(items):
        rows, _ = rows_of(item, at, name)
        group += rows
        cells += sum(max(map(_length, row.values()), default=0) for row in rows)
        if cells >= wanted.cells or len(group) >= wanted.rows:
            yield _chunk(group, first, name, wanted)
            first += len(group)
            group, cells = [], 0
    if group:
        yield _chunk(group, first, name, wanted)


def _chunk(rows: list[Mapping[str, Any]], first: int, name: str, wanted: Wanted) -> Chunk:
    return chunk_of(rows, first, wanted, lambda at: f"row {first + at} of {name!r}")


def rows_of(item: Any, at: int, name: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The rows of one item of an iterable: itself, or those of a batch; and what of a batch is of no row."""
    if not hasattr(item, "items"):
        raise MaskcliError(
            f"item {at} of {name!r} is a {type(item).__name__}, expected a row or batch by its columns, such "
            "as {'input_ids': [...], 'labels': [...]}"
        )
    columns = {str(key): value for key, value in item.items()}
    size = batch_size(columns)
    if size is None:
        return [columns], []
    whole = {key: _aligned(value, key, size) for key, value in columns.items() if value is not None}
    kept = [(key, value) for key, value in whole.items() if value is not None]
    rows: list[Mapping[str, Any]] = [{key: value[row] for key, value in kept} for row in range(size)]
    return rows, [key for key, value in whole.items() if value is None]


def batch_size(columns: Mapping[str, Any]) -> int | None:
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
        tensor = as_tensor(key, value)
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
