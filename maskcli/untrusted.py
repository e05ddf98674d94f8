"""Files that nobody vouched for: regular, of bounded size, else one clear sentence; and text out of them."""

from __future__ import annotations

import json
import os
import select
import stat
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from maskcli.errors import MaskcliError

MEBIBYTE = 2**20


def check_file(
    path: str | os.PathLike[str], limit: int | None = None, advice: str = "pass the path of a file"
) -> None:
    """Refuse what is missing, not a regular file, or larger than `limit` bytes if any; nothing is opened."""
    named = repr(os.fspath(path))
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise MaskcliError(f"{named} cannot be read ({_reason(error)}); {advice}") from None

    if stat.S_ISDIR(status.st_mode):
        raise MaskcliError(f"{named} is a directory; pass the path of a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise MaskcliError(f"{named} is a device, pipe or socket; pass the path of a regular file")
    if limit is not None and status.st_size > limit:
        size, most = status.st_size / MEBIBYTE, limit // MEBIBYTE
        raise MaskcliError(
            f"{named} has {size:,.0f} MiB and at most {most} MiB are read; pass a smaller file"
        )


def read_bytes(path: str | os.PathLike[str], limit: int, advice: str = "pass the path of a file") -> bytes:
    """All bytes of a regular file of at most `limit`; `advice` is for one that cannot be read."""
    check_file(path, limit, advice)
    named = repr(os.fspath(path))
    try:
        with open(path, "rb", opener=_at_once) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise MaskcliError(f"{named} cannot be read ({_reason(error)}); {advice}") from None
    if len(data or b"") > limit:
        raise MaskcliError(f"{named} grew past {limit // MEBIBYTE} MiB while it was read; try again")
    return data


def _at_once(path: str, flags: int) -> int:
    """Open without waiting: what was a file when it was looked at may be a pipe by now."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_stream(stream: BinaryIO, limit: int, seconds: float, named: str = "standard input") -> bytes:
    """All bytes of a stream that ends within so many bytes and seconds; a terminal may take its time."""
    descriptor, end = stream.fileno(), time.monotonic() + seconds
    timed = os.name == "posix" and not stream.isatty()
    blocks, size = list[bytes](), 0
    while True:
        left = end - time.monotonic()
        if timed and (left <= 0 or not select.select([descriptor], [], [], left)[0]):
            raise MaskcliError(
                f"{named} did not end within {seconds:.0f} seconds; write it to a file and pass that"
            )
        block = os.read(descriptor, MEBIBYTE)
        if not block:
            return b"".join(blocks)
        blocks.append(block)
        size += len(block)
        if size > limit:
            raise MaskcliError(f"{named} has more than the {limit // MEBIBYTE} MiB that are read; pass less")


_LIMITED: list[tuple[int, int]] = []
_LIMITING = threading.Lock()


@contextmanager
def memory_limit(most: int) -> Iterator[None]:
    """What runs inside gets MemoryError once this process has taken so many bytes more than it had.

    For libraries that decode what they are told to. The limit is the whole process's: threads that are inside
    at once share that of the first. Only Linux keeps it.
    """
    try:
        import resource

        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return

    with _LIMITING:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if not _LIMITED and (soft == resource.RLIM_INFINITY or taken + most < soft):
            resource.setrlimit(resource.RLIMIT_AS, (taken + most, hard))
        _LIMITED.append((soft, hard))
    try:
        yield
    finally:
        with _LIMITING:
            before = _LIMITED[0]
            _LIMITED.pop()
            if not _LIMITED:
                resource.setrlimit(resource.RLIMIT_AS, before)


_SILENCED: list[int] = []


@contextmanager
def nothing_said() -> Iterator[None]:
    """What libraries write past Python to standard error, as Rust does of what it raises too, is not seen.

    Threads that are inside at once share the silence of the first.
    """
    with _LIMITING:
        if not _SILENCED:
            _SILENCED.append(_replaced(2))
        _SILENCED.append(2)
    try:
        yield
    finally:
        with _LIMITING:
            _SILENCED.pop()
            if len(_SILENCED) == 1:
                before = _SILENCED.pop()
                os.dup2(before, 2)
                os.close(before)


def _replaced(descriptor: int) -> int:
    """Make a descriptor lead nowhere; another one that leads where it led."""
    before = os.dup(descriptor)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)
    return before


def json_object(text: str | bytes, *, once: bool = False) -> dict[str, Any]:
    """A JSON object, with each name `once` where that matters; ValueError with the reason when it is none."""
    try:
        value = json.loads(text, object_pairs_hook=_once if once else None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"holds a JSON {type(value).__name__} and an object was expected")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name occurs twice")
    return fields


def _reason(error: Exception) -> str:
    said = isinstance(error, OSError) and error.strerror
    return str(said or error).lower()


def clean(text: object) -> str:
    """Text as a terminal may see it: control, format and unassigned characters as escapes.

    That covers ESC and the C1 controls, bidirectional overrides, zero-width characters, and lone surrogates.
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    return "".join(
        character if character.isprintable() or character == "\u3000" else _escape(character)
        for character in whole
    )


def harmless(text: str) -> str:
    """Text of several lines that steers no terminal: `clean`, but for line feeds, tabs and wide blanks."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        character
        if character in "\n\t" or character.isprintable() or unicodedata.category(character) == "Zs"
        else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if character in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
