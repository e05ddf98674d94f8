"""Tensors of large files that torch alone can follow: it says where they lie, and they are read from there.

A file that torch maps into memory ends the process by a signal when it shrinks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from maskcli.tensors.claims import Make
from maskcli.tensors.dtypes import DTYPES
from maskcli.tensors.storage import Handle, Refused, Storage, in_file
from maskcli.tensors.tensor import Tensor


class MappedError(Exception):
    """A tensor of which torch does not say where it lies."""


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
    """The elements, where torch says that they lie."""
    raw = np.dtype(DTYPES[dtype].raw)
    count = tensor.untyped_storage().nbytes() // raw.itemsize
    shape, strides, offset = tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())
    return in_file(handle, _begin(tensor) or 0, count, raw, shape, strides, offset)
