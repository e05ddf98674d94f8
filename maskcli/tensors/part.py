"""A part of a tensor as a tensor of its own: one layer of a stack of layers, of which nothing is copied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from maskcli.arrays import Array
from maskcli.tensors.dtypes import Decoder
from maskcli.tensors.storage import Computed, Ranges, Refused, Storage, boxes, decode_planes
from maskcli.tensors.tensor import Tensor

# The index at which an axis is held; None where the axis stays.
Held = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """What is left of other elements, `whole` of this `shape`, when some axes are `held` at one index."""

    whole: Storage
    shape: tuple[int, ...]
    held: Held

    def gather(self, ranges: Ranges) -> Array:
        """The raw elements at these positions of the axes that stay."""
        left = iter(ranges)
        full = [next(left) if index is None else range(index, index + 1) for index in self.held]
        return self.whole.gather(full).reshape([len(positions) for positions in ranges])

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Decode rows into `out`: as they lie where leading axes are held, else plane by plane."""
        sizes = staying(self.shape, self.held)
        leading = self.held[: len(self.shape) - len(sizes)]
        if None not in leading:
            before = math.prod(sizes[:-1]) * _flat(leading, self.shape)
            self.whole.rows(before + start, before + stop, out, decode)
            return

        keys = range(out.shape[1])
        pieces = boxes(sizes[:-1], start, stop)
        decode_planes((self.gather([*box, keys]) for box in pieces), out, decode)


def part(tensor: Tensor, name: str, held: Held) -> Tensor:
    """The tensor with some axes held at one index, under another name."""
    shape = staying(tensor.shape, held)
    storage = tensor.storage
    if isinstance(storage, Refused):
        return Tensor(name, tensor.dtype, shape, storage)
    return Tensor(name, tensor.dtype, shape, Part(storage, tensor.shape, held))


def first_columns(tensor: Tensor, count: int) -> Tensor:
    """The first columns of a tensor, under its name."""
    shape = (*tensor.shape[:-1], count)
    storage = tensor.storage
    kept = storage if isinstance(storage, Refused) else Computed(shape, storage.gather)
    return Tensor(tensor.name, tensor.dtype, shape, kept)


def staying(shape: tuple[int, ...], held: Held) -> tuple[int, ...]:
    """The sizes of the axes that are not held."""
    return tuple(size for size, index in zip(shape, held, strict=True) if index is None)


def _flat(index: Sequence[int | None], shape: tuple[int, ...]) -> int:
    """Where an index of the leading axes lies among all of their indices in a row."""
    at = 0
    for position, size in zip(index, shape, strict=False):
        at = at * size + (position or 0)
    return at
