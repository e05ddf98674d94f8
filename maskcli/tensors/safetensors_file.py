"""Read and write .safetensors: the header is checked here, the elements are read at their offsets.

The safetensors package is not asked: its numpy front cannot read bfloat16 and float8, and it accepts headers
that are harmless to it and not to others (duplicate names, 400,000 tensors, a shape of [0, 2^60]). Format:
https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.tensors.dtypes import DTYPES, DType, unreadable
from maskcli.tensors.limits import MAX_HEADER, MAX_NAME, MAX_TENSORS, POSSIBLE, is_possible
from maskcli.tensors.sources import METADATA, Source, Writer, pour
from maskcli.tensors.storage import Handle, InFile, Refused
from maskcli.tensors.tensor import Tensor, TensorFile
from maskcli.untrusted import json_object

CODES = {dtype.safetensors: dtype for dtype in DTYPES.values() if dtype.safetensors}


class _Entry(NamedTuple):
    """What the header says of a tensor; its bytes are those from `low` to `high` behind the header."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    low: int
    high: int


def holds_safetensors(handle: Handle, head: bytes) -> bool:
    """Whether the length of a header and the header's brace come first."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= handle.size - 8


def read_safetensors(handle: Handle) -> TensorFile:
    """The tensors of a .safetensors file, in the order of their data."""
    header, start = _header(handle)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(handle, f"its {METADATA} is not a map of strings")
    if len(header) > MAX_TENSORS:
        raise handle.error(f"names {len(header)} tensors and at most {MAX_TENSORS} are read; split the file")

    entries = [_entry(handle, name, fields) for name, fields in header.items()]
    entries.sort(key=lambda entry: (entry.low, entry.high))
    _check_data(handle, entries, handle.size - start)
    tensors = tuple(_tensor(handle, start, entry) for entry in entries)
    return TensorFile(handle.path, tensors, MappingProxyType(metadata))


def _header(handle: Handle) -> tuple[dict[str, Any], int]:
    """The header, and the byte at which the data begin."""
    length = int.from_bytes(handle.bytes(0, 8), "little")
    if handle.size < 10 or length > handle.size - 8:
        raise _damaged(
            handle, f"its {handle.size} bytes have no room for the header that its first 8 announce"
        )
    if length > MAX_HEADER:
        raise handle.error(
            f"has a header of {length} bytes and at most {MAX_HEADER} are read; split the file"
        )
    try:
        return json_object(handle.bytes(8, length).decode("utf-8"), once=True), 8 + length
    except ValueError as error:
        raise _damaged(handle, "its header is not a JSON object with each name once") from error


def _entry(handle: Handle, name: str, fields: Any) -> _Entry:
    """One entry of the header, checked."""
    if len(name) > MAX_NAME:
        raise handle.error(f"has a tensor name of {len(name)} characters; give it one of at most {MAX_NAME}")
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= fields.keys():
        raise _damaged(handle, f"the entry of {name!r} lacks dtype, shape or data_offsets")

    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    dtype = CODES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise handle.error(f"gives {name!r} the type {str(code)[:40]!r}, expected one of {', '.join(CODES)}")
    if not _are_whole(shape) or not is_possible(shape):
        raise _damaged(handle, f"the shape of {name!r} is {str(shape)[:80]}, expected {POSSIBLE}")
    if not _are_whole(offsets) or len(offsets) != 2 or sorted(offsets) != offsets:
        said = str(offsets)[:80]
        raise _damaged(handle, f"the data_offsets of {name!r} are {said}, expected two ascending positions")

    low, high = offsets
    if math.prod(shape) * dtype.bits != (high - low) * 8:
        what = f"{name!r} of shape {shape} and type {code}"
        raise _damaged(handle, f"{what} does not fill its {high - low} bytes")
    return _Entry(name, dtype, tuple(shape), low, high)


def _are_whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_data(handle: Handle, entries: list[_Entry], size: int) -> None:
    """Refuse data with holes, with overlaps, or of another size than the header says."""
    end = 0
    for entry in entries:
        if entry.low != end:
            begins = f"the data of {entry.name!r} begins at byte {entry.low}"
            raise _damaged(handle, f"{begins} where byte {end} was expected")
        end = entry.high
    if end != size:
        what = "it was cut short" if end > size else "something was added to it"
        raise handle.error(
            f"holds {size} bytes of data where its header says {end}, so {what}; get the file again"
        )


def _tensor(handle: Handle, start: int, entry: _Entry) -> Tensor:
    name, dtype, shape = entry.name, entry.dtype, entry.shape
    if dtype.raw is None:
        return Tensor(name, dtype.name, shape, Refused(unreadable(name, dtype.name)))
    return Tensor(name, dtype.name, shape, InFile(handle, start + entry.low, shape, np.dtype(dtype.raw)))


def _damaged(handle: Handle, what: str) -> MaskcliError:
    return handle.error(f"is not a sound safetensors file, {what}; save or download it again")


def _refusal(tensors: Mapping[str, Source]) -> str | None:
    taken = METADATA in tensors
    return f"cannot hold a tensor named {METADATA!r}, that name is taken; choose another" if taken else None


def _write(path: str, tensors: Mapping[str, Source], metadata: Mapping[str, str]) -> None:
    """Widest types first, as the safetensors package does, so that every tensor lies aligned."""
    ordered = sorted(tensors.items(), key=lambda item: -DTYPES[item[1].dtype].bits)
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, source in ordered:
        start, end = end, end + source.nbytes
        code = DTYPES[source.dtype].safetensors
        header[name] = {"dtype": code, "shape": list(source.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, source in ordered:
            pour(name, source, file)


SAFETENSORS = Writer(_write, _refusal)
