"""Packed documents: which text of its row each key belongs to, by whatever tells it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Real


class Documents(NamedTuple):
    """The document of each key, int [b, K], and the tensor that tells it."""

    rows: Array
    source: str


def numbered(mask: Array) -> Array | None:
    """What a padding mask [B, K] that numbers the texts of each row says; None for one that does not.

    Texts count from 1 in their order and padding is 0, as axolotl and LLaMA-Factory write it. Longformer's
    numbers of global attention are no texts: its 2 stand anywhere.
    """
    if mask.dtype.kind not in "iu" or mask.size == 0 or mask.max() < 2 or mask.min() < 0:
        return None
    for row in mask:
        texts = row[row > 0]
        if texts.size and (texts[0] != 1 or not np.isin(np.diff(texts), (0, 1)).all()):
            return None
    return mask.astype(np.int64)


def between(borders: Array, keys: int) -> Array | None:
    """Documents [b, K] that cumulative lengths [b, n] tell; None when they do not rise to the number of keys.

    What fills up rows of borders, -1 behind the last, is left out.
    """
    rows = [_between(row[row >= 0], keys) for row in borders]
    return None if any(row is None for row in rows) else np.array(rows)


def _between(borders: Array, keys: int) -> Array | None:
    rising = bool((np.diff(borders) >= 0).all())
    if borders.size < 2 or borders[-1] != keys or not rising:
        return None
    return np.searchsorted(borders[1:], np.arange(keys), "right")


def of_lengths(lengths: Array, batch: int, keys: int, real: Real | None) -> Array | None:
    """Documents [b, K] by the lengths of texts [b, n]; None when they are those of padded samples.

    Lengths of texts fill rows: those of one row add up to its keys, or to the tokens in front of its padding;
    one vector may go on from row to row. A length for each sample of several says where each ends.
    """
    if (lengths < 0).any():
        return None
    if len(lengths) == 1 and batch > 1:
        return _row_by_row(lengths[0], batch, keys)
    if len(lengths) != batch or lengths.shape[1] < 2:
        return None
    full = np.full(batch, keys) if real is None else real.sum(axis=1)
    whole = lengths.sum(axis=1)
    if not np.isin(whole, (keys,)).all() and not (_in_front(real) and (whole == full).all()):
        return None
    return np.stack([_texts(row, keys) for row in lengths])


def _row_by_row(lengths: Array, batch: int, keys: int) -> Array | None:
    """Lengths that go on from row to row, none over a row's end; one a sample tells no texts."""
    ends = np.cumsum(lengths)
    if len(lengths) == batch or not ends.size or ends[-1] != batch * keys:
        return None
    if not np.isin(np.arange(1, batch + 1) * keys, ends).all():
        return None
    return np.searchsorted(ends, np.arange(batch * keys), "right").reshape(batch, keys)


def _texts(lengths: Array, keys: int) -> Array:
    """Texts of one row [K]; what lies behind them is one more."""
    return np.searchsorted(np.cumsum(lengths), np.arange(keys), "right")


def _in_front(real: Real | None) -> bool:
    """Whether all padding stands behind the texts."""
    return real is not None and bool((np.diff(real.astype(np.int8), axis=1) <= 0).all())
