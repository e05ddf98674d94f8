"""Read .pt, .pth and .bin, and take torch tensors from memory: the one place of this room that imports torch."""

import math
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.tensors.dtypes import DTYPES
from maskcli.tensors.safetensors_file import MAX_ELEMENTS, MAX_NAME, MAX_RANK, MAX_TENSORS
from maskcli.tensors.storage import Handle, InMemory, Refused, in_file
from maskcli.tensors.tensor import Tensor, TensorFile, unreadable
from maskcli.tensors.torch_pickle import SavedTensor, UnfamiliarError, described
from maskcli.tensors.zipped import archive, data_offset

MAX_LEGACY = 1024**3
"""Bytes of a file in torch's format from before 1.6: it cannot be mapped, so all of it is read into memory."""
MAX_PICKLE = 16 * 1024**2
"""Bytes of the pickle that describes the tensors: some 100 bytes per tensor, unpickled in Python."""
MAX_VISITED = 200_000
"""Objects looked at in a nest of containers: lists that share lists can describe 2^30 in a few hundred bytes."""
MAX_DEPTH = 64
"""Containers within containers."""
SAFE_TORCH = (2, 6)
"""From here on weights_only=True is safe against hostile files (CVE-2025-32434)."""

Leaf = TypeVar("Leaf")


def read_torch(handle: Handle) -> TensorFile:
    """The tensors of a file by torch.save; containers become dotted names (`attentions.0`), other values are skipped.

    Files of nothing but plain tensors in containers are read without torch, whose import takes longer than most files.
    """
    zipped = handle.bytes(0, 2) == b"PK"
    if zipped:
        members = _checked(handle)
        try:
            return TensorFile(handle.path, _described(handle, members))
        except UnfamiliarError:
            pass
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
    import torch

    return TensorFile(handle.path, _named(handle.path, loaded, torch.Tensor, from_torch))


def _checked(handle: Handle) -> dict[str, tuple[int, int]]:
    """Where each member lies: its offset and size by its name; refuses what torch.save never writes."""
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
    return {each.filename: (data_offset(handle, each), each.file_size) for each in members}


def _described(handle: Handle, members: dict[str, tuple[int, int]]) -> tuple[Tensor, ...]:
    """The tensors as the pickle alone tells of them; UnfamiliarError when it tells more than that, or nothing sound."""
    folders = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise UnfamiliarError
    # Files from before torch 2.1 do not name their byte order.
    order = members.get(f"{folders[0]}byteorder")
    if sys.byteorder != "little" or (order is not None and handle.bytes(order[0], 6) != b"little"):
        raise UnfamiliarError
    saved = described(handle.bytes(*members[f"{folders[0]}data.pkl"]))

    def tensor(name: str, leaf: SavedTensor) -> Tensor:
        if (refused := _refused(name, leaf.dtype, leaf.shape)) is not None:
            return Tensor(name, leaf.dtype, leaf.shape, refused)
        raw = np.dtype(DTYPES[leaf.dtype].raw)
        last = leaf.offset + sum(
            (size - 1) * stride for size, stride in zip(leaf.shape, leaf.strides, strict=True)
        )
        begin, size = members.get(f"{folders[0]}data/{leaf.storage}", (0, 0))
        if math.prod(leaf.shape) > MAX_ELEMENTS or (0 not in leaf.shape and last >= size // raw.itemsize):
            raise UnfamiliarError
        try:
            place = in_file(handle, begin, size // raw.itemsize, raw, leaf.shape, leaf.strides, leaf.offset)
        except ValueError as error:
            raise UnfamiliarError from error
        return Tensor(name, leaf.dtype, leaf.shape, place)

    return _named(handle.path, saved, SavedTensor, tensor)


def _load(path: str, zipped: bool) -> Any:
    """The objects in the file, by torch's restricted unpickler and nothing else."""
    import warnings

    try:
        import torch
    except ImportError as error:
        raise MaskcliError(
            f"{path!r} needs torch to be read: pip install torch, or save it as .safetensors."
        ) from error
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


def _named(
    path: str, loaded: Any, kind: type[Leaf], tensor: Callable[[str, Leaf], Tensor]
) -> tuple[Tensor, ...]:
    """Every leaf in a nest of containers as a tensor with its dotted name, in order; a lone one is named after the file."""
    stem = os.path.splitext(os.path.basename(path))[0]
    waiting: list[tuple[str, Any, int]] = [("", loaded, 0)]
    visited = 0
    found: dict[str, Tensor] = {}
    while waiting:
        name, each, depth = waiting.pop()
        visited += 1
        if isinstance(each, kind):
            name = name or stem
            if name in found:
                raise MaskcliError(
                    f"{path!r} gives two tensors the name {name[:80]!r}, expected each name once: rename one."
                )
            found[name] = tensor(name, each)
        elif isinstance(each, Mapping):
            pairs = [
                (str(key), value) for key, value in each.items() if isinstance(key, str | int | float | tuple)
            ]
            waiting += [
                (f"{name}.{key}" if name else key, value, depth + 1) for key, value in reversed(pairs)
            ]
        elif isinstance(each, list | tuple):
            pairs = [(str(key), value) for key, value in enumerate(each)]
            waiting += [
                (f"{name}.{key}" if name else key, value, depth + 1) for key, value in reversed(pairs)
            ]
        if (
            visited + len(waiting) > MAX_VISITED
            or depth > MAX_DEPTH
            or len(found) > MAX_TENSORS
            or len(name) > MAX_NAME
        ):
            raise MaskcliError(
                f"{path!r} nests its tensors too deep or too often, expected a plain dict of them: save it flat."
            )
    return tuple(found.values())


def _refused(name: str, dtype: str, shape: tuple[int, ...]) -> Refused | None:
    """Why a tensor of plain numbers cannot be read, None when it can."""
    if dtype not in DTYPES or DTYPES[dtype].raw is None:
        return Refused(unreadable(name, dtype))
    if len(shape) > MAX_RANK:
        return Refused(f"Tensor {name!r} has {len(shape)} axes, expected at most {MAX_RANK}.")
    return None


def from_torch(name: str, tensor: Any) -> Tensor:
    """A torch tensor as a Tensor: no copy on the CPU, a copy from any other device; strides are kept."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    try:
        shape = tuple(int(size) for size in tensor.shape)
    except RuntimeError:
        return Tensor(
            name,
            dtype,
            (),
            Refused(f"Tensor {name!r} is nested, expected one with a shape: pad it before saving."),
        )
    if tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        return Tensor(
            name,
            dtype,
            shape,
            Refused(f"Tensor {name!r} is {kind}, expected a dense one: save tensor.to_dense()."),
        )
    if tensor.is_meta:
        return Tensor(
            name,
            dtype,
            shape,
            Refused(f"Tensor {name!r} is on the meta device and has no data: save a real one."),
        )
    if tensor.is_quantized:
        return Tensor(
            name,
            dtype,
            shape,
            Refused(f"Tensor {name!r} is quantized, expected plain numbers: save tensor.dequantize()."),
        )
    if (refused := _refused(name, dtype, shape)) is not None:
        return Tensor(name, dtype, shape, refused)
    plain = tensor.detach().cpu().resolve_neg()
    bits = {8: torch.uint8, 16: torch.int16}.get(DTYPES[dtype].bits)
    if dtype in ("bool", "bfloat16") or dtype.startswith("float8"):
        plain = plain.view(bits)
    array = plain.numpy()
    raw = array.view("<u2") if dtype == "bfloat16" else array
    return Tensor(name, dtype, shape, InMemory(lambda: raw))
