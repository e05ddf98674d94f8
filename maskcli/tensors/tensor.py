"""A named lazy array, and a file full of them."""

from __future__ import annotations

import difflib
import math
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, SupportsIndex

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors.addresses import is_remote, split_address
from maskcli.tensors.dtypes import DTYPES, Decoder, DType, copy, decoded, decoder, unreadable
from maskcli.tensors.storage import Refused, Storage

# One integer or slice for each leading axis, as in numpy.
Index = tuple[SupportsIndex | slice, ...]


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named array of which only the asked-for part is read.

    `dtype` is a name such as `float32`, `bfloat16`, `float8_e4m3fn`; `shape` is known before anything is
    read.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    storage: Storage | Refused = field(repr=False)

    @property
    def refusal(self) -> str | None:
        """Why nothing of it can be read, in one sentence; None when it can."""
        if isinstance(self.storage, Refused):
            return self.storage.reason
        known = DTYPES.get(self.dtype)
        readable = known is not None and known.raw is not None
        return None if readable else unreadable(self.name, self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements as they are stored."""
        known = DTYPES.get(self.dtype)
        return 0 if known is None else math.prod(self.shape) * (known.bits // 8)

    @property
    def row_count(self) -> int:
        """Rows when all axes but the last are flattened; 1 for a scalar or a vector."""
        return math.prod(self.shape[:-1])

    @property
    def row_length(self) -> int:
        """Elements in a row: the size of the last axis; 1 for a scalar."""
        return self.shape[-1] if self.shape else 1

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """What `rows` yields: float32 for float16, bfloat16, float8 and float32, else the type itself."""
        wide: np.dtype[Any] = np.dtype(_known(self).wide)
        return wide

    @property
    def raw_dtype(self) -> np.dtype[Any]:
        """What `raw_rows` yields: the stored type in this machine's byte order."""
        return np.dtype(_known(self).raw).newbyteorder("=")

    def read(self, index: Index = ()) -> Array:
        """The part at `index` (integers and slices, one per leading axis) and nothing else of the file.

        bfloat16 and float8 become the float32 of equal value; every other type stays what it is. Raises
        MaskcliError for an index outside the shape and for a type that cannot be read.
        """
        ranges, picked = _ranges(self, index)
        raw = _elements(self).gather(ranges)
        return decoded(self.dtype, raw).reshape(picked)

    def rows(self, start: int, stop: int, out: Array | None = None) -> Array:
        """Rows `start` to `stop` of the tensor as [rows, K] of `row_dtype`; safe from several threads.

        `out`, if given, is a C-contiguous array of that type and at least [stop - start, K]; its first rows
        are filled and returned, so that a caller who passes it again and again needs no more memory than
        that.
        """
        return self._filled(start, stop, self.row_dtype, decoder(self.dtype), out)

    def raw_rows(self, start: int, stop: int, out: Array | None = None) -> Array:
        """The same rows as they are stored, as `raw_dtype`: a bfloat16 and a float8 are their bits."""
        return self._filled(start, stop, self.raw_dtype, copy, out)

    def _filled(
        self, start: int, stop: int, dtype: np.dtype[Any], decode: Decoder, out: Array | None
    ) -> Array:
        if not 0 <= start <= stop <= self.row_count:
            asked = f"rows {start} to {stop} of {self.name!r}"
            raise MaskcliError(f"{asked} do not exist; expected rows within 0 to {self.row_count}")
        count = stop - start
        if out is None:
            out = np.empty((count, self.row_length), dtype)
        wide_enough = out.ndim == 2 and out.shape[1] == self.row_length and len(out) >= count
        if not wide_enough or out.dtype != dtype or not out.flags.c_contiguous:
            wanted = f"a C-contiguous {dtype} array of at least {(count, self.row_length)}"
            raise ValueError(f"out must be {wanted}, not {out.dtype} {out.shape}")

        part = out[:count]
        if part.size:
            _elements(self).rows(start, stop, part, decode)
        return part


@dataclass(frozen=True, eq=False)
class TensorFile:
    """The tensors of one file in its order; `metadata` is empty where a format or file has none."""

    path: str
    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def find_tensor(file: TensorFile, name: str) -> Tensor:
    """The tensor of this name; else a MaskcliError that names the nearest ones."""
    for tensor in file.tensors:
        if tensor.name == name:
            return tensor
    names = [tensor.name for tensor in file.tensors]
    raise MaskcliError(f"{file.path!r} has no tensor {name!r}: {_hint(name, names)}")


def _hint(name: str, names: list[str]) -> str:
    """The nearest of the names, else the first ones."""
    if not names:
        return "it has no tensors at all"
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) if len(names) <= 10_000 else []
    if near:
        return "did you mean " + " or ".join(map(repr, near)) + "?"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return "it has " + ", ".join(map(repr, names[:5])) + more


def split_target(target: str) -> tuple[str, str | None]:
    """`FILE[:TENSOR]` as path and tensor name; a path that exists wins, so paths may hold colons."""
    if is_remote(target):
        return split_address(target)
    if os.path.exists(target):
        return target, None

    colons = [at for at, letter in enumerate(target) if letter == ":" and not _is_drive(target, at)]
    existing = [at for at in colons if os.path.exists(target[:at])][-1:]
    for at in existing or (at for at in colons if os.path.splitext(target[:at])[1]):
        return target[:at], target[at + 1 :] or None
    return target, None


def _is_drive(target: str, at: int) -> bool:
    return at == 1 and target[0].isalpha() and target[2:3] in ("\\", "/")


def _known(tensor: Tensor) -> DType:
    known = DTYPES.get(tensor.dtype)
    if known is None or known.raw is None:
        _elements(tensor)
        raise MaskcliError(unreadable(tensor.name, tensor.dtype))
    return known


def _elements(tensor: Tensor) -> Storage:
    if isinstance(tensor.storage, Refused):
        raise MaskcliError(tensor.storage.reason)
    return tensor.storage


def _ranges(tensor: Tensor, index: Index) -> tuple[list[range], tuple[int, ...]]:
    """An index as one range of positions per axis, and the shape that is left when integers drop theirs."""
    shape = tensor.shape
    if not index:
        return [range(size) for size in shape], shape
    if len(index) > len(shape):
        raise MaskcliError(
            f"{tensor.name!r} has the shape {list(shape)}; pass no more than its {len(shape)} indices"
        )
    ranges, picked = list[range](), list[int]()
    rest = (slice(None),) * (len(shape) - len(index))
    for axis, (size, part) in enumerate(zip(shape, (*index, *rest), strict=True)):
        if isinstance(part, slice):
            ranges.append(range(size)[part])
            picked.append(len(ranges[-1]))
            continue
        at = operator.index(part)
        if not -size <= at < size:
            raise MaskcliError(
                f"index {at} lies outside axis {axis} of {tensor.name!r}; pass {-size} to {size - 1}"
            )
        ranges.append(range(at % size, at % size + 1))
    return ranges, tuple(picked)
