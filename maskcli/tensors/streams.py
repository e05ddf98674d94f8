"""A handle as a file of its own, for libraries that want one to read from."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from maskcli.tensors.storage import Handle

# Bytes read at a time for whoever wants a few.
BLOCK = 2**18


class Window(io.RawIOBase):
    """A seekable file over a handle, whose position no other shares."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._handle.size}[whence]
        if start + offset < 0:
            raise OSError(22, "negative position")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer, as far as the file goes."""
        data = self._handle.bytes(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def stream_of(handle: Handle) -> BinaryIO:
    """A handle as a file that is read in blocks."""
    return cast(BinaryIO, io.BufferedReader(Window(handle), BLOCK))
