"""The directory of a zip file, checked before anything in it is believed."""

from __future__ import annotations

import struct
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
# What may stand behind a member, with its checksum once more, and the flag that says so.
BEHIND, TOLD_BEHIND = b"PK\x07\x08", 8
# The attribute of a folder.
FOLDER = 0x10
# The fixed part of an entry of the directory, and what begins behind the last.
ENTRY, ENDS = 46, (b"PK\x05\x06", b"PK\x06\x06")
# What zipfile raises for a directory or a member that is damaged.
DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


def archive(handle: Handle) -> zipfile.ZipFile:
    """The zip file with its directory read; nothing is expanded."""
    _check_directory(handle)
    try:
        opened = zipfile.ZipFile(cast(BinaryIO, Window(handle)))
        _check_entries(handle, opened)
    except (*DAMAGES, OSError, ValueError, IndexError, struct.error) as error:
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
    stored = [member for member in members if member.compress_type == zipfile.ZIP_STORED]
    if any(member.file_size != member.compress_size for member in stored):
        raise handle.error("holds members of two sizes that are not compressed; get the file again")
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


def _check_entries(handle: Handle, opened: zipfile.ZipFile) -> None:
    """Refuse a directory whose last entry reaches behind its end, which zipfile cuts in silence."""
    directory = handle.bytes(opened.start_dir, MAX_DIRECTORY + TAIL)
    at = 0
    for _ in opened.infolist():
        lengths = struct.unpack_from("<3H", directory, at + 28)
        at += ENTRY + sum(lengths)
    if directory[at : at + 4] not in ENDS:
        raise zipfile.BadZipFile


def places(handle: Handle, opened: zipfile.ZipFile) -> dict[str, tuple[int, int]]:
    """The offset and size of each stored member.

    One that lies elsewhere than its neighbours leave room for is refused unless it has its checksum.
    """
    found = {}
    members = sorted(opened.infolist(), key=lambda member: member.header_offset)
    nexts = [*(member.header_offset for member in members[1:]), opened.start_dir]
    for member, behind in zip(members, nexts, strict=True):
        start = data_offset(handle, member)
        placed = _ends_at(handle, member, start, behind) or is_sound(handle, member, start)
        # Of what calls itself a folder, torch reads nothing and keeps what its memory held before.
        if not placed or (member.external_attr & FOLDER and member.file_size):
            raise handle.error(f"holds no sound member {member.filename[:80]!r}; get the file again")
        found[member.filename] = (start, member.file_size)
    return found


def _ends_at(handle: Handle, member: zipfile.ZipInfo, start: int, stop: int) -> bool:
    """Whether a member that begins at `start` ends where the next begins, or what is told behind it does."""
    end = start + member.file_size
    if not member.flag_bits & TOLD_BEHIND:
        return end == stop
    return handle.bytes(end, 8) == BEHIND + member.CRC.to_bytes(4, "little")


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
