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
    real = mask > 0
    # Padding takes the number of the text before it, so that only steps between texts are left.
    numbers = np.maximum.accumulate(np.where(real, mask, 0), axis=1).astype(np.int64)
    steps = np.diff(numbers, axis=1, prepend=0)
    counts = ((steps == 0) | (steps == 1)).all() and (numbers == mask)[real].all()
    return mask.astype(np.int64) if counts else None


def between(borders: Array, keys: int) -> Array | None:
    """Documents [b, K] that cumulative lengths [b, n] tell; None when they do not rise to the number of keys.

    What fills up rows of borders, -1 behind the last, is left out.
    """
    if not borders.size:
        return None
    filled = borders >= 0
    ends = np.maximum.accumulate(np.where(filled, borders, 0), axis=1)
    rising = (filled.sum(axis=1) >= 2) & (ends[:, -1] == keys) & np.all((ends == borders) | ~filled, axis=1)
    if not rising.all():
        return None
    return _by_ends(np.where(filled[:, 1:], ends[:, 1:], keys), keys)


def started(starts: Array, keys: int) -> Array | None:
    """Documents [b, K] by where each starts [b, n], as NeMo's seq_start_id tells; what fills up is -1.

    None for places that do not rise from 0 to the last key.
    """
    filled = starts >= 0
    rising = (np.diff(starts, axis=1) > 0) | ~filled[:, 1:]
    if not starts.size or starts[:, 0].any() or not rising.all() or starts.max() >= keys:
        return None
    begins = np.zeros((len(starts), keys), np.int64)
    rows, columns = np.nonzero(filled)
    begins[rows, starts[rows, columns]] = 1
    return np.cumsum(begins, axis=1) - 1


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
    return _by_ends(np.cumsum(lengths, axis=1), keys)


def _row_by_row(lengths: Array, batch: int, keys: int) -> Array | None:
    """Lengths that go on from row to row, none over a row's end; one a sample tells no texts."""
    ends = np.cumsum(lengths)
    if len(lengths) == batch or not ends.size or ends[-1] != batch * keys:
        return None
    if not np.isin(np.arange(1, batch + 1) * keys, ends).all():
        return None
    return np.searchsorted(ends, np.arange(batch * keys), "right").reshape(batch, keys)


def _by_ends(ends: Array, keys: int) -> Array:
    """Texts [b, K] that end before these keys [b, n]; what lies behind the last is one more."""
    marks = np.zeros((len(ends), keys + 1), np.int64)
    np.add.at(marks, (np.arange(len(ends))[:, None], np.minimum(ends, keys)), 1)
    return np.cumsum(marks, axis=1)[:, :keys]


def _in_front(real: Real | None) -> bool:
    """Whether all padding stands behind the texts."""
    return real is not None and bool((np.diff(real.astype(np.int8), axis=1) <= 0).all())
