"""Two tensors of one shape, cell by cell: how far apart they are, and where."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors.tensor import Tensor
from maskcli.tensors.tolerances import tolerances

# Elements read at a time.
CHUNK_ELEMENTS = 2**20


class Difference(NamedTuple):
    """The largest absolute difference, its place (index), and how many cells differ by more than `tolerance`.

    A cell that is NaN on one side only differs; NaN on both sides is equal, and so are equal infinities.
    """

    largest: float
    place: tuple[int, ...]
    cells: int
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether no cell differs by more than the tolerance."""
        return self.cells == 0


def tolerance_of(a: Tensor, b: Tensor) -> float:
    """The tolerance of the coarser of two types; 0 for integers and booleans."""
    return max(tolerances(a.dtype).cells, tolerances(b.dtype).cells)


def difference(a: Tensor, b: Tensor, tolerance: float | None = None, fill: float | None = None) -> Difference:
    """Compare two tensors in chunks.

    With a `fill`, they are biases: what is at or below it on either side is ignored there and not compared,
    and of values above 1 the tolerance is a share.
    """
    if a.shape != b.shape:
        shapes = f"{a.name!r} has the shape {list(a.shape)} and {b.name!r} {list(b.shape)}"
        raise MaskcliError(f"{shapes}; only tensors of one shape can be compared")

    limit = tolerance_of(a, b) if tolerance is None else tolerance
    largest, flat, cells = 0.0, 0, 0
    step = max(1, CHUNK_ELEMENTS // max(a.row_length, 1))
    for start in range(0, a.row_count, step):
        stop = min(start + step, a.row_count)
        x, y = a.rows(start, stop).astype(np.float64), b.rows(start, stop).astype(np.float64)
        apart = _apart(x, y)
        if fill is not None:
            apart[(x <= fill) | (y <= fill)] = 0.0
        allowed = limit * np.maximum(1, np.abs(x)) if fill is not None else limit
        cells += int((apart > allowed).sum())
        if apart.size and float(apart.max()) > largest:
            largest = float(apart.max())
            flat = start * a.row_length + int(apart.argmax())
    place = np.unravel_index(flat, a.shape) if largest else (0,) * len(a.shape)
    return Difference(largest, tuple(map(int, place)), cells, limit)


def _apart(x: Array, y: Array) -> Array:
    """How far cells are from each other: 0 where both are NaN or the same infinity, inf where one is NaN."""
    with np.errstate(invalid="ignore"):
        apart: Array = np.abs(x - y)
    apart[(x == y) | (np.isnan(x) & np.isnan(y))] = 0.0
    apart[np.isnan(apart)] = np.inf
    return apart
