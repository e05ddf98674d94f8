"""Padding by its id: the runs of it at the edges of a row of tokens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from maskcli.arrays import Array, Real

# For so few ids, comparing with each is many times faster than np.isin, which sorts.
FEW_IDS = 16


def one_of(values: Array, ids: Iterable[int | None]) -> Real:
    """Which values are one of some ids, in the shape of the values."""
    wanted = {each for each in ids if each is not None}
    if len(wanted) > FEW_IDS:
        return np.isin(values, list(wanted))
    found: Real = np.zeros(values.shape, bool)
    for each in wanted:
        found |= values == each
    return found


def text_span(pads: Real) -> tuple[Array, Array]:
    """Where the text in padded rows [B, L] begins and ends, int [B] each; 0 and 0 where there is none."""
    if not pads.size:
        nowhere = np.zeros(len(pads), np.int64)
        return nowhere, nowhere
    text = ~pads
    stops = pads.shape[1] - text[:, ::-1].argmax(axis=1)
    return text.argmax(axis=1), np.where(text.any(axis=1), stops, 0)


def columns_beside(length: int, *places: Array) -> tuple[Array, ...]:
    """The numbers of columns, and places of rows [B] as [B, 1], in a type that is quick to compare."""
    small = np.int16 if length < np.iinfo(np.int16).max else np.int64
    return np.arange(length, dtype=small), *(each.astype(small)[:, None] for each in places)


def edge_runs(pads: Real) -> tuple[Real, Real]:
    """The leading and trailing run of padding in each row, bool [B, L]; padding alone is a trailing run."""
    columns, starts, stops = columns_beside(pads.shape[1], *text_span(pads))
    return columns < starts, columns >= stops


def is_solid(real: Real) -> bool:
    """Whether each row [L] keeps one run of tokens at most."""
    begins = (real[:, 1:] & ~real[:, :-1]).sum(axis=1) + real[:, :1].sum(axis=1)
    return bool(begins.max(initial=0) <= 1)


def lone_edges(pads: Real) -> Real:
    """Leading and trailing runs of padding [B, L] of a single token, which may be the end of a cut text."""
    lone: Real = np.zeros(pads.shape, bool)
    for run in edge_runs(pads):
        lone |= run & (run.sum(axis=1) == 1)[:, None]
    return lone


def edge_padding(
    ids: Array, pad_id: int, starts: tuple[int | None, ...] = (), ends: tuple[int | None, ...] = ()
) -> Real:
    """Which tokens are real, bool [B, L]: all but the leading and trailing runs of the pad id.

    When the pad token also ends texts (is one of `ends`), the first of a trailing run is the real end; when
    it also begins them (`starts`), the last of a leading run is the real beginning.
    """
    begin, stop = text_span(ids == pad_id)
    if pad_id in starts:
        begin = np.maximum(begin - 1, 0)
    if pad_id in ends:
        stop = stop + (stop > 0)
    columns, begins, stops = columns_beside(ids.shape[1], begin, stop)
    real: Real = (begins <= columns) & (columns < stops)
    return real
