"""Open files, of which only so many are open at a time, however many are read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

from maskcli.errors import MaskcliError

# Files that are open at a time: many systems let a process have 256.
MOST_OPEN = 32
FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


class Descriptor:
    """A file that is open when it is used, and may be closed in between; many threads may use it at once."""

    def __init__(self, path: str) -> None:
        """Open it, and let others rest where too many are open."""
        self.path = path
        self._lock = threading.Lock()
        self._users = 0
        self._number: int | None = None
        self._number = self._opened()
        self._first = os.fstat(self._number)

    def __del__(self) -> None:
        self.rest()

    @property
    def size(self) -> int:
        """Bytes in the file, when it was opened first."""
        return self._first.st_size

    @contextmanager
    def used(self) -> Iterator[int]:
        """Its number, which stays open inside."""
        with self._lock:
            if self._number is None:
                self._number = self._again()
            self._users += 1
            number = self._number
        try:
            yield number
        finally:
            with self._lock:
                self._users -= 1

    def rest(self) -> None:
        """Close it until it is used again, unless it is in use."""
        # Two that open files at once must not wait for each other.
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._number is not None and not self._users:
                os.close(self._number)
                self._number = None
        finally:
            self._lock.release()

    def _opened(self) -> int:
        """Open it; once too many are open, the others rest."""
        with _CROWD:
            others = list(_OPEN) if len(_OPEN) >= MOST_OPEN else []
            if others:
                _OPEN.clear()
            _OPEN.add(self)
        for other in others:
            other.rest()
        return os.open(self.path, FLAGS)

    def _again(self) -> int:
        """Open the same file once more."""
        number = self._opened()
        now = os.fstat(number)
        if _same(now) != _same(self._first):
            os.close(number)
            raise MaskcliError(
                f"{self.path!r} was replaced while it was read; leave it as it is and run again"
            )
        return number


_OPEN: WeakSet[Descriptor] = WeakSet()
_CROWD = threading.Lock()


def _same(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
