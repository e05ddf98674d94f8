"""Where the elements of a tensor lie, and how a part of them is fetched without the rest."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors.descriptors import Descriptor
from maskcli.tensors.dtypes import Decoder

# Bytes decoded at a time: small enough for the cache, large enough that two threads seldom wait for each
# other.
BLOCK = 1024 * 1024
# Bytes read at once to pick elements from: more would show in the memory, less would be many small reads.
SPAN = 8 * 1024 * 1024
# Bytes between two wanted elements from which on reading each by itself is faster than reading all between.
SPARSE = 16 * 1024
# The same, as the share of an axis's elements that are wanted.
FEW = 0.25
# Bytes of a page of memory, as most systems have them.
PAGE = 4096

# The positions that are wanted of each axis, none of them negative.
Ranges = Sequence[range]


class Storage(Protocol):
    """Raw elements, of which a part can be fetched."""

    def gather(self, ranges: Ranges) -> Array:
        """The raw elements at these positions of each axis."""

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Decode rows `start` to `stop`, leading axes flattened, into `out` [stop - start, K]."""


@dataclass(frozen=True)
class Refused:
    """Why a tensor that has a name and a shape cannot be read."""

    reason: str


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
        return self.array[_slices(ranges)]

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Decode rows into `out`."""
        array = self.array
        if array.ndim < 2 or array.flags.c_contiguous:
            array = array.reshape(-1, out.shape[1])
        pieces = boxes(array.shape[:-1], start, stop)
        decode_planes((array[_slices(box)] for box in pieces), out, decode)


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
        keys = range(self.shape[-1])
        pieces = boxes(self.shape[:-1], start, stop)
        decode_planes((self.compute([*box, keys]) for box in pieces), out, decode)


def boxes(leading: tuple[int, ...], start: int, stop: int) -> Iterator[list[range]]:
    """Positions on each leading axis that together are the rows `start` to `stop`, in order."""
    if len(leading) < 2:
        yield [range(start, stop)][: len(leading)]
        return

    inner = math.prod(leading[1:])
    for index in range(start // inner, -(-stop // inner)):
        low = index * inner
        for box in boxes(leading[1:], max(start - low, 0), min(stop - low, inner)):
            yield [range(index, index + 1), *box]


def decode_planes(planes: Iterator[Array], out: Array, decode: Decoder) -> None:
    """Decode rows, plane by plane and in blocks, so that what strides make a copy of stays small."""
    at = 0
    for plane in planes:
        rows = plane.reshape(-1, out.shape[1])
        step = max(1, BLOCK // max(1, rows.shape[1] * rows.itemsize))
        for low in range(0, len(rows), step):
            piece = np.ascontiguousarray(rows[low : low + step])
            decode(piece, out[at : at + len(piece)])
            at += len(piece)


class Handle:
    """A file that many threads may read at once; closed when nothing refers to it any more."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = Descriptor(path)
        self._lock = threading.Lock()

    @cached_property
    def size(self) -> int:
        """Bytes in the file."""
        return self._file.size

    def error(self, what: str) -> MaskcliError:
        """What is wrong with this file, as a sentence that begins with its path."""
        return MaskcliError(f"{self.path!r} {what}")

    def bytes(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer where the file ends."""
        if offset < 0:
            return b""
        buffer = bytearray(max(0, min(count, self.size - offset)))
        return memoryview(buffer)[: self._read(memoryview(buffer), offset)].tobytes()

    def fill(self, out: Array, offset: int) -> None:
        """Fill a contiguous array with the bytes from `offset` on."""
        if not out.size:
            return
        view = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        if self._read(view, offset) < len(view):
            raise self.error("became shorter while it was read; leave it as it is and run again")

    def _read(self, view: memoryview, offset: int) -> int:
        done = 0
        try:
            while done < len(view):
                count = self._read_once(view[done:], offset + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            why = f"cannot be read ({error.strerror}); check the disk or copy the file again"
            raise self.error(why) from error
        return done

    def _read_once(self, view: memoryview, offset: int) -> int:
        with self._file.used() as number:
            if hasattr(os, "preadv"):
                return os.preadv(number, [view], offset)
            with self._lock:
                os.lseek(number, offset, os.SEEK_SET)
                data = os.read(number, len(view))
        view[: len(data)] = data
        return len(data)


def on_a_page(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """An array to read into, whose bytes begin where a page of memory does.

    Large arrays of numpy begin 16 bytes behind. Tensors often begin with a page of their file, and with both,
    the kernel's copy was 4 times slower (2.2 instead of 9 GB/s on a Zen 3, wherever an array began 1 to 31
    bytes behind its source).
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
        out: Array = np.empty([len(positions) for positions in ranges], self.raw)
        if out.size:
            self._gather(list(ranges), self.offset, out)
        return out

    def _gather(self, ranges: list[range], offset: int, out: Array) -> None:
        """Fill `out` with these positions of the last axes, in the part that begins at byte `offset`."""
        if not ranges:
            self.handle.fill(out, offset)
            return

        first, stride = ranges[0], self.strides[-len(ranges)]
        if self._is_one_piece(ranges):
            self.handle.fill(out, offset + min(first[0], first[-1]) * stride)
            if first.step < 0:
                out[:] = out[::-1].copy()
            return

        apart = stride * abs(first.step)
        sparse = apart > SPARSE and self._wanted(ranges) < FEW
        if apart > SPAN or sparse:
            for at, index in enumerate(first):
                inner = out[at : at + 1].reshape(out.shape[1:])
                self._gather(ranges[1:], offset + index * stride, inner)
            return

        group = SPAN // apart
        for low in range(0, len(first), group):
            part = first[low : low + group]
            self._pick([part, *ranges[1:]], offset, out[low : low + len(part)])

    def _is_one_piece(self, ranges: list[range]) -> bool:
        """Whether these positions of the last axes lie one after the other."""
        if abs(ranges[0].step) != 1:
            return False
        inner = zip(ranges[1:], self.shape[len(self.shape) - len(ranges) + 1 :], strict=True)
        return all(positions == range(size) for positions, size in inner)

    def _wanted(self, ranges: list[range]) -> float:
        """The share of elements that is wanted of those from the first to the last."""
        inner = math.prod(self.shape[len(self.shape) - len(ranges) + 1 :])
        return math.prod(len(positions) for positions in ranges[1:]) / inner / abs(ranges[0].step)

    def _pick(self, ranges: list[range], offset: int, out: Array) -> None:
        """Read from the lowest to the highest position of the first axis, and pick from what was read."""
        first, axis = ranges[0], len(self.shape) - len(ranges)
        base, top = min(first[0], first[-1]), max(first[0], first[-1])
        span: Array = np.empty((top - base + 1, *self.shape[axis + 1 :]), self.raw)
        self.handle.fill(span, offset + base * self.strides[axis])
        within = range(first.start - base, first.stop - base, first.step)
        out[:] = span[_slices([within, *ranges[1:]])]

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Read rows: directly when nothing is to be decoded, else through a block of scratch per thread."""
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
    """Elements of a file whose axes are in another order, or part of a larger array, or one of them for many.

    `base` is an array in the order of the file. For each axis of `shape`, `axes` has the axis of `base` that
    it runs along, None where one element stands for all; on each axis of `base`, indices begin at `start` and
    go on by `step`.
    """

    base: InFile
    shape: tuple[int, ...]
    axes: tuple[int | None, ...]
    start: tuple[int, ...]
    step: tuple[int, ...]

    def gather(self, ranges: Ranges) -> Array:
        """The raw elements at these positions."""
        wanted = [range(0)] * len(self.start)
        for axis, positions in zip(self.axes, ranges, strict=True):
            if axis is None:
                continue
            first, step = self.start[axis], self.step[axis]
            low, high = first + positions.start * step, first + positions.stop * step
            wanted[axis] = range(low, high, positions.step * step)

        read = self.base.gather(wanted).transpose([axis for axis in self.axes if axis is not None])
        read = read[tuple(None if axis is None else slice(None) for axis in self.axes)]
        return np.broadcast_to(read, [len(positions) for positions in ranges])

    def rows(self, start: int, stop: int, out: Array, decode: Decoder) -> None:
        """Decode rows into `out`, those of one plane at a time."""
        keys = range(out.shape[1])
        pieces = boxes(self.shape[:-1], start, stop)
        decode_planes((self.gather([*box, keys]) for box in pieces), out, decode)


def in_file(
    handle: Handle,
    begin: int,
    count: int,
    raw: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int = 0,
) -> Storage:
    """The elements at `offset` + index x `strides` of the `count` that lie at byte `begin` of a file.

    All between the first and the last are read where they are no part of an array, as those of windows that
    overlap are not. Raises ValueError where the last lies behind all others.
    """
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= count:
        raise ValueError(f"strides {strides} of shape {shape} reach element {last} of {count}")
    if _is_dense(shape, strides):
        return InFile(handle, begin + offset * raw.itemsize, shape, raw)

    along = sorted(_moving(shape, strides), key=lambda axis: -strides[axis])
    sizes, start, steps = list[int](), list[int](), list[int]()
    outer, rest = count, offset
    for axis in along:
        # Elements from one index of an axis of the base to its next; a step over its last axis is taken in
        # reading.
        width, step = (1, strides[axis]) if axis == along[-1] else (strides[axis], 1)
        first, rest = divmod(rest, width)
        size, uneven = divmod(outer, width)
        overlaps = uneven and axis != along[0]
        if overlaps or first + (shape[axis] - 1) * step >= size:
            return _overlapping(handle, begin + offset * raw.itemsize, raw, shape, strides)
        sizes.append(size)
        start.append(first)
        steps.append(step)
        outer = width

    base = InFile(handle, begin + rest * raw.itemsize, tuple(sizes), raw)
    axes = tuple(along.index(axis) if axis in along else None for axis in range(len(shape)))
    return Strided(base, shape, axes, tuple(start), tuple(steps))


def _overlapping(
    handle: Handle, begin: int, raw: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...]
) -> InMemory:
    """Elements of any strides, read with all between them when the first is wanted."""

    def load() -> Array:
        last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        room: Array = np.empty(last + 1, raw)
        handle.fill(room, begin)
        steps = [stride * raw.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(room, shape, steps, writeable=False)

    return InMemory(load)


def _moving(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """The axes along which elements differ in where they lie."""
    return [axis for axis, size in enumerate(shape) if size > 1 and strides[axis]]


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements of these strides lie one after the other, last axis fastest."""
    dense = (math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return 0 in shape or all(
        size == 1 or stride == width for size, stride, width in zip(shape, strides, dense, strict=True)
    )


def _slices(ranges: Ranges) -> tuple[slice, ...]:
    return tuple(map(_as_slice, ranges))


def _as_slice(positions: range) -> slice:
    """A range of positions, none negative, as a slice."""
    if not positions:
        return slice(0, 0)
    stop = None if positions.stop < 0 else positions.stop
    return slice(positions.start, stop, positions.step)
