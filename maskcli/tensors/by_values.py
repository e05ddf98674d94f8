"""Which role a tensor plays by its shape, its type and a sample of its values, whatever it is called."""

from __future__ import annotations

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors.tensor import Tensor

# Rows looked at when neither name nor shape tells, spread over the tensor, and elements at most.
SAMPLE_ROWS = 32
SAMPLE_ELEMENTS = 4 * 1024 * 1024
# How far sums of weights may lie from 1: sixteen-bit types are off by up to 0.03 over thousands of keys.
SUM_TOLERANCE = 0.05
# A value at or below this is no score but the fill of an additive mask.
FILL = -1e3
UNTOLD = "neither its name nor its shape tells"


def is_float(tensor: Tensor) -> bool:
    """Whether elements are floating-point numbers, of any width."""
    return tensor.dtype.startswith(("float", "bfloat"))


def is_integer(tensor: Tensor) -> bool:
    """Whether elements are whole numbers; bool is none."""
    return tensor.dtype.startswith(("int", "uint"))


def is_integer_valued(tensor: Tensor) -> bool:
    """Whether elements are whole numbers, of whatever type; floats of 0 and 1 alone are none, but shares."""
    if not is_float(tensor) or not tensor.shape or 0 in tensor.shape:
        return is_integer(tensor)
    sample = _sample(tensor)
    if sample is None or not np.isfinite(sample).all():
        return False
    return bool((sample == np.floor(sample)).all()) and not _is_binary(sample)


def goes_below_zero(tensor: Tensor) -> bool:
    """Whether most rows hold negative numbers: a hook that kept what a module returned, not its weights."""
    sample = _sample(tensor)
    return sample is not None and float((sample < 0).any(axis=1).mean()) > 0.5


def by_shape(tensor: Tensor) -> tuple[str | None, str]:
    """The role that shape and type leave no doubt of, else the one that some rows of values speak for."""
    axes, shape, floating = len(tensor.shape), tensor.shape, is_float(tensor)
    if axes < 2 or 0 in shape:
        return None, UNTOLD
    if tensor.dtype == "bool":
        over_queries = axes > 2 or shape[-1] == shape[-2] or is_staircase(tensor)
        return "mask" if over_queries else "padding_mask", "shape"

    if not 2 <= axes <= 6 or tensor.row_length < 2:
        return None, UNTOLD
    sample = _sample(tensor)
    if sample is None:
        return None, UNTOLD
    if floating and axes == 2:
        return _flat_additive(tensor, sample)
    role = _by_float_values(sample) if floating else _by_integer_values(sample, axes)
    return role, "values" if role else "neither its name, its shape nor its values tell"


def is_staircase(tensor: Tensor) -> bool:
    """Whether each row is the one before shifted by one: a causal or sliding mask of many keys."""
    if len(tensor.shape) != 2 or not 1 < tensor.row_length <= SAMPLE_ELEMENTS // SAMPLE_ROWS:
        return False
    rows = tensor.rows(0, min(tensor.row_count, SAMPLE_ROWS))
    shifted = (rows[1:, 1:] == rows[:-1, :-1]).all()
    return len(rows) > 2 and bool(shifted) and bool((rows[1:] != rows[:-1]).any())


def _sample(tensor: Tensor) -> Array | None:
    """Some rows, spread over the tensor; None where it cannot be read."""
    count = max(1, min(SAMPLE_ROWS, SAMPLE_ELEMENTS // tensor.row_length, tensor.row_count))
    if tensor.row_length > SAMPLE_ELEMENTS:
        return None
    starts = np.linspace(0, tensor.row_count - 1, count).astype(int)
    try:
        return np.concatenate([tensor.rows(int(start), int(start) + 1) for start in starts])
    except MaskcliError:
        return None


def _is_binary(rows: Array) -> bool:
    return bool(((rows == 0) | (rows == 1)).all())


def _flat_additive(tensor: Tensor, rows: Array) -> tuple[str | None, str]:
    """A mask [Q, K] or [B, K] of 0 and one fill; other floats of two axes may be anything."""
    fills = np.unique(rows[rows != 0])
    if not (rows == 0).any() or fills.size != 1 or fills[0] > FILL:
        return None, UNTOLD
    square = tensor.shape[0] == tensor.shape[1]
    return "mask" if square or is_staircase(tensor) else "padding_mask", "values"


def _by_integer_values(rows: Array, axes: int) -> str | None:
    """A mask, when all is 0 and 1."""
    if not _is_binary(rows) or not rows.any():
        return None
    return "padding_mask" if axes == 2 else "mask"


def _by_float_values(rows: Array) -> str | None:
    """Weights: nothing below 0, most sums 1; masks: 0 and 1, or 0 and a fill; scores: others with fills."""
    rows = rows[~np.isnan(rows).any(axis=1)]
    if rows.size == 0:
        return None
    low = float(rows.min())
    if low <= FILL:
        additive = bool(((rows == 0) | (rows <= FILL)).all())
        return "mask" if additive else "scores"
    sums = rows.astype(np.float64).sum(axis=1)
    one_hot = bool(((rows == 1).sum(axis=1) == 1).all() and _is_binary(rows))
    if low >= 0 and (np.abs(sums - 1) <= SUM_TOLERANCE).mean() > 0.5:
        return None if one_hot else "weights"
    return "mask" if _is_binary(rows) and 0 < float(rows.mean()) < 1 else None
