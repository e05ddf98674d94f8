"""Labels of tokens as masks: who has the same label, who stands in the same stretch of labels."""

from __future__ import annotations

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.masks.layout import Layout, at_positions
from maskcli.masks.mask import Mask

# The label of tokens that belong to nothing.
NONE = -1


def same_label(layout: Layout, ids: Array) -> Mask:
    """Keys whose label [b, K] equals that of the query's position."""
    items, keys = ids.shape
    # One table row for each label of each item: the runs of keys that carry it. Queries then take their
    # label's row.
    change = np.ones((items, keys), bool)
    change[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(change)
    stops = np.append(starts[1:], items * keys)
    item = starts // keys
    labels, table_row = np.unique(np.stack([item, ids.ravel()[starts]], axis=1), axis=0, return_inverse=True)
    table_row = table_row.ravel()
    order = np.argsort(table_row, kind="stable")
    table = Mask.from_runs(
        (1, 1, len(labels), keys),
        (1, 1, len(labels)),
        np.bincount(table_row, minlength=len(labels)),
        (starts - item * keys)[order],
        (stops - item * keys)[order],
    )
    of_key = np.repeat(table_row.astype(np.int32), stops - starts).reshape(items, keys)
    return table.take(layout.shape, _of_queries(layout, of_key)[:, None])


def _of_queries(layout: Layout, of_key: Array) -> Array:
    """What is told of keys [b, K], for the key at which each query stands [b, Q]."""
    position = layout.positions[:, 0]
    items = max(len(of_key), len(position))
    whole = np.broadcast_to(of_key, (items, layout.keys))
    return np.take_along_axis(whole, np.broadcast_to(position, (items, layout.queries)), axis=1)


@at_positions
def same(layout: Layout, tensor: str, *chosen: int) -> Mask:
    """Labels of p and k are equal and no less than 0; with numbers, only those labels count."""
    return _alike(layout, groups(labels_of(layout, tensor), chosen))


@at_positions
def spans(layout: Layout, tensor: str, *chosen: int) -> Mask:
    """p and k stand in one unbroken stretch of a label no less than 0, or of the labels that are chosen."""
    return _alike(layout, stretches(labels_of(layout, tensor), chosen))


def groups(labels: Array, chosen: tuple[int, ...]) -> Array:
    """Labels [b, K] that count: of 0 or more, or chosen; -1 for all others."""
    counts = np.isin(labels, chosen) if chosen else labels >= 0
    return np.where(counts, labels, NONE)


def stretches(labels: Array, chosen: tuple[int, ...]) -> Array:
    """The number of the stretch that each token [b, K] stands in, -1 for none.

    Chosen labels that follow one another are one stretch (transformers' Gemma 3 and Gemma 4).
    """
    inside = np.isin(labels, chosen) if chosen else labels >= 0
    begins = inside.copy()
    begins[:, 1:] &= ~inside[:, :-1]
    if not chosen:
        begins[:, 1:] |= inside[:, 1:] & (labels[:, 1:] != labels[:, :-1])
    return np.where(inside, np.cumsum(begins, axis=1) - 1, NONE)


def labels_of(layout: Layout, tensor: str) -> Array:
    """The labels of all keys, int [b, K]; keys behind the last label have none (-1)."""
    if layout.tensors is None:
        raise MaskcliError(
            f"there is no file that holds the tensor {tensor!r}; write FILE:TENSOR, such as "
            f"dump.safetensors:{tensor}"
        )
    labels = layout.tensors(tensor)
    short = layout.keys - labels.shape[1]
    of_queries = labels.shape[1] == layout.queries < layout.keys
    if short < 0 or of_queries or len(labels) not in (1, layout.batch):
        raise MaskcliError(
            f"{tensor!r} has labels {list(labels.shape)}, and there are {layout.batch} x {layout.keys} keys; "
            "pass labels [B, K] of all keys"
        )
    return np.pad(labels, [(0, 0), (0, short)], constant_values=NONE)


def _alike(layout: Layout, labels: Array) -> Mask:
    """Tokens of the same label [b, K] of 0 or more."""
    if not layout.keys:
        return Mask.from_intervals(layout.shape, 0, 0)
    if not layout.inside:
        raise MaskcliError(
            f"the last query stands at position {layout.positions.max()}, behind the last of "
            f"{layout.keys} keys, so its label is unknown; pass a smaller past"
        )
    own = np.where(layout.positions < 0, NONE, _of_queries(layout, labels)[:, None])
    return same_label(layout, labels) & Mask.from_intervals(
        layout.shape, 0, np.where(own < 0, 0, layout.keys)
    )
