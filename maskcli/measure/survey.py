"""What values a tensor holds: one pass in pieces, whatever its shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.measure.questions import row_chunks
from maskcli.tensors import Tensor


class Survey(NamedTuple):
    """The finite values (low > high where there are none), and how many cells hold NaN or infinities.

    `distinct` are the values in order, None when they are more than were asked for. `sums` are the least and
    largest sum of a row, None unless asked for and finite.
    """

    distinct: tuple[float, ...] | None
    low: float
    high: float
    nan: int
    minus_inf: int
    plus_inf: int
    sums: tuple[float, float] | None


def survey(tensor: Tensor, most: int, *, sums: bool = False) -> Survey:
    """One pass over a tensor that lists at most so many distinct values, and adds up rows when asked to."""
    known: set[float] = set()
    low, high = np.inf, -np.inf
    counts = np.zeros(3, np.int64)
    least, largest = np.inf, -np.inf
    for _, values in row_chunks(tensor):
        finite, broken = _finite(values)
        counts += broken
        if sums and not broken.any():
            totals = values.sum(axis=1, dtype=np.float64)
            least, largest = min(least, float(totals.min())), max(largest, float(totals.max()))

        if len(known) <= most:
            known |= set(_new_values(finite, known, most + 1 - len(known)))
        if len(known) > most and finite.size:
            # As long as all values are known, so is their range.
            low, high = min(low, finite.min().item()), max(high, finite.max().item())

    low, high = min([low, *known]), max([high, *known])
    listed = tuple(sorted(known)) if len(known) <= most else None
    nan, minus, plus = counts.tolist()
    return Survey(listed, low, high, nan, minus, plus, (least, largest) if least <= largest else None)


def _finite(values: Array) -> tuple[Array, Array]:
    """The finite values, flat, and how many are NaN, -inf and inf."""
    none = np.zeros(3, np.int64)
    if values.dtype.kind != "f":
        return values.ravel(), none
    finite = np.isfinite(values)
    if finite.all():
        return values.ravel(), none
    broken = values[~finite]
    counts = np.array([np.isnan(broken).sum(), (broken == -np.inf).sum(), (broken == np.inf).sum()])
    return values[finite], counts


def _new_values(values: Array, known: set[float], most: int) -> Iterator[float]:
    """Values that are not known yet, at most so many."""
    rest = values
    for value in known:
        rest = rest[rest != value]
    for _ in range(most):
        if not rest.size:
            return
        value = rest[0].item()
        yield value
        rest = rest[rest != value]
