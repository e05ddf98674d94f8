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
    """One array in memory as a Tensor, not copied where it is on the CPU; ml_dtypes (JAX) count too."""
    if type(array).__module__.partition(".")[0] == "torch" or hasattr(array, "untyped_storage"):
        from maskcli.tensors.torch_file import from_torch

        return from_torch(name, array)
    values: Array = np.asarray(array)
    dtype, raw = numpy_dtype(values.dtype)
    if raw is None:
        return Tensor(name, dtype, values.shape, Refused(unreadable(name, dtype)))
    view = values if values.dtype == raw or values.dtype.kind == "b" else values.view(raw)
    return Tensor(name, dtype, values.shape, InMemory(lambda: view))
