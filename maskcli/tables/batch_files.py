"""Files of tensors as tables: a batch a file, or rows as torch.save keeps a list of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.tables import streams
from maskcli.tables.batches import OF_BATCHES, batch_size, chunks_of, words_of
from maskcli.tables.columns import NUMBERS, Chunk, Column, Look, Part, Wanted
from maskcli.tables.gather import word_of
from maskcli.tables.limits import PART
from maskcli.tables.places import size_of
from maskcli.tensors import Tensor, TensorFile, open_items, open_tensors, readable, suffix_of


def holds(path: str, head: bytes) -> bool:
    """Whether a file is one of tensors, by its suffix; what is wrong in it is told when it is read."""
    return suffix_of(path) in readable() and not streams.holds(path, head)


def look(path: str, form: str) -> Look:
    """Its columns, and the rows of its batch in pieces of about PART bytes."""
    items = _items(path)
    if items is not None:
        return Look((Part(path, form, size=size_of(path)),), words_of(items, path))

    tensors = _by_name(open_tensors(path))
    size = batch_size(tensors)
    words = {name: _word(tensor, size) for name, tensor in tensors.items()}
    rows = size or 1
    step = max(1, min(rows, rows * PART // max(1, size_of(path))))
    parts = (
        Part(
            path,
            form,
            (first, min(first + step, rows)),
            min(step, rows - first),
            size_of(path) * step // rows,
        )
        for first in range(0, rows, step)
    )
    return Look(tuple(parts), words)


def read(part: Part, wanted: Wanted) -> Iterator[Chunk]:
    """Some rows of the batch, as many at a time as are wanted."""
    items = _items(part.path)
    if items is not None:
        yield from chunks_of(items, part.path, wanted)
        return

    tensors = _by_name(open_tensors(part.path))
    size = batch_size(tensors)
    words = {name: _word(tensor, size) for name, tensor in tensors.items()}
    asked = {*wanted.numbers, *wanted.others}
    unasked = {name: word for name, word in words.items() if name not in asked}
    columns = [name for name in wanted.numbers if words.get(name) == NUMBERS]
    longest = max((tensors[name].row_length for name in columns), default=1)
    step = max(1, min(wanted.rows, wanted.cells // max(1, longest)))
    begin, end = part.piece
    for first in range(begin, end, step):
        last = min(first + step, end)
        yield Chunk(
            first - begin,
            last - first,
            {name: _rows(tensors[name], size, first, last) for name in columns},
            {name: _objects(tensors.get(name), size, first, last) for name in wanted.others},
            unasked,
        )


def _items(path: str) -> list[Any] | None:
    """The rows or batches of a file by torch.save; None where it is a lone tensor, or of another format."""
    items = open_items(path)
    return None if items is None or not all(isinstance(item, Mapping) for item in items) else items


def _by_name(file: TensorFile) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in file.tensors}


def _word(tensor: Tensor, size: int | None) -> str:
    """What a column of a batch of so many rows holds; None: of one row, which has no axis for rows."""
    if tensor.refusal is not None:
        return tensor.dtype
    if size is None or (size == 1 and tensor.shape[:1] != (1,)):
        return NUMBERS if len(tensor.shape) < 2 else word_of(tensor)
    if tensor.shape[:1] != (size,):
        return OF_BATCHES
    return NUMBERS if len(tensor.shape) < 3 else f"arrays of {len(tensor.shape) - 1} axes"


def _rows(tensor: Tensor, size: int | None, first: int, last: int) -> Column:
    if size is None or (size == 1 and tensor.shape[:1] != (1,)):
        values: Array = tensor.read()[None]
    else:
        values = tensor.read((slice(first, last),))
    if values.ndim < 2:
        return Column(values)
    return Column(values.reshape(-1), np.arange(len(values) + 1) * values.shape[1])


def _objects(tensor: Tensor | None, size: int | None, first: int, last: int) -> list[Any]:
    """What a tensor of more axes holds for each row, None where it has nothing for it."""
    if tensor is None or tensor.refusal is not None or tensor.shape[:1] != (size,):
        return [None] * (last - first)
    return list(tensor.read((slice(first, last),)))
