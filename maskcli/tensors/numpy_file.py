"""Read and write .npy and .npz, without ever unpickling."""

from __future__ import annotations

import io
import json
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from tokenize import TokenError
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors.dtypes import numpy_dtype, unreadable
from maskcli.tensors.limits import MAX_INFLATED, MAX_METADATA, MAX_NPY_HEADER, POSSIBLE, is_possible
from maskcli.tensors.sources import METADATA, Source, Writer, pour
from maskcli.tensors.storage import Handle, InMemory, Refused, Storage, in_file
from maskcli.tensors.tensor import Tensor, TensorFile
from maskcli.tensors.zipped import DAMAGES, archive, data_offset, is_sound, names_in_zip
from maskcli.untrusted import json_object

# Bytes in which a header ends: its magic, its length, its text.
HEAD = MAX_NPY_HEADER + 64
# Bytes of a compressed member that are expanded at a time.
INFLATED_AT_ONCE = 1 << 20
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What numpy raises for a header that is none.
NO_HEADER = (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError, TokenError)


class _Header(NamedTuple):
    """What the header of an array says, and where the elements begin; `raw` is None for no numbers."""

    dtype: str
    raw: np.dtype[Any] | None
    shape: tuple[int, ...]
    fortran: bool
    begin: int
    why_not: str


def holds_npy(handle: Handle, head: bytes) -> bool:
    """Whether the magic bytes of an array come first."""
    return head.startswith(b"\x93NUMPY")


def holds_npz(handle: Handle, head: bytes) -> bool:
    """Whether this is an archive of .npy members."""
    names = names_in_zip(handle, head)
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npy(handle: Handle) -> TensorFile:
    """The one array of a .npy file, named after the file."""
    name = os.path.splitext(os.path.basename(handle.path))[0]
    tensor = _stored(handle, name, 0, handle.size)
    if isinstance(tensor.storage, Refused):
        raise MaskcliError(tensor.storage.reason)
    return TensorFile(handle.path, (tensor,))


def read_npz(handle: Handle) -> TensorFile:
    """The arrays of a .npz file; stored ones are read in place, compressed ones expanded when wanted."""
    with archive(handle) as opened:
        members = opened.infolist()
        inflated = sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED)
        if inflated > MAX_INFLATED:
            raise handle.error(
                f"would expand to {inflated} bytes and at most {MAX_INFLATED} are expanded; "
                "save it with np.savez (not compressed) or as .safetensors"
            )
        told = next((member for member in members if member.filename == f"{METADATA}.npy"), None)
        metadata = {} if told is None else _metadata(opened, told)
        arrays = (member for member in members if not (metadata and member is told))
        tensors = tuple(_member(handle, opened, member) for member in arrays)
    return TensorFile(handle.path, tensors, MappingProxyType(metadata))


def _metadata(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> dict[str, str]:
    """The metadata, a JSON object of texts in an array of one text; none where it holds anything else."""
    if member.file_size > MAX_METADATA:
        return {}
    try:
        held = opened.read(member)
        stream = io.BytesIO(held)
        read_header = HEADERS[np.lib.format.read_magic(stream)]
        shape, _, dtype = read_header(stream, max_header_size=MAX_NPY_HEADER)
        if shape != () or dtype.kind != "U":
            return {}
        metadata = json_object(str(np.frombuffer(held, dtype, 1, stream.tell())[0]), once=True)
    except (*NO_HEADER, *DAMAGES, KeyError):
        return {}
    return metadata if all(isinstance(value, str) for value in metadata.values()) else {}


def _member(handle: Handle, opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    name = member.filename.removesuffix(".npy")
    start = data_offset(handle, member)
    if member.compress_type == zipfile.ZIP_STORED:
        if not is_sound(handle, member, start):
            raise _torn(handle, name)
        return _stored(handle, name, start, min(member.file_size, handle.size - start))
    if member.compress_type != zipfile.ZIP_DEFLATED:
        raise handle.error(f"packs {name[:80]!r} in a way numpy never does; save it with np.savez")
    try:
        with opened.open(member) as stream:
            head = stream.read(HEAD)
    except DAMAGES as error:
        raise _torn(handle, name) from error

    def packed(header: _Header, raw: np.dtype[Any], size: int) -> Storage:
        order: Literal["F", "C"] = "F" if header.fortran else "C"
        return InMemory(
            lambda: _inflated(handle, member, header.begin, size).view(raw).reshape(header.shape, order=order)
        )

    return _array(handle, name, head, member.file_size, packed)


def _inflated(handle: Handle, member: zipfile.ZipInfo, skip: int, size: int) -> Array:
    """`size` bytes of a compressed member, from byte `skip` on."""
    flat = np.empty(size, np.uint8)
    at = 0
    try:
        with archive(handle) as opened, opened.open(member) as stream:
            stream.read(skip)
            while at < size and (block := stream.read(min(INFLATED_AT_ONCE, size - at))):
                flat[at : at + len(block)] = np.frombuffer(block, np.uint8)
                at += len(block)
    except DAMAGES as error:
        raise _torn(handle, member.filename) from error
    if at < size:
        raise _torn(handle, member.filename)
    return flat


def _stored(handle: Handle, name: str, start: int, size: int) -> Tensor:
    """The array whose bytes, `size` with its header, lie in the file as they are."""

    def plain(header: _Header, raw: np.dtype[Any], needed: int) -> Storage:
        shape = header.shape
        faster = (shape[:axis] if header.fortran else shape[axis + 1 :] for axis in range(len(shape)))
        strides = tuple(math.prod(sizes) for sizes in faster)
        return in_file(handle, start + header.begin, math.prod(shape), raw, shape, strides)

    return _array(handle, name, handle.bytes(start, min(size, HEAD)), size, plain)


def _array(
    handle: Handle,
    name: str,
    head: bytes,
    size: int,
    storage: Callable[[_Header, np.dtype[Any], int], Storage],
) -> Tensor:
    """The array whose `size` bytes begin with `head`; `storage` makes its elements, told of their bytes."""
    header = _header(handle, name, head)
    raw, shape = header.raw, header.shape
    if raw is None:
        return Tensor(name, header.dtype, shape, Refused(header.why_not))
    needed, present = math.prod(shape) * raw.itemsize, size - header.begin
    if present < needed:
        raise handle.error(
            f"holds {present} bytes for the array {name[:80]!r} where its shape {list(shape)} "
            f"needs {needed}, so it was cut short; save or copy it again"
        )
    return Tensor(name, header.dtype, shape, storage(header, raw, needed))


def _header(handle: Handle, name: str, head: bytes) -> _Header:
    """The header that the first bytes of an array hold."""
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in HEADERS:
            raise handle.error(
                f"holds {name[:80]!r} in version {version[0]} of the .npy format, expected 1 or 2; "
                "save a plain array of numbers"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran, dtype = HEADERS[version](stream, max_header_size=MAX_NPY_HEADER)
    except NO_HEADER as error:
        raise _torn(handle, name) from error

    if not is_possible(shape):
        said = f"{name[:80]!r} the shape {str(shape)[:80]}"
        raise handle.error(f"gives {said}, expected {POSSIBLE}; save or copy it again")
    sizes = tuple(int(size) for size in shape)
    return _Header(*numpy_dtype(dtype), sizes, bool(fortran), stream.tell(), _why_not(name[:80], dtype))


def _why_not(name: str, dtype: np.dtype[Any]) -> str:
    """The sentence for an array that is no array of numbers."""
    if dtype.hasobject:
        return f"array {name!r} holds pickled Python objects, which are never opened here; save plain numbers"
    if dtype.names:
        fields = str(dtype.names)[:80]
        return f"array {name!r} has fields, {fields}, expected plain numbers; save each by itself"
    return unreadable(name, dtype.name)


def _torn(handle: Handle, name: str) -> MaskcliError:
    what = f"holds no sound array {name[:80]!r}, as when a save was cut short"
    return handle.error(f"{what}; save or copy it again")


def _no_bfloat16(tensors: Mapping[str, Source]) -> str | None:
    for name, source in tensors.items():
        if source.dtype == "bfloat16":
            return f"cannot hold {name!r}, numpy has no bfloat16; use .safetensors or --dtype float32"
    return None


def _not_one(tensors: Mapping[str, Source]) -> str | None:
    if len(tensors) != 1:
        return f"can hold one tensor, not {len(tensors)}; use .npz or .safetensors"
    return _no_bfloat16(tensors)


def _write_npy(path: str, tensors: Mapping[str, Source], metadata: Mapping[str, str]) -> None:
    with open(path, "wb") as file:
        for name, source in tensors.items():
            _write_array(file, name, source)


def _write_npz(path: str, tensors: Mapping[str, Source], metadata: Mapping[str, str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as opened:
        for name, source in tensors.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            with opened.open(member, "w", force_zip64=True) as file:
                _write_array(cast(BinaryIO, file), name, source)
        if metadata:
            text = io.BytesIO()
            np.save(text, np.array(json.dumps(dict(metadata))))
            opened.writestr(zipfile.ZipInfo(f"{METADATA}.npy"), text.getvalue())


def _write_array(file: BinaryIO, name: str, source: Source) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(source.dtype).newbyteorder("<"))
    header = {"descr": descr, "fortran_order": False, "shape": source.shape}
    np.lib.format.write_array_header_1_0(file, header)
    pour(name, source, file)


NPY = Writer(_write_npy, _not_one, one=True)
NPZ = Writer(_write_npz, _no_bfloat16)
