"""NaN in tensors that nothing tells the part of: where they are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.masks.runs import Runs
from maskcli.masks.words import runs_in_words
from maskcli.tensors import Roled, Tensor

# Elements of a tensor that are looked at, and those read at once.
MOST, BLOCK = 2**26, 2**22


def nans_in_words(roled: Iterable[Roled]) -> str:
    """Where NaN stand in the first tensor without a role that has some, and what would name their cause."""
    for each in roled:
        rows = () if each.role is not None else _rows(each.tensor)
        if rows:
            where = runs_in_words(rows, "row", "rows", rest=" and {} more runs")
            count = each.tensor.row_count
            return f"; {each.tensor.name} holds NaN in {where} of {count:,}, whose cause rules name"
    return ""


def _rows(tensor: Tensor) -> Runs:
    """Runs of rows with NaN, of the first so many elements."""
    if not tensor.dtype.startswith(("float", "bfloat")) or not tensor.row_length:
        return ()
    step = max(BLOCK // tensor.row_length, 1)
    last = min(tensor.row_count, max(MOST // tensor.row_length, 1))
    try:
        flags = [np.isnan(tensor.rows(at, min(at + step, last))).any(axis=1) for at in range(0, last, step)]
    except MaskcliError:
        return ()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], *flags, [False]]).astype(np.int8))).tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))
