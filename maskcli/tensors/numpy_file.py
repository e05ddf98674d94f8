"""Read .npy and .npz without ever unpickling."""

import io
import math
import os
import warnings
import zipfile
import zlib
from tokenize import TokenError
from typing import Any, BinaryIO, Literal

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors.safetensors_file import MAX_ELEMENTS, MAX_RANK
from maskcli.tensors.storage import Handle, InMemory, Refused, in_file
from maskcli.tensors.tensor import Tensor, TensorFile, numpy_dtype, unreadable
from maskcli.tensors.zipped import archive, data_offset

MAX_INFLATED = 2 * 1024**3
"""Bytes that one compressed member may expand to, and all of them together: it is expanded in memory when read."""
MAX_NPY_HEADER = 10_000
"""Characters of an array header, numpy's own limit: it is parsed as Python literals."""


def read_npy(handle: Handle) -> TensorFile:
    """The one array of a .npy file, named after the file.

    A `<V2` is read as bfloat16: that is what np.save makes of one, and no other type of two anonymous bytes is in use.
    """
    name = os.path.splitext(os.path.basename(handle.path))[0]
    head = io.BytesIO(handle.bytes(0, MAX_NPY_HEADER + 64))
    tensor = _stored(handle, name, head, 0, handle.size)
    if isinstance(tensor.storage, Refused):
        raise MaskcliError(tensor.storage.reason)
    return TensorFile(handle.path, (tensor,))


def read_npz(handle: Handle) -> TensorFile:
    """The arrays of a .npz file; stored members are read in place, compressed ones expanded when first wanted."""
    with archive(handle) as opened:
        members = opened.infolist()
        inflated = sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED)
        if inflated > MAX_INFLATED:
            raise MaskcliError(
                f"{handle.path!r} would expand to {inflated} bytes, expected at most {MAX_INFLATED}: "
                "save it with np.savez (not compressed) or as .safetensors."
            )
        return TensorFile(handle.path, tuple(_member(handle, opened, member) for member in members))


def _member(handle: Handle, opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    name = member.filename.removesuffix(".npy")
    start = data_offset(handle, member)
    if member.compress_type == zipfile.ZIP_STORED:
        head = io.BytesIO(handle.bytes(start, min(member.file_size, MAX_NPY_HEADER + 64)))
        return _stored(handle, name, head, start, min(member.file_size, handle.size - start))
    if member.compress_type != zipfile.ZIP_DEFLATED:
        raise MaskcliError(
            f"{handle.path!r} packs {name[:80]!r} in a way numpy never does: save it with np.savez."
        )
    try:
        with opened.open(member) as stream:
            head = io.BytesIO(stream.read(MAX_NPY_HEADER + 64))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _torn(handle, name) from error
    shape, fortran, dtype = _array_header(handle, name, head)
    known, raw = numpy_dtype(dtype)
    if raw is None:
        return Tensor(name, known, shape, Refused(_why_not(name, dtype)))
    skip, size = head.tell(), math.prod(shape) * raw.itemsize
    _check_size(handle, name, shape, raw, member.file_size - skip)
    order: Literal["F", "C"] = "F" if fortran else "C"
    return Tensor(
        name,
        known,
        shape,
        InMemory(lambda: _inflated(handle, member, skip, size).view(raw).reshape(shape, order=order)),
    )


def _inflated(handle: Handle, member: zipfile.ZipInfo, skip: int, size: int) -> Array:
    """`size` bytes of a compressed member, from byte `skip` on."""
    flat = np.empty(size, np.uint8)
    at = 0
    try:
        with archive(handle) as opened, opened.open(member) as stream:
            stream.read(skip)
            while at < size and (block := stream.read(min(1 << 20, size - at))):
                flat[at : at + len(block)] = np.frombuffer(block, np.uint8)
                at += len(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _torn(handle, member.filename) from error
    if at < size:
        raise _torn(handle, member.filename)
    return flat


def _stored(handle: Handle, name: str, head: io.BytesIO, start: int, size: int) -> Tensor:
    """The array whose bytes lie in the file as they are."""
    shape, fortran, dtype = _array_header(handle, name, head)
    known, raw = numpy_dtype(dtype)
    if raw is None:
        return Tensor(name, known, shape, Refused(_why_not(name, dtype)))
    _check_size(handle, name, shape, raw, size - head.tell())
    strides = [math.prod(shape[:axis] if fortran else shape[axis + 1 :]) for axis in range(len(shape))]
    return Tensor(
        name, known, shape, in_file(handle, start + head.tell(), math.prod(shape), raw, shape, tuple(strides))
    )


def _check_size(handle: Handle, name: str, shape: tuple[int, ...], raw: np.dtype[Any], found: int) -> None:
    expected = math.prod(shape) * raw.itemsize
    if found < expected:
        raise MaskcliError(
            f"{handle.path!r} holds {found} bytes for the array {name[:80]!r} where its shape {list(shape)} "
            f"needs {expected}, so it was cut short: save or copy it again."
        )


def _array_header(handle: Handle, name: str, head: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and type from an array header; `head` then stands at the first element."""
    try:
        version = np.lib.format.read_magic(head)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran, dtype = read(head, max_header_size=MAX_NPY_HEADER)
    except KeyError:
        raise MaskcliError(
            f"{handle.path!r} holds {name[:80]!r} in version {version[0]} of the .npy format, expected 1 or 2: "
            "save a plain array of numbers."
        ) from None
    except (
        ValueError,
        TypeError,
        SyntaxError,
        OverflowError,
        MemoryError,
        RecursionError,
        TokenError,
    ) as error:
        raise _torn(handle, name) from error
    if (
        len(shape) > MAX_RANK
        or min(shape, default=0) < 0
        or math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS
    ):
        raise MaskcliError(
            f"{handle.path!r} gives {name[:80]!r} the shape {str(shape)[:80]}, "
            f"expected at most {MAX_RANK} sizes of at most 2^48 elements: the file is damaged."
        )
    return tuple(int(size) for size in shape), bool(fortran), dtype


def _why_not(name: str, dtype: np.dtype[Any]) -> str:
    """The sentence for an array that is no array of numbers."""
    if dtype.hasobject:
        return f"Array {name[:80]!r} holds pickled Python objects, which are never opened here: save plain numbers."
    if dtype.names:
        return f"Array {name[:80]!r} has fields, {str(dtype.names)[:80]}, expected plain numbers: save each by itself."
    return unreadable(name[:80], dtype.name)


def _torn(handle: Handle, name: str) -> MaskcliError:
    return MaskcliError(
        f"{handle.path!r} holds no sound array {name[:80]!r}, as when a save was cut short: save or copy it again."
    )
