"""Two tensors of one shape, cell by cell: how far apart they are, and where."""

from typing import NamedTuple

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.tensors.tensor import Tensor
from maskcli.tensors.tolerances import tolerances

CHUNK_ELEMENTS = 2**20


class Difference(NamedTuple):
    """The largest absolute difference, the place (index) of it, how many cells differ by more than `tolerance`, and that tolerance.

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


def difference(a: Tensor, b: Tensor, tolerance: float | None = None) -> Difference:
    """Compare two tensors in chunks."""
    if a.shape != b.shape:
        raise MaskcliError(
            f"{a.name!r} has the shape {list(a.shape)} and {b.name!r} {list(b.shape)}; only tensors of one shape can be compared"
        )
    limit = tolerance_of(a, b) if tolerance is None else tolerance
    largest, index, cells = 0.0, (0,) * len(a.shape), 0
    step = max(1, CHUNK_ELEMENTS // max(a.row_length, 1))
    for start in range(0, a.row_count, step):
        stop = min(start + step, a.row_count)
        x, y = a.rows(start, stop).astype(np.float64), b.rows(start, stop).astype(np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.abs(x - y)
        apart[(x == y) | (np.isnan(x) & np.isnan(y))] = 0.0
        apart[np.isnan(apart)] = np.inf
        cells += int((apart > limit).sum())
        if apart.size and float(apart.max()) > largest:
            row, key = np.unravel_index(int(apart.argmax()), apart.shape)
            largest = float(apart.max())
            leading = np.unravel_index(start + int(row), a.shape[:-1]) if len(a.shape) > 1 else ()
            index = (*(int(i) for i in leading), int(key)) if a.shape else ()
    return Difference(largest, index, cells, limit)
