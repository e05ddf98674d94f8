"""What the pickle of a .pt tells of its tensors, and where they lie: read without torch, at their offsets."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np

from maskcli.tensors.claims import Make
from maskcli.tensors.dtypes import DTYPES, unreadable
from maskcli.tensors.limits import MAX_ARRAYS, MAX_ELEMENTS, MAX_RANK
from maskcli.tensors.memory import from_array
from maskcli.tensors.pickled_classes import SavedArray, UnfamiliarError
from maskcli.tensors.storage import Handle, Refused, in_file
from maskcli.tensors.tensor import Tensor
from maskcli.tensors.torch_pickle import SavedStorage, SavedTensor, described

# A nest of containers, the kinds of its leaves, and what makes a tensor of one.
Told = tuple[Any, Any, Make]
# What a file in torch's format from before 1.6 begins with: two numbers, each a pickle.
LEGACY = [0x1950A86A20F9469CFC6C, 1001]
# Bytes of the number of elements that stands before each storage of such a file.
COUNT = 8


def is_swapped(handle: Handle, members: Mapping[str, tuple[int, int]]) -> bool:
    """Whether bytes lie in another order than here; files from before torch 2.1 do not name theirs."""
    orders = [place for name, (place, _) in members.items() if name.endswith("/byteorder")]
    return sys.byteorder != "little" or any(handle.bytes(place, 6) != b"little" for place in orders)


def told_by_archive(handle: Handle, members: Mapping[str, tuple[int, int]]) -> Told:
    """The objects as the pickle alone tells of them; UnfamiliarError when it tells more, or nothing sound."""
    folders = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise UnfamiliarError
    folder = folders[0]
    if is_swapped(handle, members):
        raise UnfamiliarError
    saved, storages = described(BytesIO(handle.bytes(*members[f"{folder}data.pkl"])))
    places = {key: members.get(f"{folder}data/{key}", (0, 0)) for key in storages}
    return _told(handle, saved, storages, places)


def told_by_legacy(handle: Handle) -> Told:
    """The same of the old format: five pickles in a row, of which the last names the storages that follow.

    Where it leaves one out, torch gives memory that nobody has filled; here the file is refused.
    """
    file = BytesIO(handle.bytes(0, MAX_ARRAYS))
    begins = [described(file)[0] for _ in LEGACY]
    if begins != LEGACY:
        raise UnfamiliarError
    described(file)  # How large C's types were where it was written, at which torch does not look either.
    saved, storages = described(file)
    keys, _ = described(file)
    are_names = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not are_names or set(keys) != set(storages):
        raise UnfamiliarError

    places: dict[str, tuple[int, int]] = {}
    at = file.tell()
    for key in keys:
        size = int.from_bytes(handle.bytes(at, COUNT), "little") * storages[key].itemsize
        places[key] = at + COUNT, size
        at += COUNT + size
    if at > handle.size:
        raise handle.error("ends in the middle of its tensors, as when a copy was cut short; get it again")
    return _told(handle, saved, storages, places)


def _told(
    handle: Handle, saved: Any, storages: Mapping[str, SavedStorage], places: Mapping[str, tuple[int, int]]
) -> Told:
    """The objects, and what makes tensors of those whose storages begin at these places, with their sizes."""
    encoded: dict[int, bytes] = {}

    def tensor(name: str, leaf: SavedTensor | SavedArray) -> Tensor:
        if isinstance(leaf, SavedArray):
            return _in_pickle(name, leaf, encoded)
        key = leaf.storage.key
        if storages[key] != leaf.storage:
            raise handle.error(
                f"has one storage under two types for {name[:80]!r}; save it again with torch.save"
            )
        return _in_storage(handle, name, leaf, *places[key])

    return saved, (SavedTensor, SavedArray), tensor


def _in_pickle(name: str, leaf: SavedArray, encoded: dict[int, bytes]) -> Tensor:
    """A numpy array, whose bytes the pickle holds; `encoded` has those of texts that arrays share, by id."""
    raw = leaf.elements
    if isinstance(raw, str):
        raw = encoded[id(raw)] if id(raw) in encoded else encoded.setdefault(id(raw), _as_bytes(raw))
    values = np.frombuffer(raw, leaf.dtype).reshape(leaf.shape, order="F" if leaf.fortran else "C")
    return from_array(name, values)


def _as_bytes(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise UnfamiliarError from error


def _in_storage(handle: Handle, name: str, leaf: SavedTensor, begin: int, size: int) -> Tensor:
    """A tensor whose storage are the `size` bytes from `begin` on."""
    why = why_not(name, leaf.dtype, leaf.shape)
    if why is not None:
        return Tensor(name, leaf.dtype, leaf.shape, Refused(why))

    told = leaf.storage.elements * leaf.storage.itemsize
    if size != told:
        raise handle.error(
            f"holds {size} bytes for {name[:80]!r} where its pickle says {told}; save or copy it again"
        )

    raw = np.dtype(DTYPES[leaf.dtype].raw)
    count = size // raw.itemsize
    if math.prod(leaf.shape) > MAX_ELEMENTS:
        raise UnfamiliarError
    try:
        storage = in_file(handle, begin, count, raw, leaf.shape, leaf.strides, leaf.offset)
    except ValueError as error:
        raise UnfamiliarError from error
    return Tensor(name, leaf.dtype, leaf.shape, storage)


def why_not(name: str, dtype: str, shape: tuple[int, ...]) -> str | None:
    """Why a tensor of plain numbers cannot be read, None when it can."""
    if dtype not in DTYPES or DTYPES[dtype].raw is None:
        return unreadable(name, dtype)
    if len(shape) > MAX_RANK:
        return f"tensor {name!r} has {len(shape)} axes and at most {MAX_RANK} are read; flatten some of them"
    return None
