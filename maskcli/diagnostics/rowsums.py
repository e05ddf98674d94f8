"""Sums and extremes of a block of rows, from the bits of its elements and with as few looks at them as can be."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskcli.diagnostics.spans import Span
from maskcli.tensors.dtypes import BITS, DTYPES, decoder

Array = npt.NDArray[Any]

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
    bits are 0 needs no second look. Attention weights are such numbers, and about half of a causal map is such spans.
    """
    known = BITS[dtype]
    bits = raw.view(known.unsigned)
    tops = [bits[:, :, span.start : span.stop].max(axis=2) for span in cuts]
    top = reduce(np.maximum, tops)
    if int(top.max()) >= known.infinity:
        values = _scratch(raw, dtype)
        if values is not raw:
            decoder(dtype)(raw, values)
        return _added(values, cuts, values.max(axis=2), values.min(axis=2), 1.0)
    live = [span for span, each in zip(cuts, tops, strict=True) if each.any()]
    bottom = bits.min(axis=2) if len(live) == len(cuts) else np.zeros_like(top)
    values = _scratch(raw, dtype)
    if values is not raw:
        for span in live:
            _widen(bits[:, :, span.start : span.stop], values[:, :, span.start : span.stop], dtype)
    return _added(values, live, _numbers(top, dtype), _numbers(bottom, dtype), known.scale)


def _added(values: Array, cuts: Sequence[Span], high: Array, low: Array, scale: float) -> RowSums:
    """The sums over spans of values that are `scale` times too small, put together for the rows and for each mask."""
    total = np.zeros(values.shape[:2])
    outside: dict[str, Array] = {}

    def add(name: str, mass: Array) -> None:
        outside[name] = outside[name] + mass if name in outside else mass

    for span in cuts:
        part = values[:, :, span.start : span.stop]
        mass = _sum(part) * scale
        total += mass
        for name in span.outside:
            add(name, mass)
        for names, ignored in span.mixed:
            # By their bits, since 0 times NaN would be NaN.
            mass = _sum(np.bitwise_and(part.view(ignored.dtype), ignored).view(part.dtype)) * scale
            for name in names:
                add(name, mass)
    return RowSums(total, high, low, outside)


def _sum(values: Array) -> Array:
    """The sum of each row [h, q, n], float64; einsum adds several times as fast as np.sum does."""
    total = np.zeros(values.shape[:2])
    for start in range(0, values.shape[2], EXACT_KEYS):
        total += np.einsum("hqk->hq", values[:, :, start : start + EXACT_KEYS])
    return total


def _widen(bits: Array, out: Array, dtype: str) -> None:
    """Non-negative finite elements as float32, `scale` times too small: sums are scaled more cheaply than elements."""
    shift = BITS[dtype].shift
    if shift is None:
        decoder(dtype)(bits, out)
        return
    wide = out.view(np.uint32)
    np.copyto(wide, bits)
    np.left_shift(wide, shift, out=wide)


def _numbers(bits: Array, dtype: str) -> Array:
    """The numbers that bits [h, q] stand for."""
    raw = bits.view(np.dtype(DTYPES[dtype].raw).newbyteorder("="))
    out: Array = np.empty(raw.shape, DTYPES[dtype].wide)
    decoder(dtype)(raw, out)
    return out


class _Held(threading.local):
    """Room for the numbers of one block per thread."""

    def __init__(self) -> None:
        self.room = np.empty(0, np.float32)


_HELD = _Held()


def _scratch(raw: Array, dtype: str) -> Array:
    """Where the numbers of a block go: the block itself where they are stored as they are."""
    if DTYPES[dtype].wide == dtype:
        return raw
    if _HELD.room.size < raw.size:
        _HELD.room = np.empty(raw.size, np.float32)
    return _HELD.room[: raw.size].reshape(raw.shape)
