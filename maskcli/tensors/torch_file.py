"""Read .pt, .pth and .bin, and take torch tensors from memory: the one place of this room that imports torch."""

import os
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.tensors.dtypes import DTYPES
from maskcli.tensors.safetensors_file import MAX_NAME, MAX_RANK, MAX_TENSORS
from maskcli.tensors.storage import Handle, InFile, InMemory, Refused
from maskcli.tensors.tensor import Tensor, TensorFile, unreadable
from maskcli.tensors.zipped import archive, data_offset

MAX_LEGACY = 1024**3
"""Bytes of a file in torch's format from before 1.6: it cannot be mapped, so all of it is read into memory."""
MAX_PICKLE = 64 * 1024**2
"""Bytes of the pickle that describes the tensors: some 100 bytes per tensor, unpickled in Python."""
MAX_VISITED = 200_000
"""Objects looked at in a nest of containers: lists that share lists can describe 2^30 in a few hundred bytes."""
MAX_DEPTH = 64
"""Containers within containers."""
SAFE_TORCH = (2, 6)
"""From here on weights_only=True is safe against hostile files (CVE-2025-32434)."""


def read_torch(handle: Handle) -> TensorFile:
    """The tensors of a file by torch.save; containers become dotted names (`attentions.0`), other values are skipped."""
    zipped = handle.bytes(0, 2) == b"PK"
    offsets: list[tuple[int, int]] = []
    if zipped:
        offsets = _check_zip(handle)
    elif handle.bytes(0, 1) != b"\x80":
        raise MaskcliError(
            f"{handle.path!r} is no file by torch.save: save the tensors again or rename the file to what it is."
        )
    elif handle.size > MAX_LEGACY:
        raise MaskcliError(
            f"{handle.path!r} has {handle.size} bytes in torch's old format, expected at most {MAX_LEGACY}: "
            "load it and torch.save it with any torch from 1.6 on."
        )
    loaded = _load(handle.path, zipped)
    stem = os.path.splitext(os.path.basename(handle.path))[0]
    leaves = list(_leaves(handle.path, loaded, stem))
    places = _places([tensor for _, tensor in leaves], offsets)
    tensors = []
    names: set[str] = set()
    for name, tensor in leaves:
        if name in names:
            raise MaskcliError(
                f"{handle.path!r} gives two tensors the name {name[:80]!r}, expected each name once: rename one."
            )
        names.add(name)
        tensors.append(_in_file(handle, places, tensor, from_torch(name, tensor)))
    return TensorFile(handle.path, tuple(tensors))


def _check_zip(handle: Handle) -> list[tuple[int, int]]:
    """Refuse what torch.save never writes; offset and size of every storage otherwise, none if bytes would be swapped."""
    with archive(handle) as opened:
        members = opened.infolist()
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise MaskcliError(
                f"{handle.path!r} holds the compressed member {member.filename[:80]!r}, which torch.save never writes, "
                "expected plain ones: save it again with torch.save."
            )
        inner = member.filename.rpartition("/")[2]
        if inner == "data.pkl" and member.file_size > MAX_PICKLE:
            raise MaskcliError(
                f"{handle.path!r} describes its tensors in {member.file_size} bytes, expected at most {MAX_PICKLE}."
            )
        if inner == "constants.pkl":
            raise MaskcliError(
                f"{handle.path!r} is a TorchScript program, expected tensors: torch.save(module.state_dict(), path)."
            )
    orders = {handle.bytes(data_offset(handle, each), 6) for each in members if each.filename.endswith("/byteorder")}
    if orders - {b"little"} or sys.byteorder != "little":
        return []
    return [(data_offset(handle, each), each.file_size) for each in members if "/data/" in each.filename]


def _places(tensors: list[Any], offsets: list[tuple[int, int]]) -> dict[int, int]:
    """Where in the file each mapped storage lies, by its address; empty when that is not beyond doubt.

    torch maps the file as a whole, so addresses differ as offsets do. Read from the file, rows leave no pages behind
    that count as memory.
    """
    dense = [each for each in tensors if not (each.is_sparse or each.is_meta) and str(each.layout) == "torch.strided"]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in dense}
    found = sorted((address, size) for address, size in storages.items() if size)
    stored = sorted((offset, size) for offset, size in offsets if size)
    if len(found) != len(stored) or not found:
        return {}
    base = found[0][0] - stored[0][0]
    if [(address - base, size) for address, size in found] != stored:
        return {}
    return {address: address - base for address, _ in found}


def _in_file(handle: Handle, places: dict[int, int], loaded: Any, tensor: Tensor) -> Tensor:
    """The same tensor read from the file where its elements lie there in order, else as it is."""
    known = DTYPES.get(tensor.dtype)
    if known is None or known.raw is None or isinstance(tensor.storage, Refused):
        return tensor
    place = places.get(loaded.untyped_storage().data_ptr())
    if place is None or not loaded.is_contiguous() or loaded.is_neg():
        return tensor
    offset = place + loaded.storage_offset() * loaded.element_size()
    return replace(tensor, storage=InFile(handle, offset, tensor.shape, np.dtype(known.raw)))


def _load(path: str, zipped: bool) -> Any:
    """The objects in the file, by torch's restricted unpickler and nothing else."""
    import warnings

    try:
        import torch
    except ImportError as error:
        raise MaskcliError(f"{path!r} needs torch to be read: pip install torch, or save it as .safetensors.") from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_TORCH:
        raise MaskcliError(
            f"torch {torch.__version__} cannot read {path!r} safely (CVE-2025-32434), expected 2.6 or later: upgrade it."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise MaskcliError(_refusal(path, zipped)) from error
    except (Exception, RecursionError, MemoryError) as error:
        raise MaskcliError(
            f"{path!r} is damaged or of a kind torch itself cannot load safely: save its tensors again or copy it again."
        ) from error


def _refusal(path: str, zipped: bool) -> str:
    """Which classes the unpickler refused, and the line that saves the same tensors without them."""
    import torch

    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    except Exception:
        classes = []
    if not classes:
        return f"{path!r} holds a pickle that torch refuses to load safely: save a plain dict of tensors with torch.save."
    named = ", ".join(str(each)[:80] for each in sorted(classes)[:3])
    line = 'torch.save({name: value for name, value in obj.items()}, "dump.pt")'
    return f"{path!r} holds Python objects ({named!r}), expected tensors in dicts and lists: save it with `{line}`."


def _leaves(path: str, loaded: Any, stem: str) -> Iterator[tuple[str, Any]]:
    """Every tensor in a nest of containers with its dotted name, in order; a lone tensor is named after the file."""
    import torch

    waiting: list[tuple[str, Any, int]] = [("", loaded, 0)]
    visited = found = 0
    while waiting:
        name, each, depth = waiting.pop()
        visited += 1
        if isinstance(each, torch.Tensor):
            found += 1
            yield name or stem, each
        elif isinstance(each, Mapping):
            pairs = [(str(key), value) for key, value in each.items() if isinstance(key, str | int | float | tuple)]
            waiting += [(f"{name}.{key}" if name else key, value, depth + 1) for key, value in reversed(pairs)]
        elif isinstance(each, list | tuple):
            pairs = [(str(key), value) for key, value in enumerate(each)]
            waiting += [(f"{name}.{key}" if name else key, value, depth + 1) for key, value in reversed(pairs)]
        if visited + len(waiting) > MAX_VISITED or depth > MAX_DEPTH or found > MAX_TENSORS or len(name) > MAX_NAME:
            raise MaskcliError(
                f"{path!r} nests its tensors too deep or too often, expected a plain dict of them: save it flat."
            )


def from_torch(name: str, tensor: Any) -> Tensor:
    """A torch tensor as a Tensor: no copy on the CPU, a copy from any other device; strides are kept."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    try:
        shape = tuple(int(size) for size in tensor.shape)
    except RuntimeError:
        return Tensor(name, dtype, (), Refused(f"Tensor {name!r} is nested, expected one with a shape: pad it before saving."))
    known = DTYPES.get(dtype)
    if tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        return Tensor(name, dtype, shape, Refused(f"Tensor {name!r} is {kind}, expected a dense one: save tensor.to_dense()."))
    if tensor.is_meta:
        return Tensor(name, dtype, shape, Refused(f"Tensor {name!r} is on the meta device and has no data: save a real one."))
    if tensor.is_quantized:
        return Tensor(
            name,
            dtype,
            shape,
            Refused(f"Tensor {name!r} is quantized, expected plain numbers: save tensor.dequantize()."),
        )
    if known is None or known.raw is None:
        return Tensor(name, dtype, shape, Refused(unreadable(name, dtype)))
    if len(shape) > MAX_RANK:
        return Tensor(name, dtype, shape, Refused(f"Tensor {name!r} has {len(shape)} axes, expected at most {MAX_RANK}."))
    plain = tensor.detach().cpu().resolve_neg()
    bits = {8: torch.uint8, 16: torch.int16}.get(known.bits)
    if dtype in ("bool", "bfloat16") or dtype.startswith("float8"):
        plain = plain.view(bits)
    array = plain.numpy()
    raw = array.view("<u2") if dtype == "bfloat16" else array
    return Tensor(name, dtype, shape, InMemory(lambda: raw))
