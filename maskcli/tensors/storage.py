"""Where the elements of a tensor lie, and how a part of them is fetched without the rest."""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors.dtypes import Decoder

BLOCK = 1024 * 1024
"""Bytes decoded at a time: small enough for the cache, large enough that two threads seldom wait for each other."""
SPAN = 8 * 1024 * 1024
"""Bytes read at once to pick elements from: more would show in the memory, less would be many small reads."""
SPARSE = 16 * 1024
"""Bytes between two wanted elements from which on reading each by itself is faster than reading all between."""
PAGE = 4096
"""Bytes of a page of memory, as most systems have them."""

Ranges = Sequence[range]


class Storage(Protocol):
    """Raw elements, of which a part can be fetched."""

    def gather(self, ranges: Ranges) -> Array:
        """The raw elements at these positions of each axis."""

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Decode rows `start` to `stop`, the leading axes flattened, into `out` of shape [stop - start, K]."""


@dataclass(frozen=True)
class Refused:
    """A tensor that has a name and a shape and cannot be read: says why."""

    reason: str

    def gather(self, ranges: Ranges) -> Array:
        """Raise the reason."""
        raise MaskcliError(self.reason)

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Raise the reason."""
        raise MaskcliError(self.reason)


@dataclass(frozen=True, eq=False)
class InMemory:
    """Elements that are an array already, or become one when first wanted; strides are free."""

    load: Callable[[], Array]

    @cached_property
    def array(self) -> Array:
        """The raw elements in the tensor's shape."""
        return self.load()

    def gather(self, ranges: Ranges) -> Array:
        """A view on the raw elements at these positions."""
        return self.array[tuple(_as_slice(each) for each in ranges)]

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Decode rows into `out`, block by block where the strides ask for a copy."""
        array = self.array
        if array.ndim < 2 or array.flags.c_contiguous:
            array = array.reshape(-1, out.shape[1])
        at = 0
        for box in _boxes(array.shape[:-1], start, stop):
            part = array[tuple(_as_slice(each) for each in box)].reshape(-1, out.shape[1])
            step = max(1, BLOCK // max(1, part.shape[1] * part.itemsize))
            for low in range(0, len(part), step):
                piece = part[low : low + step]
                decode(np.ascontiguousarray(piece), out[at + low : at + low + len(piece)])
            at += len(part)


@dataclass(frozen=True, eq=False)
class Computed:
    """Elements that are computed when they are wanted, and not kept: as large as one likes."""

    shape: tuple[int, ...]
    compute: Callable[[Ranges], Array]

    def gather(self, ranges: Ranges) -> Array:
        """The elements at these positions."""
        return self.compute(ranges)

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Compute rows into `out`, as many at a time as lie beside each other."""
        at = 0
        for box in _boxes(self.shape[:-1], start, stop):
            part = self.compute([*box, range(self.shape[-1])]).reshape(-1, out.shape[1])
            decode(np.ascontiguousarray(part), out[at : at + len(part)])
            at += len(part)


def _boxes(leading: tuple[int, ...], start: int, stop: int) -> Iterator[list[range]]:
    """Positions on each leading axis that together are the rows `start` to `stop`, in order."""
    if len(leading) < 2:
        yield [range(start, stop)][: len(leading)]
        return
    each = math.prod(leading[1:])
    for index in range(start // each, -(-stop // each)):
        low = index * each
        for box in _boxes(leading[1:], max(start - low, 0), min(stop - low, each)):
            yield [range(index, index + 1), *box]


class Handle:
    """An open file that many threads may read at once; closed when nothing refers to it any more."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        )
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    @cached_property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self.descriptor).st_size

    def bytes(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer where the file ends."""
        buffer = bytearray(max(0, min(count, self.size - offset)))
        return memoryview(buffer)[: self._read(memoryview(buffer), offset)].tobytes()

    def fill(self, out: Array, offset: int) -> None:
        """Fill a contiguous array with the bytes from `offset` on."""
        view = memoryview(out.reshape(-1).view(np.uint8)) if out.size else memoryview(b"")  # type: ignore[arg-type]
        if self._read(view, offset) < len(view):
            raise MaskcliError(
                f"{self.path!r} became shorter while it was read, expected it to stay as it is: run again."
            )

    def _read(self, view: memoryview, offset: int) -> int:
        done = 0
        try:
            while done < len(view):
                count = self._read_once(view[done:], offset + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            raise MaskcliError(
                f"{self.path!r} cannot be read ({error.strerror}): check the disk or copy the file again."
            ) from error
        return done

    def _read_once(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.descriptor, [view], offset)
        with self._lock:
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            data = os.read(self.descriptor, len(view))
        view[: len(data)] = data
        return len(data)


def on_a_page(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """An array to read into, whose bytes begin where a page of memory does.

    Large arrays of numpy begin 16 bytes behind. Tensors often begin with a page of their file, and with both, the kernel's
    copy was 4 times slower (2.2 instead of 9 GB/s on a Zen 3, wherever an array began 1 to 31 bytes behind its source).
    """
    count = math.prod(shape) * dtype.itemsize
    room = np.empty(count + PAGE, np.uint8)
    start = -room.ctypes.data % PAGE
    return room[start : start + count].view(dtype).reshape(shape)


class _Scratch(threading.local):
    """One block of raw bytes per thread."""

    def __init__(self) -> None:
        self.block = on_a_page((BLOCK,), np.dtype(np.uint8))


_SCRATCH = _Scratch()


@dataclass(frozen=True, eq=False)
class InFile:
    """Elements that lie in a file one after the other, last axis fastest; only what is asked for is read."""

    handle: Handle
    offset: int
    shape: tuple[int, ...]
    raw: np.dtype[np.generic]
    strides: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [self.raw.itemsize * math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        object.__setattr__(self, "strides", tuple(sizes))

    def gather(self, ranges: Ranges) -> Array:
        """The raw elements at these positions, from reads of bounded size."""
        out: Array = np.empty([len(each) for each in ranges], self.raw)
        if out.size:
            self._gather(list(ranges), self.offset, out)
        return out

    def _gather(self, ranges: list[range], offset: int, out: Array) -> None:
        axis = len(self.shape) - len(ranges)
        inner = list(zip(ranges, self.shape[axis:], strict=True))[1:]
        if not ranges or (abs(ranges[0].step) == 1 and all(each == range(size) for each, size in inner)):
            low = min(ranges[0][0], ranges[0][-1]) if ranges else 0
            self.handle.fill(out, offset + low * (self.strides[axis] if ranges else 0))
            if ranges and ranges[0].step < 0:
                out[:] = out[::-1].copy()
            return
        first, stride = ranges[0], self.strides[axis]
        group = SPAN // (stride * abs(first.step))
        wanted = (
            math.prod(len(each) for each, _ in inner) / math.prod(size for _, size in inner) / abs(first.step)
        )
        if group == 0 or (stride * abs(first.step) > SPARSE and wanted < 0.25):
            for at, index in enumerate(first):
                self._gather(ranges[1:], offset + index * stride, out[at : at + 1].reshape(out.shape[1:]))
            return
        for low in range(0, len(first), group):
            part = first[low : low + group]
            base, top = min(part[0], part[-1]), max(part[0], part[-1])
            span: Array = np.empty((top - base + 1, *self.shape[axis + 1 :]), self.raw)
            self.handle.fill(span, offset + base * stride)
            steps = [
                range(part[0] - base, part[-1] - base + (1 if part.step > 0 else -1), part.step),
                *ranges[1:],
            ]
            out[low : low + len(part)] = span[tuple(_as_slice(each) for each in steps)]

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Read rows into `out`: directly when nothing is to be decoded, else through a block of scratch per thread."""
        length = out.shape[1]
        offset = self.offset + start * length * self.raw.itemsize
        if out.dtype == self.raw:
            self.handle.fill(out, offset)
            return
        flat = out.reshape(-1)
        scratch = _SCRATCH.block.view(self.raw)
        for low in range(0, flat.size, scratch.size):
            piece = flat[low : low + scratch.size]
            raw = scratch[: piece.size]
            self.handle.fill(raw, offset + low * self.raw.itemsize)
            decode(raw, piece)


@dataclass(frozen=True, eq=False)
class Strided:
    """Elements of a file whose axes are in another order, or that are part of a larger array, or one of them for many.

    `base` is an array in the order of the file. For each axis of `shape`, `axes` has the axis of `base` that it runs along,
    None where one element stands for all; on each axis of `base`, indices begin at `start` and go on by `step`.
    """

    base: InFile
    shape: tuple[int, ...]
    axes: tuple[int | None, ...]
    start: tuple[int, ...]
    step: tuple[int, ...]

    def gather(self, ranges: Ranges) -> Array:
        """The raw elements at these positions."""
        wanted = [range(0)] * len(self.start)
        for axis, each in zip(self.axes, ranges, strict=True):
            if axis is not None:
                first, step = self.start[axis], self.step[axis]
                wanted[axis] = range(first + each.start * step, first + each.stop * step, each.step * step)
        found = self.base.gather(wanted).transpose([axis for axis in self.axes if axis is not None])
        found = found[tuple(None if axis is None else slice(None) for axis in self.axes)]
        return np.broadcast_to(found, [len(each) for each in ranges])

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Decode rows into `out`, those of one plane at a time."""
        at = 0
        for box in _boxes(self.shape[:-1], start, stop):
            part = self.gather([*box, range(out.shape[1])]).reshape(-1, out.shape[1])
            decode(np.ascontiguousarray(part), out[at : at + len(part)])
            at += len(part)


def in_file(
    handle: Handle,
    begin: int,
    count: int,
    raw: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int = 0,
) -> InFile | Strided:
    """The elements at `offset` + index x `strides` (in elements) of the `count` ones that lie at byte `begin` of a file.

    Raises ValueError where they are no part of an array, as those of windows that overlap are not.
    """
    along = [axis for axis, size in enumerate(shape) if size > 1 and strides[axis]]
    along.sort(key=lambda axis: -strides[axis])
    if 0 in shape or all(
        strides[axis] == math.prod(shape[axis + 1 :]) for axis, size in enumerate(shape) if size > 1
    ):
        return InFile(handle, begin + offset * raw.itemsize, shape, raw)
    # Elements from one index of an axis of the base to its next; a step over its last axis is taken in reading.
    widths = [*(strides[axis] for axis in along[:-1]), *([1] if along else [])]
    sizes = [whole // width for whole, width in zip([count, *widths], widths, strict=False)]
    start, rest = [], offset
    for width in widths:
        first, rest = divmod(rest, width)
        start.append(first)
    step = [*(1 for _ in along[1:]), *(strides[axis] for axis in along[-1:])]
    last = [first + (shape[axis] - 1) * each for first, axis, each in zip(start, along, step, strict=True)]
    if any(at >= size for at, size in zip(last, sizes, strict=True)) or any(
        a % b for a, b in pairwise(widths)
    ):
        raise ValueError(f"strides {strides} of shape {shape} are no part of an array of {count} elements")
    base = InFile(handle, begin + rest * raw.itemsize, tuple(sizes), raw)
    axes = tuple(along.index(axis) if axis in along else None for axis in range(len(shape)))
    return Strided(base, shape, axes, tuple(start), tuple(step))


def _as_slice(each: range) -> slice:
    """A range of positions, none negative, as a slice."""
    if len(each) == 0:
        return slice(0, 0)
    return slice(each.start, None if each.stop < 0 else each.stop, each.step)
