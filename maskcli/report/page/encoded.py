"""Masks and weights as short text: a page holds them, and its viewer reads them back."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.mask import Mask

# A level of a byte each: 0 is exactly 0, the last NaN or infinite, those between lie evenly on a log scale.
LEVELS, NOT_FINITE = 254, 255
# Weights below this share of a map's largest are shown as its smallest.
SPAN = 1e-9


def deflated(values: Array) -> str:
    """The bytes of an array, deflated, as base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 6)).decode()


def runs_of_mask(mask: Mask) -> dict[str, Any]:
    """A mask as its runs: little-endian int32 differences of counts [rows], starts [runs], stops [runs].

    Neighbours differ by little, so that what is deflated is mostly one number again and again.
    """
    parts = np.concatenate([np.diff(mask.pointer), mask.starts, mask.stops]).astype(np.int64)
    return {
        "stored": list(mask.stored),
        "runs": int(mask.starts.size),
        "data": deflated(np.diff(parts, prepend=0).astype("<i4")),
    }


def plane(pixels: Array, scale: tuple[float, float] | None = None) -> dict[str, Any]:
    """Weights [tall, wide] as a byte each: level n is low * (high / low) ** ((n - 1) / 253).

    Of negative values, which no softmax gives, it is the size that is shown. Without a `scale` (low, high) it
    is their own.
    """
    size = np.abs(pixels)
    low, high = scale or scale_of(pixels)
    levels = np.where(np.isfinite(size), _levels(size, low, high), NOT_FINITE).astype(np.uint8)
    tall, wide = pixels.shape
    return {"tall": tall, "wide": wide, "low": low, "high": high, "data": deflated(levels)}


def scale_of(*planes: Array) -> tuple[float, float]:
    """One scale (low, high) for all of these, so that what is equal in two of them has one level."""
    sizes = [size[np.isfinite(size)] for size in map(np.abs, planes)]
    high = max(float(size.max(initial=0.0)) for size in sizes)
    low = min(float(size[size > high * SPAN].min(initial=high)) for size in sizes)
    return low, high


def _levels(size: Array, low: float, high: float) -> Array:
    """Levels 0 to LEVELS of sizes, as float64."""
    if high == low:
        return np.where(size > 0, LEVELS, 0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.log(np.clip(size, low, high) / low) / np.log(high / low)
    rounded: Array = np.where(size > 0, 1 + np.round(share * (LEVELS - 1)), 0)
    return rounded
