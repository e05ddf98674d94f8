"""Cells of a measured mask: which say something, and which are reached or missed beside the expected."""

from __future__ import annotations

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.diagnostics.behaviour import Seen
from maskcli.masks.kinds import padding
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask


def looked(seen: Seen) -> Mask:
    """Cells [B, 1, Q, K] that say something: measured keys of real queries, but for each query's own."""
    shape, layout = seen.reached.shape, seen.layout
    rows = Mask.from_intervals(shape, 0, np.where(asking(layout)[:, None], shape[3], 0))
    own = layout.own[:, None]
    cells = rows - Mask.from_intervals(shape, own, own + 1)
    if seen.columns is None:
        return cells
    measured = np.zeros((1, 1, 1, shape[3]), bool)
    measured[..., list(seen.columns)] = True
    return cells & wide(Mask.from_dense(measured), shape)


def asking(layout: Layout) -> Array:
    """Which queries are real tokens, bool [B, Q]; of cross-attention, whose keys are others', all."""
    if layout.real is None or layout.cross:
        return np.ones((layout.batch, layout.queries), bool)
    real = np.broadcast_to(layout.real, (layout.batch, layout.keys))
    own = np.broadcast_to(layout.own, (layout.batch, layout.queries))
    asks: Array = np.take_along_axis(real, np.maximum(own, 0), axis=1) | (own < 0)
    return asks


def extra(seen: Seen) -> Mask:
    """Cells that are reached and should not be; without an expectation, padding and empty slots."""
    return (seen.reached & looked(seen)) - allowed(seen)


def lacking(seen: Seen) -> Mask:
    """Cells that should be reached and are not, at no size of the move."""
    if seen.expected is None or not seen.expected.whole:
        return none(seen)
    return (seen.expected.mask & looked(seen)) - (seen.reached | seen.soft)


def allowed(seen: Seen) -> Mask:
    """Cells that may be reached; where nothing was expected, all tokens that are there."""
    if seen.expected is not None:
        return seen.expected.mask
    whole = Mask.full(seen.reached.shape)
    return whole - pads(seen) - empty_slots(seen)


def pads(seen: Seen) -> Mask:
    """Keys that are padding, but for empty slots of a cache."""
    if seen.layout.real is None:
        return none(seen)
    return wide(~padding(seen.layout), seen.reached.shape) - empty_slots(seen)


def empty_slots(seen: Seen) -> Mask:
    """Slots of a cache behind the last token."""
    if seen.keys != "cache":
        return none(seen)
    filled = seen.layout.past + seen.layout.queries
    return Mask.from_intervals(seen.reached.shape, filled, seen.reached.shape[3])


def none(seen: Seen) -> Mask:
    """No cell."""
    return Mask.from_intervals(seen.reached.shape, 0, 0)


def wide(mask: Mask, shape: Shape) -> Mask:
    """The same rows for all of a shape."""
    whole = mask.broadcast_to(shape)
    assert whole is not None
    return whole
