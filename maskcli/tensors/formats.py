"""The file formats: one row for each says its suffixes, how it is recognised, and who reads and writes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from maskcli.tensors.addresses import place_of
from maskcli.tensors.numpy_file import NPY, NPZ, holds_npy, holds_npz, read_npy, read_npz
from maskcli.tensors.safetensors_file import SAFETENSORS, holds_safetensors, read_safetensors
from maskcli.tensors.sources import Writer
from maskcli.tensors.storage import Handle
from maskcli.tensors.tensor import TensorFile
from maskcli.tensors.torch_file import TORCH, holds_torch, read_items, read_torch


class Format(NamedTuple):
    """A file format, by the name that messages call it.

    The first of its suffixes is the one to recommend and, with a `writer`, the one to write. `holds` looks at
    the file and at its first 512 bytes; `read` checks whatever it believes. `items` reads a list as what it
    holds one after the other, where a file may hold one.
    """

    name: str
    suffixes: tuple[str, ...]
    holds: Callable[[Handle, bytes], bool]
    read: Callable[[Handle], TensorFile]
    writer: Writer | None = None
    items: Callable[[Handle], list[Any]] | None = None


FORMATS: tuple[Format, ...] = (
    Format("safetensors", (".safetensors",), holds_safetensors, read_safetensors, SAFETENSORS),
    Format("npy", (".npy",), holds_npy, read_npy, NPY),
    Format("npz", (".npz",), holds_npz, read_npz, NPZ),
    Format("torch", (".pt", ".pth", ".bin"), holds_torch, read_torch, TORCH, read_items),
)


def readable() -> dict[str, Format]:
    """The suffixes of files that can be opened, with the format each promises."""
    return {suffix: file_format for file_format in FORMATS for suffix in file_format.suffixes}


def writable() -> dict[str, Writer]:
    """The suffixes of files that can be written, with who writes them."""
    return {file_format.suffixes[0]: file_format.writer for file_format in FORMATS if file_format.writer}


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The suffix of a path in small letters, with its dot; that of an address stands before its query."""
    return os.path.splitext(place_of(os.fspath(path)))[1].lower()
