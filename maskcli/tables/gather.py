"""Python values, one a row, as a column: numbers, lists, arrays, tensors, whatever their lengths."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tables.columns import NOTHING, NUMBERS, Chunk, Column, Wanted
from maskcli.tensors import Tensor, from_array

EMPTY = np.empty(0, np.int64)
# Kinds of numpy's types that are numbers.
NUMERIC = "biuf"


def chunk_of(
    rows: Sequence[Mapping[str, Any]], first: int, wanted: Wanted, place: Callable[[int], str]
) -> Chunk:
    """Rows as a chunk; `place` words where a row stands, for errors. Columns that no row has are left out."""
    columns = {
        name: column([row.get(name) for row in rows], name, place)
        for name in wanted.numbers
        if any(name in row for row in rows)
    }
    objects = {name: [row.get(name) for row in rows] for name in wanted.others}
    return Chunk(first, len(rows), columns, objects, words(rows, {*wanted.numbers, *wanted.others}))


def words(rows: Iterable[Mapping[str, Any]], known: Iterable[str] = ()) -> dict[str, str]:
    """What each column of rows holds in a word, but for `known` ones."""
    found: dict[str, str] = {}
    settled = set(known)
    for row in rows:
        for name in row:
            if name in settled:
                continue
            found[name] = word_of(row[name])
            if found[name] != NOTHING:
                settled.add(name)
    return found


def word_of(value: Any) -> str:
    """What a value holds in a word: that of its first elements.

    >>> [word_of(value) for value in (3, [1, 2], [], "a", [{"role": "user"}], [[1], [2]])]
    ['numbers', 'numbers', 'nothing but nulls and empty lists', 'text', 'objects', 'nested lists']
    """
    if isinstance(value, list | tuple):
        inner = next((part for part in value if part is not None), None)
        nested = isinstance(inner, list | tuple) or len(getattr(inner, "shape", ())) > 0
        word = "nested lists" if nested else word_of(inner)
        return {"text": "texts", "object": "objects"}.get(word, word)
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "object"
    shape = getattr(value, "shape", ())
    if len(shape) > 1:
        return f"arrays of {len(shape)} axes"
    if isinstance(value, bool | int | float | np.generic) or hasattr(value, "dtype"):
        return NUMBERS
    return type(value).__name__


def column(values: Sequence[Any], name: str, place: Callable[[int], str]) -> Column:
    """The numbers of one column; `place` words where a row stands. Without lists, each row has one number.

    Raises MaskcliError for a row that holds anything else than a number, a flat list of them, or None.
    """
    arrays = [_row(value, name, place, at) for at, value in enumerate(values)]
    filled = [array.reshape(-1) for array in arrays if array is not None and array.size]
    flat = np.concatenate(filled) if filled else EMPTY
    if arrays and all(array is not None and array.ndim == 0 for array in arrays):
        return Column(flat)
    lengths = [0 if array is None else array.size for array in arrays]
    return Column(flat, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def _row(value: Any, name: str, place: Callable[[int], str], at: int) -> Array | None:
    """The numbers of one row as an array of no or one axis; None for null."""
    if value is None:
        return None
    array = value if isinstance(value, np.ndarray) else _array(value, name)
    if array is not None and array.ndim <= 1 and (array.dtype.kind in NUMERIC or not array.size):
        return array
    raise MaskcliError(
        f"{place(at)} holds {_why(value)} as {name!r}, expected numbers or a flat list of them"
    )


def _array(value: Any, name: str) -> Array | None:
    if isinstance(value, str | bytes | Mapping):
        return None
    if word_of(value) == "nested lists":
        return None
    if isinstance(value, list | tuple | bool | int | float):
        try:
            return np.array(value)
        except ValueError:
            return None
    try:
        tensor = as_tensor(name, value)
        return None if tensor.refusal else tensor.read()
    except (TypeError, ValueError):
        return None


def as_tensor(name: str, value: Any) -> Tensor:
    """An array, a tensor of a library, or a Tensor already, as a Tensor."""
    return value if isinstance(value, Tensor) else from_array(name, value)


def _why(value: Any) -> str:
    """What a value that is no row of numbers holds."""
    word = word_of(value)
    if word != NUMBERS:
        return word if word == NOTHING else f"{word} ({reprlib.repr(value)[:40]})"
    parts = value if isinstance(value, list | tuple) else [value]
    if any(part is None for part in parts):
        return f"a null at place {next(at for at, part in enumerate(parts) if part is None)}"
    odd = next((part for part in parts if word_of(part) != NUMBERS), None)
    if odd is not None:
        return f"{word_of(odd)} ({reprlib.repr(odd)[:40]}) among numbers"
    return "whole numbers beyond 64 bits"
