"""What an array is called, everywhere: its elements are said in the signature's words, its axes beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# bool [B, K] or [B, Q]: which tokens are real, and no padding.
Real = npt.NDArray[np.bool_]
# bool [B, H, Q], or what broadcasts to it: rows of attention maps.
Rows = npt.NDArray[np.bool_]
# [B, H, Q, K]: batch items, heads, queries, keys.
Shape = tuple[int, int, int, int]

Given = ParamSpec("Given")
Made = TypeVar("Made")


def for_any_numbers(work: Callable[Given, Made]) -> Callable[Given, Made]:
    """Work on numbers of files: what comes of infinities and NaN among them is meant, and no warning."""

    @wraps(work)
    def quiet(*given: Given.args, **named: Given.kwargs) -> Made:
        with np.errstate(all="ignore"):
            return work(*given, **named)

    return quiet


def pixel_edges(length: int, pixels: int) -> Array:
    """Edges, int64 [min(length, pixels) + 1], that share `length` cells out among pixels evenly.

    >>> pixel_edges(10, 3).tolist()
    [0, 3, 6, 10]
    """
    count = max(1, min(length, pixels))
    return np.arange(count + 1) * length // count


def dense_runs(rows: Array) -> tuple[Array, Array, Array]:
    """Runs of True in each row of booleans [n, K]: how many a row [n], their starts and their stops."""
    n, keys = rows.shape
    padded = np.zeros((n, keys + 2), bool)
    padded[:, 1:-1] = rows
    borders = np.flatnonzero(padded[:, 1:] != padded[:, :-1])
    starts, stops = borders[0::2], borders[1::2]
    row = starts // (keys + 1)
    base = row * (keys + 1)
    return np.bincount(row, minlength=n), (starts - base).astype(np.int32), (stops - base).astype(np.int32)
