"""What the weights tell of their own input, where nothing else does."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.masks.conventions import TRUE_ATTENDS, TRUE_IGNORES
from maskcli.masks.mask import Mask
from maskcli.masks.views import rows_at
from maskcli.measure.passes import measure
from maskcli.measure.questions import column_mass, last_key
from maskcli.measure.sample import some_rows
from maskcli.scene.saved_mask import Given
from maskcli.tensors import Tensor

# Weights that obey a mask put less than rounding outside of it, and those that obey its inverse more than
# half.
OBEYED, DISOBEYED, LEAKS = 1e-6, 0.5, 1e-3
# Rows that are looked at before a pass over all of them is paid for.
FIRST_LOOK = 32


# How the polarity of a bool mask was found where nothing declares it.
GUESSED = ("assumed", "shape")


def by_weights(given: Given, weights: Tensor, shape: Shape) -> Given:
    """A bool mask of a guessed polarity, turned around when the weights obey its inverse and not itself."""
    keep = given.keep.broadcast_to(shape)
    if given.reason not in GUESSED or keep is None or not obey_inverse(keep, weights):
        return given
    turned = TRUE_ATTENDS if given.convention == TRUE_IGNORES else TRUE_IGNORES
    return dataclasses.replace(given, convention=turned, reason="weights", keep=~given.keep)


def over_keys(given: Given, weights: Tensor, shape: Shape) -> Given:
    """A mask of two axes and as many rows as samples and queries: over keys where weights obey only that."""
    batch, _, queries, keys = shape
    keep = given.keep.broadcast_to(shape)
    fits_both = given.tensor.shape == (batch, keys) and 1 < batch == queries
    if not fits_both or keep is None:
        return given
    rows = given.keep.dense(0, 0, (0, batch))
    turned = Mask.from_dense(rows[:, None, None, :])
    padding = turned.broadcast_to(shape)
    if padding is None or not rows.any(axis=1).all():
        return given
    mass = measure(weights, shape, {"keep": keep, "keys": padding}).mass
    only_keys = np.max(mass["keys"]) < OBEYED and np.mean(mass["keep"]) > LEAKS
    return dataclasses.replace(given, shape=(batch, 1, 1, keys), keep=turned) if only_keys else given


def obey_inverse(keep: Mask, weights: Tensor) -> bool:
    """Whether weights obey the inverse of a mask, and not itself."""
    shape = keep.shape
    if _obeyed(keep, weights):
        return False
    mass = measure(weights, shape, {"keep": keep, "inverse": ~keep}).mass
    rows = np.broadcast_to((keep.keys_per_query > 0) & (keep.keys_per_query < shape[3]), shape[:3])
    if not rows.any() or not np.isfinite(mass["keep"][rows]).any():
        return False
    return bool(np.nanmean(mass["inverse"][rows]) < OBEYED and np.nanmean(mass["keep"][rows]) > DISOBEYED)


def _obeyed(keep: Mask, weights: Tensor) -> bool:
    """Whether some rows, evenly chosen, show already that the weights do not obey the inverse of a mask."""
    rows = np.unique(np.linspace(0, math.prod(keep.shape[:3]) - 1, FIRST_LOOK).astype(int))
    values = some_rows(weights, rows)
    seen = rows_at(keep, *np.unravel_index(rows, keep.shape[:3]))
    told = seen.any(axis=1) & ~seen.all(axis=1) & ~np.isnan(values).any(axis=1)
    inside = np.where(seen, values, 0).sum(axis=1)[told]
    return bool(inside.size and np.mean(inside) > DISOBEYED)


def fills_only(weights: Tensor, shape: Shape, keys: int) -> bool:
    """Whether only exactly uniform rows weigh keys from `keys` on: the empty slots of a static cache."""
    last = last_key(weights, shape)
    return last is not None and last < keys


def left_padding(weights: Tensor, shape: Shape, allowed: Mask) -> Array | None:
    """Real tokens, bool [B, K], where the weights alone show leading ones to be padding; else None.

    A fully masked row whose fill is finite falls through to keys that `allowed` forbids: to real ones when
    those have a weaker fill (-1e4 beside finfo.min), to a few levels of weight in float16. Leading rows that
    all do so in all heads are padding when no row behind them looks at their keys or at any forbidden one. An
    inverted mask leaves only one such row.
    """
    batch, heads, queries, keys = shape
    # Only where the first row falls through is the rest worth a pass.
    first = np.array([weights.rows(row, row + 1)[0] for row in range(0, batch * heads * queries, queries)])
    hidden = ~allowed.select(rows=slice(0, 1)).seen
    falls = np.any((first.reshape(batch, heads, keys) > 0) & hidden, axis=2)
    if not np.all(falls, axis=1).any():
        return None
    through = measure(weights, shape, {"forbidden": allowed}).mass["forbidden"] > 0
    whole = np.all(through, axis=1)
    leading = np.where(np.all(whole, axis=1), queries, np.argmin(whole, axis=1))
    behind = np.arange(queries) >= leading[:, None]
    mass = column_mass(weights, shape, np.broadcast_to(behind[:, None], through.shape)).sum(axis=1)
    front = np.arange(keys) < leading[:, None]
    obeyed = (
        ~(through & behind[:, None]).any(axis=(1, 2)) & ~(mass * front).any(axis=1) & (leading < queries - 1)
    )
    real: Array = ~(front & obeyed[:, None])
    return None if real.all() else real


def weighs(weights: Tensor, shape: Shape, key: Array) -> Array:
    """Whether the last query of each item weighs a key of that item, int [B], in any head: bool [B]."""
    batch, heads, queries, _ = shape
    last = (np.arange(batch * heads) + 1) * queries - 1
    rows = [weights.rows(row, row + 1)[0, key[at // heads]] for at, row in enumerate(last.tolist())]
    weighed: Array = np.any(np.array(rows).reshape(batch, heads) > 0, axis=1)
    return weighed


def skips_the_first(weights: Tensor, shape: Shape, counts: Array) -> bool:
    """Whether no last query weighs the first keys of its item, so many as `counts` int [B] says."""
    batch, heads, queries, _ = shape
    last = ((np.arange(batch * heads) + 1) * queries - 1).tolist()
    rows = [weights.rows(row, row + 1)[0, : counts[at // heads]] for at, row in enumerate(last)]
    return not any(row.any() for row in rows)


def last_weighed(weights: Tensor, shape: Shape) -> int:
    """The last key that a row weighs, exactly uniform (fully masked) rows aside; K - 1 when there is none."""
    last = last_key(weights, shape)
    return shape[3] - 1 if last is None else last
