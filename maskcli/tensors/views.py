"""Reduced views of large tensors: the maximum of every pixel, so that one bad cell does not vanish."""

from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, pixel_edges
from maskcli.errors import MaskcliError
from maskcli.tensors.tensor import Tensor

CHUNK_ELEMENTS = 2**20


class Zoom(NamedTuple):
    """Which part of a tensor [.., Q, K] is looked at; None is the first of an axis, or all rows and keys."""

    batch: int | None = None
    head: int | None = None
    rows: tuple[int, int] | None = None
    keys: tuple[int, int] | None = None


class View(NamedTuple):
    """The pixels [tall, wide] of a part of a tensor, NaN where it holds NaN, and the rows and keys that it covers."""

    pixels: Array
    rows: tuple[int, int]
    keys: tuple[int, int]
    leading: tuple[int, ...]


def parse_range(text: str, option: str) -> tuple[int, int]:
    """`START:STOP` or one number as a half-open range."""
    first, colon, last = text.partition(":")
    parts = (
        (first, last)
        if colon
        else (first, str(int(first) + 1) if first.isascii() and first.isdigit() else "")
    )
    if not all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts) or int(
        parts[0]
    ) >= int(parts[1]):
        raise MaskcliError(f"{option} {text!r} is no range; write START:STOP, such as {option} 0:16")
    return int(parts[0]), int(parts[1])


def place(tensor: Tensor, zoom: Zoom) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int]]:
    """The leading indices, rows and keys of a part of a tensor of one to four axes; refused when it lies outside."""
    axes = len(tensor.shape)
    if not 1 <= axes <= 4 or 0 in tensor.shape:
        raise MaskcliError(
            f"{tensor.name!r} has the shape {list(tensor.shape)}; only one to four axes can be looked at"
        )
    rows = _within(zoom.rows, tensor.shape[-2] if axes > 1 else 1, "--rows", tensor)
    return _leading(tensor, zoom), rows, _within(zoom.keys, tensor.shape[-1], "--keys", tensor)


def view(tensor: Tensor, zoom: Zoom, tall: int, wide: int) -> View:
    """The maximum over every pixel of a part of a tensor; at most tall x wide pixels."""
    axes = len(tensor.shape)
    leading, rows, keys = place(tensor, zoom)
    row_edges = rows[0] + pixel_edges(rows[1] - rows[0], tall)
    key_edges = keys[0] + pixel_edges(keys[1] - keys[0], wide)
    pixels = np.empty((len(row_edges) - 1, len(key_edges) - 1))
    step = max(1, CHUNK_ELEMENTS // (keys[1] - keys[0]))
    for line, (low, high) in enumerate(zip(row_edges[:-1].tolist(), row_edges[1:].tolist(), strict=True)):
        parts = []
        for start in range(low, high, step):
            index: tuple[int | slice, ...] = (
                (*leading, slice(start, min(start + step, high)), slice(*keys))
                if axes > 1
                else (slice(*keys),)
            )
            part = tensor.read(index).astype(np.float64).reshape(-1, keys[1] - keys[0])
            parts.append(np.maximum.reduceat(part.max(axis=0), key_edges[:-1] - keys[0]))
        pixels[line] = np.max(parts, axis=0)
    return View(pixels, rows, keys, leading)


def _leading(tensor: Tensor, zoom: Zoom) -> tuple[int, ...]:
    """The batch item and head to look at, as far as the tensor has such axes; three axes are batch (or head), rows, keys."""
    sizes = tensor.shape[:-2]
    asked = [("--batch", zoom.batch), ("--head", zoom.head)]
    if len(sizes) == 1:
        asked = [("--batch", zoom.batch)] if zoom.batch is not None else [("--head", zoom.head)]
    for option, value in asked[len(sizes) :]:
        if value not in (None, 0):
            raise MaskcliError(
                f"{option} {value}: {tensor.name!r} has the shape {list(tensor.shape)}, without that axis; leave it out"
            )
    found = []
    for (option, value), size in zip(asked, sizes, strict=False):
        if not 0 <= (value or 0) < size:
            raise MaskcliError(
                f"{option} {value} lies outside {tensor.name!r} of shape {list(tensor.shape)}; pass 0 to {size - 1}"
            )
        found.append(value or 0)
    return tuple(found)


def _within(asked: tuple[int, int] | None, size: int, option: str, tensor: Tensor) -> tuple[int, int]:
    if asked is None:
        return 0, size
    if asked[0] >= size:
        raise MaskcliError(
            f"{option} {asked[0]}:{asked[1]} lies outside {tensor.name!r} of shape {list(tensor.shape)}; pass a part of 0:{size}"
        )
    return asked[0], min(asked[1], size)
