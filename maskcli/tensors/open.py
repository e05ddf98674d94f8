"""A path to its tensors: the file is checked before anything believes it."""

import difflib
import os
import stat
from collections.abc import Callable

from maskcli.errors import MaskcliError
from maskcli.tensors.numpy_file import read_npy, read_npz
from maskcli.tensors.safetensors_file import read_safetensors
from maskcli.tensors.storage import Handle
from maskcli.tensors.tensor import TensorFile
from maskcli.tensors.torch_file import read_torch
from maskcli.tensors.zipped import holds_numpy, holds_torch

READERS: dict[str, Callable[[Handle], TensorFile]] = {
    ".safetensors": read_safetensors,
    ".npy": read_npy,
    ".npz": read_npz,
    ".pt": read_torch,
    ".pth": read_torch,
    ".bin": read_torch,
}

_FORMATS = {
    ".safetensors": "safetensors",
    ".npy": "npy",
    ".npz": "npz",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
}
_SUFFIXES = {"safetensors": ".safetensors", "npy": ".npy", "npz": ".npz", "torch": ".pt"}
_MAGIC = {
    b"\x93NUMPY": "npy",
    b"GGUF": "GGUF",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-zip",
    b"%PDF": "PDF",
    b"\x89PNG": "PNG",
}
_PLACES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """The tensors of a .safetensors, .npy, .npz, .pt, .pth or .bin file; their elements are read when asked for.

    Raises MaskcliError when the file is missing, is no such file, is damaged, or would not be safe to read.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    handle = _opened(path, suffix)
    if suffix not in READERS:
        raise MaskcliError(
            f"{path!r} ends in {suffix!r}, expected one of {', '.join(READERS)}: save it in one of these formats."
        )
    found = _format_of(handle)
    if found in _SUFFIXES and found != _FORMATS[suffix]:
        raise MaskcliError(
            f"{path!r} holds {found} data, expected what {suffix} promises: rename it to end in {_SUFFIXES[found]}."
        )
    if found not in (None, *_SUFFIXES):
        raise MaskcliError(
            f"{path!r} holds {found} data, expected {_FORMATS[suffix]}: save the tensors as .safetensors."
        )
    return READERS[suffix](handle)


def _opened(path: str, suffix: str) -> Handle:
    """The file, open; nothing but a regular file is ever opened, so no pipe or device can make us wait."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError
        for test, what in _PLACES:
            if test(status.st_mode):
                raise MaskcliError(
                    f"{path!r} is {what}, expected a file of one of the types {', '.join(READERS)}."
                )
        if suffix in READERS and status.st_size == 0:
            raise MaskcliError(f"{path!r} is empty, expected tensors: write or download it again.")
        return Handle(path)
    except (FileNotFoundError, NotADirectoryError):
        raise MaskcliError(f"{path!r} does not exist{_nearest(path)}") from None
    except PermissionError:
        raise MaskcliError(
            f"{path!r} may not be read by this user: change its permissions (chmod +r) or copy it."
        ) from None
    except ValueError:
        raise MaskcliError(f"{path!r} is not a path, expected one without null characters.") from None
    except OSError as error:
        raise MaskcliError(f"{path!r} cannot be opened ({error.strerror}): check the path.") from error


def _nearest(path: str) -> str:
    """How the sentence about a missing file ends: the nearest name beside it, if one is near."""
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or ".")[:10_000]
    except OSError:
        return f", nor does its folder {folder!r}: check the path."
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f": did you mean {os.path.join(folder, near[0])!r}?" if near else ": check the path."


def _format_of(handle: Handle) -> str | None:
    """What the first bytes say the file is: the name of a format, or None when they say nothing."""
    head = handle.bytes(0, 512)
    if head.startswith(b"version https://git-lfs"):
        raise MaskcliError(
            f"{handle.path!r} is a Git LFS pointer, expected the file it stands for: run `git lfs pull`."
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise MaskcliError(
            f"{handle.path!r} is a web page, expected tensors: download the file itself (the raw link)."
        )
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head.startswith(b"PK"):
        return "npz" if holds_numpy(handle) else "torch" if holds_torch(handle) else "zip"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= handle.size - 8:
        return "safetensors"
    if head[257:262] == b"ustar":
        return "tar"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "torch"
    return None
