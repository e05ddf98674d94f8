"""A mask that is to be written in a library's convention: as an array, or chunk by chunk into a file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.masks.conventions import CONVENTIONS, Target, chunks
from maskcli.masks.mask import Mask


class Written(NamedTuple):
    """A mask with the shape, convention, type and fill it is written in, and the name of its tensor."""

    name: str
    mask: Mask
    target: Target
    convention: str
    dtype: str
    fill: float

    def array(self) -> Array:
        """The whole, in memory. bfloat16 comes as float32 of equal value."""
        values = chunks(self.mask, self.target, self.convention, self.dtype, self.fill)
        return np.concatenate(list(values)).reshape(self.target.shape)

    def save(self, path: str) -> None:
        """Write it to a file (.safetensors, .npy, .npz or .pt), some rows at a time."""
        from maskcli.tensors import Source, write_tensors

        values = chunks(self.mask, self.target, self.convention, self.dtype, self.fill)
        source = Source(self.dtype, self.target.shape, values)
        write_tensors(path, {self.name: source}, {"maskcli.from": self.convention})


def convention_of(name: str) -> str:
    """A convention by its name."""
    if name not in CONVENTIONS:
        raise MaskcliError(f"{name!r} is not a convention; choose one of {', '.join(CONVENTIONS)}")
    return name
