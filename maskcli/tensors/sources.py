"""What is written to a file: named arrays, in chunks, so that they may be larger than the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.tensors.dtypes import DTYPES
from maskcli.tensors.tensor import Tensor

# The name under which a file keeps its metadata.
METADATA = "__metadata__"
# Bytes of a tensor that is copied from one file to another at a time.
CHUNK = 8 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class Source:
    """What to write under one name: a type, a shape, and the elements in order as arrays of any shape.

    For bfloat16 the chunks are float32, rounded here to the nearest (ties to even). `chunks` is read once.
    """

    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[Array]

    @property
    def nbytes(self) -> int:
        """Bytes of the elements as they are stored."""
        return math.prod(self.shape) * DTYPES[self.dtype].bits // 8


class Writer(NamedTuple):
    """How a format is written: `refusal` says what it cannot hold, `write` takes path, tensors, metadata.

    One that holds `one` tensor has no place for metadata.
    """

    write: Callable[[str, Mapping[str, Source], Mapping[str, str]], None]
    refusal: Callable[[Mapping[str, Source]], str | None]
    one: bool = False


def source_of(tensor: Tensor) -> Source:
    """A tensor of one file as something to write to another."""
    step = max(1, CHUNK // max(1, tensor.row_length * 8))
    starts = range(0, tensor.row_count, step)
    chunks = (tensor.rows(start, min(start + step, tensor.row_count)) for start in starts)
    return Source(tensor.dtype, tensor.shape, chunks)


def source_from(array: Array) -> Source:
    """A numpy array as something to write."""
    return Source(array.dtype.name, array.shape, (array,))


def pour(name: str, source: Source, file: BinaryIO) -> None:
    """Write the elements, one after the other."""
    for block in blocks(name, source):
        file.write(memoryview(block))  # type: ignore[arg-type]


def blocks(name: str, source: Source) -> Iterator[Array]:
    """The elements in order as they are stored; ValueError when they are not as many as the shape says."""
    left = math.prod(source.shape)
    for chunk in source.chunks:
        block = _encoded(np.ascontiguousarray(chunk).reshape(-1), source.dtype)
        left -= block.size
        if left < 0:
            break
        yield block
    if left:
        raise ValueError(f"the chunks of {name!r} do not add up to its shape {source.shape}")


def _encoded(flat: Array, dtype: str) -> Array:
    """Elements as they are stored."""
    if dtype == "bfloat16":
        return _bfloat16(flat.astype(np.float32, copy=False))
    with np.errstate(over="ignore", invalid="ignore"):
        return flat.astype(np.dtype(dtype).newbyteorder("<"), copy=False)


def _bfloat16(values: Array) -> Array:
    """The upper halves of float32, rounded to nearest, ties to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    rounded[np.isnan(values)] = 0x7FC0
    return rounded.astype("<u2")
