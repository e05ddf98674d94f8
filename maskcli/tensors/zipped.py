"""The directory of a zip file, checked before anything in it is believed."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from typing import BinaryIO, cast

from maskcli.tensors.limits import MAX_DIRECTORY, MAX_MEMBERS, MAX_SUMMED
from maskcli.tensors.remote import Remote
from maskcli.tensors.storage import Handle
from maskcli.tensors.streams import Window

# Bytes at the end of the file that hold the record of the directory, with the longest comment behind it.
TAIL = 65_557
# Bytes of a member's own header before its name, and the flag of names in UTF-8.
HEADER, UTF8 = 30, 0x800
# What zipfile raises for a directory or a member that is damaged.
DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


def archive(handle: Handle) -> zipfile.ZipFile:
    """The zip file with its directory read; nothing is expanded."""
    _check_directory(handle)
    try:
        opened = zipfile.ZipFile(cast(BinaryIO, Window(handle)))
    except (*DAMAGES, OSError, ValueError, IndexError) as error:
        what = "is a zip file without a sound directory, as when a save was cut short; get it again"
        raise handle.error(what) from error

    members = opened.infolist()
    if len(members) > MAX_MEMBERS:
        raise handle.error(f"holds {len(members)} members and at most {MAX_MEMBERS} are read; split the file")
    counts = Counter(member.filename for member in members)
    if len(counts) < len(members):
        ((twice, _),) = counts.most_common(1)
        raise handle.error(f"holds the member {twice[:80]!r} twice, expected each name once; save it again")
    if sum(member.compress_size for member in members) > handle.size:
        raise handle.error("holds members that share their bytes, as no writer lays them; save it again")
    if any(member.flag_bits & 1 for member in members):
        raise handle.error("is encrypted, expected plain members; unpack it with its password first")
    return opened


def _check_directory(handle: Handle) -> None:
    """Refuse a directory too large to be one, before zipfile reads it whole."""
    tail = handle.bytes(max(0, handle.size - TAIL), TAIL)
    at = tail.rfind(b"PK\x05\x06")
    size = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    wide = tail.rfind(b"PK\x06\x06")
    if size == 0xFFFFFFFF and wide >= 0:
        size = int.from_bytes(tail[wide + 40 : wide + 48], "little")
    if size > MAX_DIRECTORY:
        raise handle.error(
            f"has a zip directory of {size} bytes and at most {MAX_DIRECTORY} are read; save it again"
        )


def data_offset(handle: Handle, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin."""
    name = member.filename[:80]
    encoded = member.orig_filename.encode("utf-8" if member.flag_bits & UTF8 else "cp437")
    header = handle.bytes(member.header_offset, HEADER + len(encoded))
    lengths = [int.from_bytes(header[at : at + 2], "little") for at in (26, 28)]
    named = lengths[0] == len(encoded) and header[HEADER:] == encoded
    if not named or not header.startswith(b"PK\x03\x04"):
        raise handle.error(f"has no member {name!r} where its directory says; get the file again")
    start = member.header_offset + HEADER + sum(lengths)
    if start + member.compress_size > handle.size:
        raise handle.error(f"ends inside the member {name!r}; get the file again")
    return start


def is_sound(handle: Handle, member: zipfile.ZipInfo, start: int) -> bool:
    """Whether a stored member, which begins at `start`, has its checksum; a large one is believed."""
    if isinstance(handle, Remote) or member.file_size > MAX_SUMMED:
        return True
    return zlib.crc32(handle.bytes(start, member.file_size)) == member.CRC


def names_in_zip(handle: Handle, head: bytes) -> list[str]:
    """The names of the members; none where the file is no zip file at all."""
    return archive(handle).namelist() if head.startswith(b"PK") else []
