"""Read and write files by torch.save, take torch tensors from memory: the one place that imports torch."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.extras import needing
from maskcli.tensors.claims import Make, affordable
from maskcli.tensors.dtypes import DTYPES
from maskcli.tensors.limits import (
    MAX_ARRAYS,
    MAX_DEPTH,
    MAX_LOADED,
    MAX_NAME,
    MAX_PICKLE,
    MAX_TENSORS,
    MAX_TOLD,
    MAX_VISITED,
)
from maskcli.tensors.pickled_classes import UnfamiliarError, contents, finished
from maskcli.tensors.remote import Remote
from maskcli.tensors.sources import METADATA, Source, Writer, blocks
from maskcli.tensors.storage import Handle, InMemory, Refused
from maskcli.tensors.tensor import Tensor, TensorFile
from maskcli.tensors.torch_large import NowhereError, lying
from maskcli.tensors.torch_pickle import is_known
from maskcli.tensors.torch_told import is_swapped, told_by_archive, told_by_legacy, why_not
from maskcli.tensors.zipped import archive, names_in_zip, places

# From here on weights_only=True is safe against hostile files (CVE-2025-32434).
SAFE_TORCH = (2, 6)
# Bytes written as .pt: torch.save wants all in memory at once.
MAX_WRITTEN = 4 * 1024**3
# What saves any object's tensors as what is read here: dicts of attributes, items and places.
PLAIN = (
    "`plain = lambda x: x if torch.is_tensor(x) or type(x).__module__ == 'numpy' else {k: plain(v) for k, v "
    "in (x if isinstance(x, dict) else dict(enumerate(x)) if isinstance(x, (list, tuple)) else "
    "getattr(x, '__dict__', {})).items()}; torch.save(plain(obj), 'dump.pt')`"
)
Read = TypeVar("Read")
# Opcodes that a pickle by any protocol from 2 to 5 begins with.
PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def holds_torch(handle: Handle, head: bytes) -> bool:
    """Whether torch.save wrote this: an archive with a pickle, or before torch 1.6 a pickle alone."""
    names = names_in_zip(handle, head)
    return head.startswith(PICKLES) or any(f"/{name}".endswith("/data.pkl") for name in names)


def read_torch(handle: Handle) -> TensorFile:
    """The tensors of a file by torch.save; containers become dotted names, other values are skipped.

    Files of nothing but plain tensors in containers are read without torch, whose import takes longer than
    most files.
    """
    tensors, metadata = _contents(handle, partial(_read, handle.path))
    return TensorFile(handle.path, tensors, MappingProxyType(metadata))


def read_items(handle: Handle) -> list[Any]:
    """What a file by torch.save holds one after the other, or by itself, with a Tensor for each tensor.

    A list of rows gives its rows, each a dict of tensors, lists and plain values; a batch gives itself.
    """
    return _contents(handle, _items)


# What is done with a loaded nest of containers, the kind of its leaves, and what makes a tensor of one.
Use = Callable[[Any, Any, Make], Read]


def _contents(handle: Handle, use: Use[Read]) -> Read:
    """The saved objects put to use: as the pickle alone tells them, else as torch loads them."""
    if handle.bytes(0, 2) != b"PK":
        return _legacy(handle, use)
    members = _checked(handle)
    try:
        saved, kind, make = told_by_archive(handle, members)
        return use(saved, kind, affordable(handle, make))
    except UnfamiliarError:
        _check_pickle(handle, members, MAX_PICKLE)
    if isinstance(handle, Remote):
        raise handle.error("can be read by torch alone, which wants a file of this machine; download it")
    if handle.size <= MAX_LOADED:
        return _put(handle, use, _load(handle.path), from_torch)
    try:
        if is_swapped(handle, members):
            raise NowhereError
        return _put(handle, use, _load(handle.path, "meta"), lying(handle, refusal))
    except (NowhereError, NotImplementedError) as error:
        raise handle.error(
            f"has {handle.size} bytes and tensors that torch reads into memory alone, at most {MAX_LOADED} "
            "(quantized, nested, of another byte order); save them as plain ones, or fewer in a file"
        ) from error


def _legacy(handle: Handle, use: Use[Read]) -> Read:
    """The same of a file in the format from before torch 1.6, which torch is never asked to load."""
    if not handle.bytes(0, 2).startswith(PICKLES):
        raise handle.error("is no file by torch.save; save the tensors again or rename it to what it is")
    try:
        saved, kind, make = told_by_legacy(handle)
        return use(saved, kind, affordable(handle, make))
    except UnfamiliarError as error:
        what = "is in torch's old format, and damaged or of more than plain tensors in dicts and lists"
        raise handle.error(f"{what}; where it was made, as obj, save {PLAIN}") from error


def _put(handle: Handle, use: Use[Read], loaded: Any, make: Make) -> Read:
    """What torch loaded, put to use."""
    import torch

    return use(loaded, torch.Tensor, affordable(handle, make))


def _checked(handle: Handle) -> dict[str, tuple[int, int]]:
    """Where each member lies: its offset and size by its name; refuses what torch.save never writes."""
    with archive(handle) as opened:
        members = opened.infolist()
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise handle.error(
                f"holds the compressed member {member.filename[:80]!r}, which torch.save never writes; "
                "save it again with torch.save"
            )
        inner = member.filename.rpartition("/")[2]
        if inner == "constants.pkl":
            raise handle.error(
                "is a TorchScript program and holds no tensors alone; torch.save(module.state_dict(), path)"
            )
    found = places(handle, opened)
    _check_pickle(handle, found, MAX_ARRAYS)
    return found


def _check_pickle(handle: Handle, members: dict[str, tuple[int, int]], most: int) -> None:
    """Refuse a pickle too large to be read: numpy arrays lie in it with all of their elements."""
    for name, (_, size) in members.items():
        if f"/{name}".endswith("/data.pkl") and size > most:
            raise handle.error(
                f"has a pickle of {size} bytes and at most {most} are read; save numpy arrays as tensors, "
                "torch.from_numpy(array), whose elements lie outside of it, or fewer tensors in a file"
            )


def _load(path: str, device: str = "cpu") -> Any:
    """The objects in the file, by torch's restricted unpickler; on the device "meta" without elements."""
    import warnings

    with needing("torch", repr(path), "save it as .safetensors"):
        import torch
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_TORCH:
        raise MaskcliError(
            f"torch {torch.__version__} cannot read {path!r} safely (CVE-2025-32434); upgrade it to 2.6"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=device, weights_only=True)
    except NotImplementedError:
        # What has no form without elements.
        raise
    except pickle.UnpicklingError as error:
        raise MaskcliError(f"{path!r} {_refused(path)}") from error
    except (Exception, RecursionError, MemoryError) as error:
        what = "is damaged or of a kind torch itself cannot load safely"
        raise MaskcliError(f"{path!r} {what}; save its tensors again or copy it again") from error


def _refused(path: str) -> str:
    """Which classes the unpickler refused, and the line that saves the same tensors without them."""
    import torch

    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        classes = []
    unknown = [str(each)[:80] for each in sorted(classes) if not is_known(str(each))]
    what = f"Python objects ({', '.join(unknown[:3])!r})" if unknown else "a pickle that is not safe to load"
    return f"holds {what}, expected tensors in dicts and lists; where it was made, as obj, save {PLAIN}"


def _read(path: str, loaded: Any, kind: Any, tensor: Make) -> tuple[tuple[Tensor, ...], dict[str, str]]:
    """The tensors and the metadata; what is no map of a few texts is no metadata."""
    whole = finished(loaded)
    told = dict(_parts(whole)).get(METADATA) if isinstance(whole, Mapping) else None
    metadata = dict(islice(_parts(finished(told)), MAX_TOLD))
    texts = {name: text for name, text in metadata.items() if isinstance(text, str)}
    return _named(path, whole, kind, tensor), texts


def _named(path: str, loaded: Any, kind: Any, tensor: Make) -> tuple[Tensor, ...]:
    """Every leaf in a nest of containers as a tensor with its dotted name; a lone one has the file's."""
    stem = os.path.splitext(os.path.basename(path))[0]
    waiting: list[tuple[str, Any, int]] = [("", loaded, 0)]
    visited = 0
    tensors: dict[str, Tensor] = {}
    while waiting:
        name, waiting_value, depth = waiting.pop()
        value = finished(waiting_value)
        visited += 1
        if isinstance(value, kind):
            name = name or stem
            if name in tensors:
                twice = f"gives two tensors the name {name[:80]!r}, expected each name once"
                raise MaskcliError(f"{path!r} {twice}; rename one")
            tensors[name] = tensor(name, value)
        else:
            inner = [(f"{name}.{key}" if name else key, part, depth + 1) for key, part in _parts(value)]
            waiting += reversed(inner)

        too_often = visited + len(waiting) > MAX_VISITED or len(tensors) > MAX_TENSORS
        if too_often or depth > MAX_DEPTH or len(name) > MAX_NAME:
            raise MaskcliError(f"{path!r} nests its tensors too deep or too often; save a plain dict of them")
    return tuple(tensors.values())


def _items(loaded: Any, kind: Any, tensor: Make) -> list[Any]:
    """Items with a Tensor for every leaf in them, and in their lists; nothing further in is looked at."""

    def plain(name: str, value: Any) -> Any:
        done = finished(value)
        return tensor(name, done) if isinstance(done, kind) else done

    def listed(value: Any) -> bool:
        # What stands for a tensor is a tuple itself.
        return isinstance(value, list | tuple) and not isinstance(value, kind)

    def item(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return plain("", value)
        return {
            name: [plain(name, each) for each in part] if listed(part) else plain(name, part)
            for name, part in _parts(value)
        }

    return [item(each) for each in (loaded if listed(loaded) else [loaded])]


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container holds, each with its name in it; nothing of what is no container."""
    if isinstance(value, Mapping):
        for key, part in chain.from_iterable(each.items() for each in contents(value)):
            if isinstance(key, str | int | float | tuple):
                yield str(key), part
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield str(place), part


def refusal(name: str, tensor: Any) -> str | None:
    """Why a tensor of torch's has no plain elements, None when it has."""
    import torch

    if tensor.layout != torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        return f"tensor {name!r} is {layout}, expected a dense one; save tensor.to_dense()"
    if tensor.is_quantized:
        return f"tensor {name!r} is quantized, expected plain numbers; save tensor.dequantize()"
    return why_not(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def from_torch(name: str, tensor: Any) -> Tensor:
    """A torch tensor as a Tensor: no copy on the CPU, a copy from any other device; strides are kept."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    try:
        shape = tuple(int(size) for size in tensor.shape)
    except RuntimeError:
        nested = f"tensor {name!r} is nested, expected one with a shape; pad it before saving"
        return Tensor(name, dtype, (), Refused(nested))
    why = refusal(name, tensor)
    if tensor.is_meta:
        why = f"tensor {name!r} is on the meta device and has no data; save a real one"
    if why is not None:
        return Tensor(name, dtype, shape, Refused(why))

    plain = tensor.detach().cpu().resolve_neg()
    bits = {8: torch.uint8, 16: torch.int16}.get(DTYPES[dtype].bits)
    if dtype in ("bool", "bfloat16") or dtype.startswith("float8"):
        plain = plain.view(bits)
    array = plain.numpy()
    raw = array.view("<u2") if dtype == "bfloat16" else array
    return Tensor(name, dtype, shape, InMemory(lambda: raw))


def _too_large(tensors: Mapping[str, Source]) -> str | None:
    total = sum(source.nbytes for source in tensors.values())
    if total <= MAX_WRITTEN:
        return None
    return (
        f"would hold {total} bytes, and torch.save at most {MAX_WRITTEN} in memory at once; use .safetensors"
    )


def _write(path: str, tensors: Mapping[str, Source], metadata: Mapping[str, str]) -> None:
    with needing("torch", "writing .pt", "write .safetensors"):
        import torch

    loaded: dict[str, Any] = {}
    for name, source in tensors.items():
        raw = np.empty(source.nbytes, np.uint8)
        at = 0
        for block in blocks(name, source):
            raw[at : at + block.nbytes] = block.view(np.uint8)
            at += block.nbytes
        dtype = getattr(torch, source.dtype)
        flat = torch.from_numpy(raw).view(dtype) if raw.size else torch.empty(0, dtype=dtype)
        loaded[name] = flat.reshape(source.shape)
    if metadata:
        loaded[METADATA] = dict(metadata)
    with open(path, "wb") as file:
        torch.save(loaded, file)


TORCH = Writer(_write, _too_large)
