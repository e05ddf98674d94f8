"""A mask that is to be written in a library's convention: as an array, or chunk by chunk into a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.conventions import SILENT, Target, check_known, chunks
from maskcli.masks.mask import Mask
from maskcli.measure.questions import row_chunks
from maskcli.tensors import Tensor


class Written(NamedTuple):
    """A mask with the shape, convention, type and fill it is written in, and the name of its tensor.

    A `bias` is what it adds to the scores where it lets a key be seen.
    """

    name: str
    mask: Mask
    target: Target
    convention: str
    dtype: str
    fill: float
    bias: Tensor | None = None

    def array(self) -> Array:
        """The whole, in memory. bfloat16 comes as float32 of equal value."""
        return np.concatenate(list(self._values())).reshape(self.target.shape)

    def _values(self) -> Iterator[Array]:
        """Some rows at a time: the values of the mask, or the bias with the fill where it ignores."""
        if self.bias is None:
            return chunks(self.mask, self.target, self.convention, self.dtype, self.fill)
        kind = "float32" if self.dtype == "bfloat16" else self.dtype
        rows = (values for _, values in row_chunks(self.bias))
        return (np.where(values > SILENT, values, self.fill).astype(kind) for values in rows)

    def save(self, path: str) -> None:
        """Write it to a file (.safetensors, .npy, .npz or .pt), some rows at a time."""
        from maskcli.tensors import Source, told_of_mask, write_tensors

        source = Source(self.dtype, self.target.shape, self._values())
        told = {"maskcli.from": self.convention}
        if self.bias is None:
            told |= told_of_mask(self.name, self.target.axes, self.target.heads)
        write_tensors(path, {self.name: source}, told)


def convention_of(name: str) -> str:
    """A convention by its name."""
    check_known(name)
    return name
