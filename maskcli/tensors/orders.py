"""A tensor with its axes in another order, joined or split: the same elements, nothing copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors.dtypes import Decoder
from maskcli.tensors.storage import Computed, Ranges, Refused, Storage
from maskcli.tensors.tensor import Tensor

Index = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Arranged:
    """Elements in another arrangement: `saved` are the axes in words, `saved_at` tells where one lies."""

    elements: Computed
    saved: str
    saved_at: Callable[[Index], Index]

    def gather(self, ranges: Ranges) -> Array:
        """The raw elements at these positions."""
        return self.elements.gather(ranges)

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Decode rows into `out`."""
        self.elements.rows(start, stop, out, decode)


def saved_index(tensor: Tensor, at: Index) -> Index:
    """An index of a tensor as that of the tensor that was saved."""
    storage = tensor.storage
    return storage.saved_at(at) if isinstance(storage, Arranged) else at


def saved_axes(tensor: Tensor) -> str | None:
    """The axes in which a tensor was saved, where it is read in another arrangement."""
    return tensor.storage.saved if isinstance(tensor.storage, Arranged) else None


def permuted(tensor: Tensor, order: tuple[int, ...], saved: str) -> Tensor:
    """The axes in another order, as numpy's transpose takes it."""
    back = tuple(np.argsort(order).tolist())

    def compute(ranges: Ranges) -> Array:
        return _raw(tensor, [ranges[axis] for axis in back]).transpose(order)

    shape = tuple(tensor.shape[axis] for axis in order)
    return _view(tensor, shape, saved, compute, lambda at: tuple(at[axis] for axis in back))


def regrouped(tensor: Tensor, leading: tuple[int, ...], saved: str) -> Tensor:
    """Other axes in front of the last two: [B*H, Q, K] or [B, G, H/G, Q, K] as [B, H, Q, K]."""
    before = tensor.shape[:-2]

    def plane(at: Index) -> Index:
        flat = int(np.ravel_multi_index(at, leading))
        return tuple(int(index) for index in np.unravel_index(flat, before))

    def compute(ranges: Ranges) -> Array:
        front, last = ranges[:-2], ranges[-2:]
        sizes = [len(positions) for positions in ranges]
        planes = []
        for index in np.ndindex(*sizes[:-2]):
            at = plane(tuple(positions[i] for positions, i in zip(front, index, strict=True)))
            planes.append(_raw(tensor, [*(range(i, i + 1) for i in at), *last]).reshape(sizes[-2:]))
        return np.stack(planes).reshape(sizes)

    shape = (*leading, *tensor.shape[-2:])
    return _view(tensor, shape, saved, compute, lambda at: (*plane(at[:-2]), *at[-2:]))


def split_heads(tensor: Tensor, heads: int, saved: str) -> Tensor:
    """[B, L, H*D], whose heads lie side by side, as [B, H, L, D]."""
    batch, length, hidden = tensor.shape
    width = hidden // heads

    def compute(ranges: Ranges) -> Array:
        items, several, rows, inner = ranges
        columns = [[head * width + at for at in inner] for head in several]
        low, high = min(map(min, columns)), max(map(max, columns)) + 1
        values = _raw(tensor, [items, rows, range(low, high)])
        return values[:, :, np.array(columns) - low].transpose(0, 2, 1, 3)

    shape = (batch, heads, length, width)
    return _view(tensor, shape, saved, compute, lambda at: (at[0], at[2], at[1] * width + at[3]))


def _raw(tensor: Tensor, ranges: Ranges) -> Array:
    if isinstance(tensor.storage, Refused):
        raise MaskcliError(tensor.storage.reason)
    return tensor.storage.gather(ranges)


def _view(
    tensor: Tensor,
    shape: tuple[int, ...],
    saved: str,
    compute: Callable[[Ranges], Array],
    saved_at: Callable[[Index], Index],
) -> Tensor:
    """A tensor of the same name and type."""
    storage: Storage | Refused = Arranged(Computed(shape, compute), saved, saved_at)
    if isinstance(tensor.storage, Refused):
        storage = tensor.storage
    return Tensor(tensor.name, tensor.dtype, shape, storage)
