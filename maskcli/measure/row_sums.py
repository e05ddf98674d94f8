"""Sums and extremes of a block of rows, from the bits of its elements and with as few looks at them as can be."""

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

# Keys added up in float32 before float64 takes over, so that rounding stays near 1e-6 of a row's sum however long the row is.
EXACT_KEYS = 4096


class RowSums(NamedTuple):
    """Per row of a block, each [h, q]: the sum, the largest and smallest element, and the mass outside of each mask.

    Masks that a span names are in `outside`, unless only zeros lie there.
    """

    total: Array
    high: Array
    low: Array
    outside: dict[str, Array]


def row_sums(raw: Array, dtype: str, cuts: Sequence[Span]) -> RowSums:
    """What lies in rows [h, q, K] of stored elements of a float type, cut into spans that cover all keys.

    As long as there is no sign, infinity or NaN, the order of numbers is the order of their bits, and a span whose largest
    bits are 0 needs no second look. Attention weights are such numbers, and half of a causal map is such spans.
    """
    known = BITS[dtype]
    bits = raw.view(known.unsigned)
    tops = [bits[:, :, span.start : span.stop].max(axis=2) for span in cuts]
    top = reduce(np.maximum, tops)
    plain = int(top.max()) < known.infinity
    live = [span for span, each in zip(cuts, tops, strict=True) if not plain or each.any()]
    total = np.zeros(raw.shape[:2])
    outside: dict[str, Array] = {}
    highs, lows = [], []

    def add(names: tuple[str, ...], mass: Array) -> None:
        for name in names:
            outside[name] = outside[name] + mass if name in outside else mass

    for span in live:
        part = raw[:, :, span.start : span.stop]
        values = _widened(part, dtype) if plain else _decoded(part, dtype)
        scale = known.scale if plain else 1.0
        mass = _sum(values) * scale
        total += mass
        add(span.outside, mass)
        for names, start, stop, cells in span.mixed:
            some = values[:, :, start - span.start : stop - span.start]
            # 0 times NaN or infinity would be NaN.
            add(names, _sum(some, cells) * scale if plain else _sum(np.where(cells > 0, some, 0)))
        if not plain:
            highs.append(values.max(axis=2))
            lows.append(values.min(axis=2))
    if not plain:
        return RowSums(total, reduce(np.maximum, highs), reduce(np.minimum, lows), outside)
    bottom = bits.min(axis=2) if len(live) == len(cuts) else np.zeros_like(top)
    return RowSums(
        total,
        _decoded(top.view(raw.dtype), dtype).copy(),
        _decoded(bottom.view(raw.dtype), dtype).copy(),
        outside,
    )


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
            total += np.einsum(
                "hqk,qk->hq", part, np.broadcast_to(cells[:, start : start + EXACT_KEYS], part.shape[1:])
            )
    return total


def _decoded(raw: Array, dtype: str) -> Array:
    """The numbers that stored elements stand for, good until the next ones are asked for."""
    if DTYPES[dtype].wide == dtype:
        return raw
    values = _room(raw.shape)
    decoder(dtype)(raw, values)
    return values


def _widened(raw: Array, dtype: str) -> Array:
    """Non-negative finite elements as numbers that are `scale` times too small: sums are scaled more cheaply than elements."""
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
