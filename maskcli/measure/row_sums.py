"""Sums and extremes of a block of rows, from the bits of its elements, with as few looks as can be."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.measure.spans import Span
from maskcli.tensors.dtypes import BITS, DTYPES, decoder

# Keys added up in float32 before float64 takes over, so that rounding stays near 1e-6 of a row's sum however
# long the row is.
EXACT_KEYS = 4096


class RowSums(NamedTuple):
    """Per row of a block, each [h, q]: the sum, the largest and smallest element, the mass outside of masks.

    Masks that a span names are in `outside`, unless only zeros lie there.
    """

    total: Array
    high: Array
    low: Array
    outside: dict[str, Array]


def row_sums(raw: Array, dtype: str, cuts: Sequence[Span]) -> RowSums:
    """What lies in rows [h, q, K] of stored elements of a float type, cut into spans that cover all keys.

    As long as there is no sign, infinity or NaN, the order of numbers is the order of their bits, and a span
    whose largest bits are 0 needs no second look. Attention weights are such numbers, and half of a causal
    map is such spans.
    """
    known = BITS[dtype]
    bits = raw.view(known.unsigned)
    tops = [bits[:, :, span.start : span.stop].max(axis=2) for span in cuts]
    top = reduce(np.maximum, tops)
    if int(top.max()) >= known.infinity:
        return _of_any(raw, dtype, cuts)
    live = [span for span, highest in zip(cuts, tops, strict=True) if highest.any()]
    bottom = bits.min(axis=2) if len(live) == len(cuts) else np.zeros_like(top)
    total = np.zeros(raw.shape[:2])
    outside: dict[str, Array] = {}
    for span in live:
        values = _widened(raw[:, :, span.start : span.stop], dtype)
        mass = _sum(values) * known.scale
        total += mass
        _add(outside, span.outside, mass)
        for names, start, stop, cells in span.mixed:
            some = values[:, :, start - span.start : stop - span.start]
            _add(outside, names, _sum(some, cells) * known.scale)
    high, low = (_decoded(ends.view(raw.dtype), dtype).copy() for ends in (top, bottom))
    return RowSums(total, high, low, outside)


def _of_any(raw: Array, dtype: str, cuts: Sequence[Span]) -> RowSums:
    """The same of elements with signs, infinities or NaN among them."""
    total = np.zeros(raw.shape[:2])
    outside: dict[str, Array] = {}
    highs, lows = [], []
    for span in cuts:
        values = _decoded(raw[:, :, span.start : span.stop], dtype)
        mass = _sum(values)
        total += mass
        _add(outside, span.outside, mass)
        for names, start, stop, cells in span.mixed:
            some = values[:, :, start - span.start : stop - span.start]
            # 0 times NaN or infinity would be NaN.
            _add(outside, names, _sum(np.where(cells > 0, some, 0)))
        highs.append(values.max(axis=2))
        lows.append(values.min(axis=2))
    return RowSums(total, reduce(np.maximum, highs), reduce(np.minimum, lows), outside)


def _add(outside: dict[str, Array], names: Sequence[str], mass: Array) -> None:
    for name in names:
        outside[name] = outside[name] + mass if name in outside else mass


def _sum(values: Array, cells: Array | None = None) -> Array:
    """The sum of each row [h, q, n], float64: of every value, or of each times its cell [q, n] or [1, n].

    einsum adds several times as fast as np.sum does.
    """
    total = np.zeros(values.shape[:2])
    for start in range(0, values.shape[2], EXACT_KEYS):
        part = values[:, :, start : start + EXACT_KEYS]
        if cells is None:
            total += np.einsum("hqk->hq", part)
        else:
            held = np.broadcast_to(cells[:, start : start + EXACT_KEYS], part.shape[1:])
            total += np.einsum("hqk,qk->hq", part, held)
    return total


def _decoded(raw: Array, dtype: str) -> Array:
    """The numbers that stored elements stand for, good until the next ones are asked for."""
    if DTYPES[dtype].wide == dtype:
        return raw
    values = _room(raw.shape)
    decoder(dtype)(raw, values)
    return values


def _widened(raw: Array, dtype: str) -> Array:
    """Non-negative finite elements as numbers `scale` times too small: it is cheaper to scale the sums."""
    known = BITS[dtype]
    if known.shift is None:
        return _decoded(raw, dtype)
    values = _room(raw.shape)
    wide = values.view(np.uint32)
    # Two plain loops are faster than one that converts as it shifts.
    np.copyto(wide, raw.view(known.unsigned))
    np.left_shift(wide, known.shift, out=wide)
    return values


class _Held(threading.local):
    """Room for the numbers of one span per thread."""

    def __init__(self) -> None:
        self.room = np.empty(0, np.float32)


_HELD = _Held()


def _room(shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)
    if _HELD.room.size < size:
        _HELD.room = np.empty(size, np.float32)
    return _HELD.room[:size].reshape(shape)
