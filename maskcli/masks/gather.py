"""Keys that stand anywhere in a text: masks over positions to masks over keys, and facts the other way."""

from __future__ import annotations

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.masks.mask import Mask
from maskcli.masks.runs import check_count


def gather(mask: Mask, at: Array, shape: Shape) -> Mask:
    """A mask over positions as one over keys: key k of item b is position `at[b, k]`, -1 is none.

    Keys whose positions rise form a stretch, in which a run of positions is a run of keys: a ring buffer
    has two, a rank of zigzag attention two, a paged cache one for each block.
    """
    items, keys = at.shape
    wide = mask if items == 1 else mask.expand((items, *mask.stored[1:]))
    rows = wide.rows // items
    counts, starts, stops = [], [], []
    for item in range(items):
        part = wide if items == 1 else wide.row_range(item * rows, (item + 1) * rows)
        count, start, stop = _stretched(part, at[item])
        counts.append(count)
        starts.append(start)
        stops.append(stop)
    runs = (np.concatenate(each) for each in (counts, starts, stops))
    return Mask.from_runs((*shape[:3], keys), wide.stored, *runs)


def scatter(values: Array, at: Array, length: int, fill: int | bool) -> Array:
    """Facts of keys [b, K] as facts of positions [b, length]; `fill` where no key stands.

    Of booleans any True wins, of others the last.
    """
    items = max(len(values), len(at))
    values, at = (np.broadcast_to(each, (items, each.shape[1])) for each in (values, at))
    placed = np.full((items, length), fill, values.dtype)
    item, key = np.nonzero((at >= 0) & (values if values.dtype == bool else True))
    placed[item, at[item, key]] = values[item, key]
    return placed


def _stretched(mask: Mask, at: Array) -> tuple[Array, Array, Array]:
    """The runs of one item: how many each stored row has, their starts and their stops."""
    before = np.append(-1, at[:-1])
    begins = np.flatnonzero((before < 0) | (at <= before))
    ends = np.append(begins[1:], at.size)
    kept = [(low, high) for low, high in zip(begins, ends, strict=True) if at[low] >= 0]
    check_count(mask.starts.size * len(kept), "this mask, over keys in this order,")

    row = mask.row_of_run()
    found = [
        (
            row,
            low + np.searchsorted(at[low:high], mask.starts),
            low + np.searchsorted(at[low:high], mask.stops),
        )
        for low, high in kept
    ]
    if not found:
        return np.zeros(mask.rows, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows, starts, stops = (np.concatenate(each) for each in zip(*found, strict=True))
    held = stops > starts
    rows, starts, stops = rows[held], starts[held], stops[held]
    order = np.lexsort((starts, rows))
    rows, starts, stops = rows[order], starts[order], stops[order]

    # Runs that touch are one.
    first = np.ones(rows.size, bool)
    first[1:] = (rows[1:] != rows[:-1]) | (starts[1:] > stops[:-1])
    last = np.append(first[1:], True)[: rows.size]
    return np.bincount(rows[first], minlength=mask.rows), starts[first], stops[last]
