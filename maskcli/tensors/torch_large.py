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


class NowhereError(Exception):
    """A tensor of which torch does not say where it lies."""


def lying(handle: Handle, refusal: Callable[[str, Any], str | None]) -> Make:
    """What makes a tensor of one that torch loaded without its elements; `refusal` says why not."""

    def made(name: str, tensor: Any) -> Tensor:
        dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(map(int, tensor.shape))
        why = refusal(name, tensor)
        if why is not None:
            return Tensor(name, dtype, shape, Refused(why))
        if tensor.is_neg() or _begin(tensor) is None:
            raise NowhereError
        return Tensor(name, dtype, shape, _storage(handle, tensor, dtype))

    return made


def _begin(tensor: Any) -> int | None:
    begin: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    return begin


def _storage(handle: Handle, tensor: Any, dtype: str) -> Storage:
    """The elements, where torch says that they lie."""
    raw = np.dtype(DTYPES[dtype].raw)
    count = tensor.untyped_storage().nbytes() // raw.itemsize
    shape, strides, offset = tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())
    return in_file(handle, _begin(tensor) or 0, count, raw, shape, strides, offset)
