"""Reduced views of large tensors: the maximum of every pixel, so that one bad cell does not vanish."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, pixel_edges
from maskcli.errors import MaskcliError
from maskcli.tensors.tensor import Tensor

# Elements read at a time.
CHUNK_ELEMENTS = 2**20
_RANGE = re.compile(r"([0-9]{1,15})(?::([0-9]{1,15}))?")


class Zoom(NamedTuple):
    """Which part of a tensor [.., Q, K] is looked at; None is the first of an axis, or all rows and keys."""

    batch: int | None = None
    head: int | None = None
    rows: tuple[int, int] | None = None
    keys: tuple[int, int] | None = None


class View(NamedTuple):
    """The pixels [tall, wide] of a part of a tensor, NaN where it holds NaN, and the rows and keys of it."""

    pixels: Array
    rows: tuple[int, int]
    keys: tuple[int, int]
    leading: tuple[int, ...]


def parse_range(text: str, option: str) -> tuple[int, int]:
    """`START:STOP` or one number as a half-open range."""
    match = _RANGE.fullmatch(text)
    start = int(match[1]) if match else 0
    stop = int(match[2] or start + 1) if match else 0
    if start >= stop:
        raise MaskcliError(f"{option} {text!r} is no range; write START:STOP, such as {option} 0:16")
    return start, stop


def place(tensor: Tensor, zoom: Zoom) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int]]:
    """The leading indices, rows and keys of a part of a tensor of one to four axes."""
    axes = len(tensor.shape)
    if not 1 <= axes <= 4 or 0 in tensor.shape:
        raise MaskcliError(f"{_described(tensor)}; only one to four axes can be looked at")
    rows = _within(zoom.rows, tensor.shape[-2] if axes > 1 else 1, "--rows", tensor)
    return _leading(tensor, zoom), rows, _within(zoom.keys, tensor.shape[-1], "--keys", tensor)


def view(tensor: Tensor, zoom: Zoom, tall: int, wide: int) -> View:
    """The maximum over every pixel of a part of a tensor; at most tall x wide pixels."""
    leading, rows, keys = place(tensor, zoom)
    length = keys[1] - keys[0]
    row_edges = (rows[0] + pixel_edges(rows[1] - rows[0], tall)).tolist()
    key_starts = pixel_edges(length, wide)[:-1]
    pixels = np.empty((len(row_edges) - 1, len(key_starts)))
    step = max(1, CHUNK_ELEMENTS // length)
    for line, (low, high) in enumerate(pairwise(row_edges)):
        maxima = []
        for start in range(low, high, step):
            index: tuple[int | slice, ...] = (*leading, slice(start, min(start + step, high)), slice(*keys))
            part = tensor.read(index[-len(tensor.shape) :]).astype(np.float64).reshape(-1, length)
            maxima.append(np.maximum.reduceat(part.max(axis=0), key_starts))
        pixels[line] = np.max(maxima, axis=0)
    return View(pixels, rows, keys, leading)


def _leading(tensor: Tensor, zoom: Zoom) -> tuple[int, ...]:
    """The batch item and head to look at, as far as there are such axes; the first of three is either."""
    sizes = tensor.shape[:-2]
    asked = [("--sample", zoom.batch), ("--head", zoom.head)]
    if len(sizes) == 1 and zoom.batch is None:
        asked.reverse()
    for option, value in asked[len(sizes) :]:
        if value not in (None, 0):
            raise MaskcliError(f"{option} {value}: {_described(tensor)}, without that axis; leave it out")

    picked = [value or 0 for _, value in asked[: len(sizes)]]
    for (option, _), value, size in zip(asked, picked, sizes, strict=False):
        if not 0 <= value < size:
            raise MaskcliError(f"{option} {value} lies outside: {_described(tensor)}; pass 0 to {size - 1}")
    return tuple(picked)


def _within(asked: tuple[int, int] | None, size: int, option: str, tensor: Tensor) -> tuple[int, int]:
    if asked is None:
        return 0, size
    start, stop = asked
    if start >= size:
        raise MaskcliError(
            f"{option} {start}:{stop} lies outside: {_described(tensor)}; pass a part of 0:{size}"
        )
    return start, min(stop, size)


def _described(tensor: Tensor) -> str:
    return f"{tensor.name!r} has the shape {list(tensor.shape)}"
