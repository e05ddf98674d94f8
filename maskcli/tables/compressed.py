"""Files by gzip and zstandard, expanded as they are read and never further than files of rows are."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from maskcli.errors import MaskcliError
from maskcli.tables.arrow import sentences
from maskcli.tables.limits import MAX_EXPANSION, MIN_EXPANSION
from maskcli.tables.places import opened
from maskcli.untrusted import MEBIBYTE

GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@contextmanager
def expanded(path: str) -> Iterator[BinaryIO]:
    """A file's bytes, expanded where gzip or zstandard packed it; MaskcliError where it is damaged."""
    with opened(path) as file:
        head = file.read(4)
        file.seek(0)
        if not head.startswith((GZIP, ZSTANDARD)):
            yield file
            return
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if head.startswith(GZIP) else _zstandard(path, file)
        yield cast(BinaryIO, io.BufferedReader(_Expanding(path, stream, size), MEBIBYTE))


def _zstandard(path: str, file: BinaryIO) -> Any:
    with sentences(path, "zstandard") as pyarrow:
        return pyarrow.CompressedInputStream(file, "zstd")


class _Expanding(io.RawIOBase):
    """What a packed file expands to, at most MAX_EXPANSION times its size."""

    def __init__(self, path: str, stream: Any, size: int) -> None:
        self.path, self.stream = path, stream
        self.left = max(size * MAX_EXPANSION, MIN_EXPANSION)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = int(self.stream.readinto(buffer))
        except (EOFError, zlib.error, OSError) as error:
            why = f"is cut off or damaged where it is expanded ({error}); write or download it again"
            raise MaskcliError(f"{self.path!r} {why}") from error
        self.left -= count
        if self.left < 0:
            raise MaskcliError(
                f"{self.path!r} expands to more than {MAX_EXPANSION} times its size, as no rows "
                "do; expand it yourself and pass that file"
            )
        return count
