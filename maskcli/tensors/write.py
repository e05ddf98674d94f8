"""Named arrays to a file, row by row, so that a mask larger than the memory can be written."""

import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors.atomic import replacing
from maskcli.tensors.dtypes import DTYPES
from maskcli.tensors.tensor import Tensor

MAX_TORCH = 4 * 1024**3
"""Bytes written as .pt: torch.save wants all of them in memory at once."""
CHUNK = 8 * 1024 * 1024
"""Bytes of a tensor that is copied from one file to another at a time."""

_SAFETENSORS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}


@dataclass(frozen=True, eq=False)
class Source:
    """What to write under one name: a type, a shape, and the elements in order as arrays of any shape and number.

    For bfloat16 the chunks are float32, rounded here to the nearest (ties to even). `chunks` is read once.
    """

    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[Array]


def source_of(tensor: Tensor) -> Source:
    """A tensor of one file as something to write to another."""
    step = max(1, CHUNK // max(1, tensor.row_length * 8))
    starts = range(0, tensor.row_count, step)
    return Source(
        tensor.dtype, tensor.shape, (tensor.rows(low, min(low + step, tensor.row_count)) for low in starts)
    )


def source_from(array: Array) -> Source:
    """A numpy array as something to write."""
    return Source(array.dtype.name, array.shape, (array,))


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Source], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a .safetensors, .npy (one tensor), .npz or .pt file; `metadata` is kept by .safetensors alone.

    An existing file is replaced only when the new one is whole. Raises MaskcliError when the format cannot hold the
    tensors or the place cannot be written.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in WRITERS:
        raise MaskcliError(
            f"{path!r} ends in {suffix!r}, expected one of {', '.join(WRITERS)}: choose one of them."
        )
    for name, source in tensors.items():
        _check(path, suffix, name, source)
    if suffix == ".npy" and len(tensors) != 1:
        raise MaskcliError(f"{path!r} can hold one tensor, not {len(tensors)}: use .npz or .safetensors.")
    if suffix != ".pt":
        _check_room(path, sum(map(_size, tensors.values())))
    with replacing(path) as temporary:
        WRITERS[suffix](temporary, tensors, metadata or {})


def _check_room(path: str, needed: int) -> None:
    """Refuse what the disk has no room for before the first byte, and not after the last."""
    folder = os.path.dirname(os.path.abspath(path))
    free = shutil.disk_usage(folder).free if os.path.isdir(folder) else needed
    if needed > free:
        raise MaskcliError(
            f"{path!r} would take {needed:,} bytes, and {free:,} are free there: write less, or elsewhere."
        )


def _check(path: str, suffix: str, name: str, source: Source) -> None:
    if source.dtype not in _SAFETENSORS:
        raise MaskcliError(
            f"{path!r} cannot hold {name!r} as {source.dtype}, expected one of {', '.join(_SAFETENSORS)}."
        )
    if source.dtype == "bfloat16" and suffix in (".npy", ".npz"):
        raise MaskcliError(
            f"{path!r} cannot hold {name!r}, numpy has no bfloat16: use .safetensors or --dtype float32."
        )
    if name == "__metadata__" and suffix == ".safetensors":
        raise MaskcliError(
            f"{path!r} cannot hold a tensor named {name!r}, that name is taken: choose another."
        )


def _write_safetensors(path: str, tensors: Mapping[str, Source], metadata: Mapping[str, str]) -> None:
    """Widest types first, as the safetensors package does, so that every tensor lies aligned to its elements."""
    ordered = sorted(tensors.items(), key=lambda item: -DTYPES[item[1].dtype].bits)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, source in ordered:
        start, end = end, end + _size(source)
        header[name] = {
            "dtype": _SAFETENSORS[source.dtype],
            "shape": list(source.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, source in ordered:
            _pour(name, source, file)


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


def _write_array(file: BinaryIO, name: str, source: Source) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(source.dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": source.shape}
    )
    _pour(name, source, file)


def _write_torch(path: str, tensors: Mapping[str, Source], metadata: Mapping[str, str]) -> None:
    total = sum(map(_size, tensors.values()))
    if total > MAX_TORCH:
        raise MaskcliError(
            f"A .pt file of {total} bytes would have to fit in memory, expected at most {MAX_TORCH}: use .safetensors."
        )
    import torch

    loaded = {}
    for name, source in tensors.items():
        raw = np.empty(_size(source), np.uint8)
        at = 0
        for block in _blocks(name, source):
            raw[at : at + block.nbytes] = block.view(np.uint8)
            at += block.nbytes
        dtype = getattr(torch, source.dtype)
        flat = torch.from_numpy(raw).view(dtype) if raw.size else torch.empty(0, dtype=dtype)
        loaded[name] = flat.reshape(source.shape)
    with open(path, "wb") as file:
        torch.save(loaded, file)


WRITERS: dict[str, Callable[[str, Mapping[str, Source], Mapping[str, str]], None]] = {
    ".safetensors": _write_safetensors,
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".pt": _write_torch,
}


def _size(source: Source) -> int:
    return math.prod(source.shape) * DTYPES[source.dtype].bits // 8


def _pour(name: str, source: Source, file: BinaryIO) -> None:
    for block in _blocks(name, source):
        file.write(memoryview(block))  # type: ignore[arg-type]


def _blocks(name: str, source: Source) -> Iterator[Array]:
    """The raw elements in order; as many as the shape says, or the caller has made a mistake."""
    left = math.prod(source.shape)
    for chunk in source.chunks:
        block = _encoded(np.ascontiguousarray(chunk).reshape(-1), source.dtype)
        left -= block.size
        if left < 0:
            _miscounted(name, source)
        yield block
    if left:
        _miscounted(name, source)


def _miscounted(name: str, source: Source) -> NoReturn:
    raise ValueError(f"the chunks of {name!r} do not add up to its shape {source.shape}")


def _encoded(flat: Array, dtype: str) -> Array:
    """Elements as they are stored."""
    if dtype == "bfloat16":
        return _bfloat16(flat.astype(np.float32, copy=False))
    with np.errstate(over="ignore", invalid="ignore"):
        return flat.astype(np.dtype(dtype).newbyteorder("<"), copy=False)


def _bfloat16(values: Array) -> Array:
    """The upper halves of float32, rounded to nearest, ties to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    rounded[np.isnan(values)] = 0x7FC0
    return rounded.astype("<u2")
