"""A path to its tensors: the file is checked before anything believes it."""

from __future__ import annotations

import difflib
import os
import stat
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.tensors.addresses import is_remote
from maskcli.tensors.formats import Format, readable, suffix_of
from maskcli.tensors.remote import Remote
from maskcli.tensors.storage import Handle
from maskcli.tensors.tensor import TensorFile

# What people rename or download by mistake: the bytes at a place in the file, and what they are of.
FOREIGN = (
    (0, b"GGUF", "GGUF"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ", "xz"),
    (0, b"7z\xbc\xaf", "7-zip"),
    (0, b"%PDF", "PDF"),
    (0, b"\x89PNG", "PNG"),
    (0, b"PK", "zip"),
    (257, b"ustar", "tar"),
)
WEB_PAGES = (b"<!doctype", b"<html", b"<?xml")
# What is never opened, so that no pipe or device can make us wait.
PLACES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """The tensors of a file in any of the formats of formats.py; their elements are read when asked for.

    Raises MaskcliError when the file is missing, is no such file, is damaged, or would not be safe to read.
    """
    handle, promised = _checked(os.fspath(path))
    return promised.read(handle)


def open_items(path: str | os.PathLike[str]) -> list[Any] | None:
    """The rows or batches that torch.save wrote, one after the other; None for a file of another format.

    Raises MaskcliError as `open_tensors` does.
    """
    handle, promised = _checked(os.fspath(path))
    return None if promised.items is None else promised.items(handle)


def _checked(path: str) -> tuple[Handle, Format]:
    """A file and its format, once its first bytes are those of the format that its suffix promises."""
    suffix = suffix_of(path)
    promised = readable().get(suffix)
    handle = _opened(path)
    if promised is None:
        raise handle.error(f"ends in {suffix!r}; save it as one of {', '.join(readable())}")
    if handle.size == 0:
        raise handle.error("is empty and holds no tensors; write or download it again")

    head = handle.bytes(0, 512)
    if not promised.holds(handle, head):
        _refuse_another(handle, head, promised, suffix)
    return handle, promised


def _opened(path: str) -> Handle:
    """The file, open; nothing but a regular file is, or one elsewhere."""
    if is_remote(path):
        return Remote(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode) and not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError
        for is_such, what in PLACES:
            if is_such(mode):
                raise MaskcliError(f"{path!r} is {what}; pass a file of the types {', '.join(readable())}")
        return Handle(path)
    except (FileNotFoundError, NotADirectoryError):
        raise MaskcliError(f"{path!r} does not exist{_nearest(path)}") from None
    except PermissionError:
        why = "may not be read by this user; change its permissions (chmod +r) or copy it"
        raise MaskcliError(f"{path!r} {why}") from None
    except ValueError:
        raise MaskcliError(f"{path!r} is not a path; write one without null characters") from None
    except OSError as error:
        raise MaskcliError(f"{path!r} cannot be opened ({error.strerror}); check the path") from error


def _nearest(path: str) -> str:
    """How the sentence about a missing file ends: the nearest name beside it, if one is near."""
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or ".")[:10_000]
    except OSError:
        return f", nor does its folder {folder!r}; check the path"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {os.path.join(folder, near[0])!r}?" if near else "; check the path"


def _refuse_another(handle: Handle, head: bytes, promised: Format, suffix: str) -> None:
    """Refuse what is plainly of another format; where nothing is plain, the reader says what is wrong."""
    if head.startswith(b"version https://git-lfs"):
        raise handle.error("is a Git LFS pointer; run `git lfs pull` to get the file it stands for")
    if head.lstrip().lower().startswith(WEB_PAGES):
        raise handle.error("is a web page and holds no tensors; download the file itself (the raw link)")

    for file_format in readable().values():
        if file_format.holds(handle, head):
            holds = f"holds {file_format.name} data, not what {suffix} promises"
            raise handle.error(f"{holds}; rename it to end in {file_format.suffixes[0]}")
    for at, magic, name in FOREIGN:
        if head[at:].startswith(magic):
            raise handle.error(f"holds {name} data, not {promised.name}; save the tensors as .safetensors")
