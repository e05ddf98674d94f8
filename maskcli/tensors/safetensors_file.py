"""Read .safetensors: the header is checked here, the elements are read at their offsets.

The safetensors package is not asked: its numpy front cannot read bfloat16 and float8, and it accepts headers that are
harmless to it and not to others (duplicate names, 400,000 tensors, a shape of [0, 2^60]).
Format: https://huggingface.co/docs/safetensors/index#format
"""

import json
import math
from types import MappingProxyType
from typing import Any

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.tensors.dtypes import DTYPES
from maskcli.tensors.storage import Handle, InFile, Refused, Storage
from maskcli.tensors.tensor import Tensor, TensorFile, unreadable

MAX_HEADER = 16 * 1024 * 1024
"""Bytes: an entry takes about 120, so this is 100,000 tensors; parsing it takes a few tenths of a second."""
MAX_TENSORS = 100_000
"""Tensors in a file: the largest public checkpoints have some ten thousand per shard."""
MAX_NAME = 1024
"""Characters of a name: more is not a name, and a table has to show it."""
MAX_RANK = 32
"""Axes: what every numpy can hold."""
MAX_ELEMENTS = 2**48
"""Elements of a shape, zeros counted as ones: no file holds more, and no product of sizes overflows."""

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "C64": "complex64",
}
_SUB_BYTE = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


def read_safetensors(handle: Handle) -> TensorFile:
    """The tensors of a .safetensors file, in the order of their data."""
    header, start = _header(handle)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(handle, "its __metadata__ is not a map of strings")
    if len(header) > MAX_TENSORS:
        raise MaskcliError(
            f"{handle.path!r} names {len(header)} tensors, expected at most {MAX_TENSORS}: split the file."
        )
    entries = sorted(
        (_entry(handle, name, fields) for name, fields in header.items()), key=lambda each: each[3:]
    )
    end = 0
    for name, _, _, low, high in entries:
        if low != end:
            raise _damaged(handle, f"the data of {name!r} begins at byte {low} where byte {end} was expected")
        end = high
    size = handle.size - start
    if end != size:
        what = "it was cut short" if end > size else "something was added to it"
        raise MaskcliError(
            f"{handle.path!r} holds {size} bytes of data where its header says {end}, so {what}: get the file again."
        )
    tensors = tuple(_tensor(handle, start, *entry) for entry in entries)
    return TensorFile(handle.path, tensors, MappingProxyType(metadata))


def _header(handle: Handle) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(handle.bytes(0, 8), "little")
    if handle.size < 10 or length > handle.size - 8:
        raise _damaged(
            handle, f"its {handle.size} bytes have no room for the header that its first 8 bytes announce"
        )
    if length > MAX_HEADER:
        raise MaskcliError(
            f"{handle.path!r} has a header of {length} bytes, expected at most {MAX_HEADER}: split the file."
        )
    try:
        header = json.loads(handle.bytes(8, length).decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _damaged(handle, "its header is not JSON with each name once") from error
    if not isinstance(header, dict):
        raise _damaged(handle, "its header is not a JSON object")
    return header, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name occurs twice")
    return fields


def _entry(handle: Handle, name: str, fields: Any) -> tuple[str, str, tuple[int, ...], int, int]:
    """Name, type, shape and byte range of one tensor, each checked."""
    if len(name) > MAX_NAME:
        raise MaskcliError(
            f"{handle.path!r} has a tensor name of {len(name)} characters, expected at most {MAX_NAME}."
        )
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= fields.keys():
        raise _damaged(handle, f"the entry of {name!r} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    bits = _SUB_BYTE.get(dtype) if isinstance(dtype, str) else None
    if isinstance(dtype, str) and dtype in _DTYPES:
        bits = DTYPES[_DTYPES[dtype]].bits
    if bits is None:
        raise MaskcliError(
            f"{handle.path!r} gives {name!r} the type {str(dtype)[:40]!r}, expected one of {', '.join(_DTYPES)}."
        )
    if (
        not _are_sizes(shape)
        or len(shape) > MAX_RANK
        or math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS
    ):
        raise _damaged(
            handle,
            f"the shape of {name!r} is {str(shape)[:80]}, expected at most {MAX_RANK} sizes of at most 2^48 elements",
        )
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(
            handle, f"the data_offsets of {name!r} are {str(offsets)[:80]}, expected two ascending positions"
        )
    if math.prod(shape) * bits != (offsets[1] - offsets[0]) * 8:
        raise _damaged(
            handle,
            f"{name!r} of shape {shape} and type {dtype} does not fill its {offsets[1] - offsets[0]} bytes",
        )
    return name, dtype, tuple(shape), offsets[0], offsets[1]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _tensor(
    handle: Handle, start: int, name: str, dtype: str, shape: tuple[int, ...], low: int, high: int
) -> Tensor:
    known = DTYPES.get(_DTYPES.get(dtype, dtype))
    if known is None or known.raw is None:
        called = known.name if known else dtype
        return Tensor(name, called, shape, Refused(unreadable(name, called)))
    storage: Storage = InFile(handle, start + low, shape, np.dtype(known.raw))
    return Tensor(name, known.name, shape, storage)


def _damaged(handle: Handle, what: str) -> MaskcliError:
    return MaskcliError(
        f"{handle.path!r} is not a sound safetensors file, {what}: save or download it again."
    )
