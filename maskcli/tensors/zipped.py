"""The directory of a zip file, checked before anything in it is believed."""

import io
import zipfile
import zlib
from typing import BinaryIO, cast

from maskcli.errors import MaskcliError
from maskcli.tensors.storage import Handle

MAX_MEMBERS = 100_000
"""Files in one archive: a dump has some hundred, and each costs memory before it is looked at."""
MAX_DIRECTORY = 32 * 1024 * 1024
"""Bytes of the directory itself: MAX_MEMBERS entries with names of common length."""


class _Window(io.RawIOBase):
    """A handle as a seekable file of its own, so that zipfile never moves a position that others share."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._handle.size}[whence]
        if start + offset < 0:
            raise OSError(22, "negative position")
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        data = self._handle.bytes(self._at, self._handle.size - self._at if size < 0 else size)
        self._at += len(data)
        return data


def as_file(handle: Handle) -> BinaryIO:
    """A handle as a readable, seekable binary file."""
    return cast(BinaryIO, _Window(handle))


def archive(handle: Handle) -> zipfile.ZipFile:
    """The zip file with its directory read; nothing is expanded."""
    _check_directory(handle)
    try:
        opened = zipfile.ZipFile(as_file(handle))
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        ValueError,
        NotImplementedError,
        EOFError,
        IndexError,
    ) as error:
        raise MaskcliError(
            f"{handle.path!r} is a zip file without a sound directory, as when a save was cut short: get it again."
        ) from error
    if len(opened.infolist()) > MAX_MEMBERS:
        raise MaskcliError(
            f"{handle.path!r} holds {len(opened.infolist())} members, expected at most {MAX_MEMBERS}."
        )
    names = [member.filename for member in opened.infolist()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise MaskcliError(
            f"{handle.path!r} holds the member {twice[:80]!r} twice, expected each name once: save it again."
        )
    for member in opened.infolist():
        if member.flag_bits & 1:
            raise MaskcliError(
                f"{handle.path!r} is encrypted, expected plain members: unpack it with its password first."
            )
    return opened


def _check_directory(handle: Handle) -> None:
    """Refuse a directory too large to be one, before zipfile reads it whole."""
    tail = handle.bytes(max(0, handle.size - 65_557), 65_557)
    at = tail.rfind(b"PK\x05\x06")
    size = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    wide = tail.rfind(b"PK\x06\x06")
    if size == 0xFFFFFFFF and wide >= 0:
        size = int.from_bytes(tail[wide + 40 : wide + 48], "little")
    if size > MAX_DIRECTORY:
        raise MaskcliError(
            f"{handle.path!r} has a zip directory of {size} bytes, expected at most {MAX_DIRECTORY}: it is damaged."
        )


def data_offset(handle: Handle, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin."""
    header = handle.bytes(member.header_offset, 30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise MaskcliError(
            f"{handle.path!r} has no member {member.filename[:80]!r} where its directory says: get the file again."
        )
    start = (
        member.header_offset
        + 30
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )
    if start + member.compress_size > handle.size:
        raise MaskcliError(
            f"{handle.path!r} ends inside the member {member.filename[:80]!r}: get the file again."
        )
    return start


def holds_numpy(handle: Handle) -> bool:
    """Whether the archive is one of .npy members."""
    names = archive(handle).namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def holds_torch(handle: Handle) -> bool:
    """Whether the archive is what torch.save writes."""
    return any(name == "data.pkl" or name.endswith("/data.pkl") for name in archive(handle).namelist())
