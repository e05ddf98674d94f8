"""Arrow's types and arrays as columns: the numbers of lists are taken as they lie, without a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.extras import needing
from maskcli.tables.columns import NOTHING, NUMBERS, Chunk, Column, Wanted
from maskcli.tables.limits import MAX_COLUMNS, MAX_DECODED
from maskcli.untrusted import MEBIBYTE


def word_of_type(kind: Any) -> str:
    """What a column of an Arrow type holds, in the words of Table.

    >>> import pyarrow
    >>> word_of_type(pyarrow.list_(pyarrow.int32())), word_of_type(pyarrow.string())
    ('numbers', 'text')
    """
    from pyarrow import types

    if types.is_dictionary(kind):
        return word_of_type(kind.value_type)
    if _is_list(kind):
        inner = kind.value_type
        word = "nested lists" if _is_list(inner) else word_of_type(inner)
        return {"text": "texts", "object": "objects"}.get(word, word)
    if types.is_null(kind):
        return NOTHING
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return NUMBERS
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_struct(kind) or types.is_map(kind):
        return "object"
    return str(kind)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    tests = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    return any(test(kind) for test in tests)


def words_of(schema: Any) -> dict[str, str]:
    """What each column of a schema holds in a word."""
    return {field.name: word_of_type(field.type) for field in schema}


def checked(schema: Any, path: str) -> dict[str, str]:
    """The same of a file's schema; MaskcliError for one that no training set has."""
    found = words_of(schema)
    if len(schema) > MAX_COLUMNS:
        raise MaskcliError(f"{path!r} has {len(schema)} columns, expected at most {MAX_COLUMNS}")
    if len(found) < len(schema):
        twice = next(name for name in found if schema.names.count(name) > 1)
        raise MaskcliError(f"{path!r} has two columns named {twice!r}; rename one")
    return found


@contextmanager
def sentences(path: str, kind: str) -> Iterator[Any]:
    """pyarrow, and a MaskcliError for whatever it cannot read in a file of this kind."""
    with needing("pyarrow", repr(path)):
        import pyarrow
    try:
        yield pyarrow
    except MemoryError:
        most = MAX_DECODED // MEBIBYTE
        why = f"takes more than {most} MiB for a few of its rows, as no training rows do; check what it holds"
        raise MaskcliError(f"{path!r} {why}") from None
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        said = str(error).partition("\n")[0][:200]
        why = f"cannot be read as {kind} ({said}); write or download it again"
        raise MaskcliError(f"{path!r} {why}") from error


def chunk_of(batch: Any, first: int, wanted: Wanted, name: str) -> Chunk:
    """A record batch as a chunk; `first` is the number of its first row in the part, `name` what has it."""

    def place(row: int) -> str:
        return f"row {first + row} of {name!r}"

    schema = words_of(batch.schema)
    columns = {each: column(batch.column(each), each, place) for each in wanted.numbers if each in schema}
    objects = {
        each: batch.column(each).to_pylist() if each in schema else [None] * batch.num_rows
        for each in wanted.others
    }
    asked = {*wanted.numbers, *wanted.others}
    unasked = {each: word for each, word in schema.items() if each not in asked}
    return Chunk(first, batch.num_rows, columns, objects, unasked)


def column(array: Any, name: str, place: Callable[[int], str]) -> Column:
    """An Arrow array of numbers or of lists of numbers, whole or sliced, as a Column; a null list is empty.

    Raises MaskcliError for a null in a list, and for what is no number.
    """
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if word_of_type(array.type) not in (NUMBERS, NOTHING):
        raise MaskcliError(f"{place(0)} holds {word_of_type(array.type)} as {name!r}, expected numbers")
    if pyarrow.types.is_null(array.type):
        lengths = np.zeros(len(array), np.int64)
        return Column(np.empty(0, np.int64), _offsets(lengths))
    if not _is_list(array.type):
        if not array.null_count:
            return Column(_values(array))
        lengths = array.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
        return Column(_values(array.drop_null()), _offsets(lengths))

    lengths = compute.fill_null(compute.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = _offsets(lengths)
    values = array.flatten()
    if values.null_count:
        at = compute.index(values.is_valid(), False).as_py()
        row = int(np.searchsorted(offsets, at, side="right")) - 1
        within = at - int(offsets[row])
        raise MaskcliError(f"{place(row)} holds a null at place {within} as {name!r}, expected numbers")
    return Column(_values(values), offsets)


def _offsets(lengths: Any) -> Any:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _values(array: Any) -> Any:
    """An array without nulls as numpy's: not copied but for booleans, which Arrow keeps as bits."""
    import pyarrow

    if pyarrow.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pyarrow.types.is_null(array.type):
        return np.empty(0, np.int64)
    return array.to_numpy(zero_copy_only=False)
