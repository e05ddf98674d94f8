"""Tensors of large files that torch alone can follow: it says where they lie, and they are read from there.

A file that torch maps into memory ends the process by a signal when it shrinks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.tensors.claims import Make
from maskcli.tensors.dtypes import DTYPES
from maskcli.tensors.storage import Handle, InMemory, Refused, Storage, in_file
from maskcli.tensors.tensor import Tensor


class MappedError(Exception):
    """A tensor of which torch does not say where it lies."""


def is_swapped(handle: Handle, members: Mapping[str, tuple[int, int]]) -> bool:
    """Whether bytes lie in another order than here; files from before torch 2.1 do not name theirs."""
    orders = [place for name, (place, _) in members.items() if name.endswith("/byteorder")]
    return sys.byteorder != "little" or any(handle.bytes(place, 6) != b"little" for place in orders)


def lying(handle: Handle, why_not: Callable[[str, str, tuple[int, ...]], str | None]) -> Make:
    """What makes a tensor of one that torch loaded without its elements; `why_not` says which are refused."""

    def made(name: str, tensor: Any) -> Tensor:
        if not _is_plain(tensor):
            raise MappedError
        dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(map(int, tensor.shape))
        why = why_not(name, dtype, shape)
        return Tensor(
            name, dtype, shape, Refused(why) if why is not None else _storage(handle, tensor, dtype)
        )

    return made


def _is_plain(tensor: Any) -> bool:
    """Whether the elements lie in the file as they are, where torch says."""
    import torch

    plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_neg())
    return plain and _begin(tensor) is not None


def _begin(tensor: Any) -> int | None:
    begin: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    return begin


def _storage(handle: Handle, tensor: Any, dtype: str) -> Storage:
    """The elements, of any strides; those of windows that overlap are read with all between them."""
    begin, shape, strides = _begin(tensor) or 0, tuple(tensor.shape), tuple(tensor.stride())
    raw = np.dtype(DTYPES[dtype].raw)
    count, offset = tensor.untyped_storage().nbytes() // raw.itemsize, int(tensor.storage_offset())
    try:
        return in_file(handle, begin, count, raw, shape, strides, offset)
    except ValueError:
        pass

    def load() -> Array:
        last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        room: Array = np.empty(last + 1, raw)
        handle.fill(room, begin + offset * raw.itemsize)
        steps = [stride * raw.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(room, shape, steps, writeable=False)

    return InMemory(load)
