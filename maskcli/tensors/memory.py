"""Arrays in memory as tensors: numpy arrays, torch tensors, anything with `__array__`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.tensors.dtypes import numpy_dtype, unreadable
from maskcli.tensors.storage import InMemory, Refused
from maskcli.tensors.tensor import Tensor, TensorFile


def from_arrays(arrays: Mapping[str, Any], path: str = "") -> TensorFile:
    """Arrays in memory as a TensorFile: numpy arrays, torch tensors, anything with `__array__`."""
    return TensorFile(path, tuple(from_array(str(name), array) for name, array in arrays.items()))


def from_array(name: str, array: Any) -> Tensor:
    """One array in memory as a Tensor, without a copy where it is on the CPU."""
    if type(array).__module__.partition(".")[0] == "torch" or hasattr(array, "untyped_storage"):
        from maskcli.tensors.torch_file import from_torch

        return from_torch(name, array)
    return from_numpy(name, np.asarray(array))


def from_numpy(name: str, array: Array) -> Tensor:
    """A numpy array as a Tensor; ml_dtypes (JAX) and a raw `<V2`, what np.save leaves of bfloat16, count too."""
    known, raw = numpy_dtype(array.dtype)
    if raw is None:
        return Tensor(name, known, array.shape, Refused(unreadable(name, known)))
    view = array if array.dtype == raw or array.dtype.kind == "b" else array.view(raw)
    return Tensor(name, known, array.shape, InMemory(lambda: view))
