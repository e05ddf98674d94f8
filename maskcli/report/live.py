"""The live line of `trace`: what was seen so far, on a terminal, below what the program itself writes there.

The program's streams stay the objects that they are. Only their `write` is looked at, so that the line is
gone before the program writes; it comes back with the next call of attention.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from maskcli.report.terminal import STYLES, clean, colour, cut, width

if TYPE_CHECKING:
    from maskcli.tracing.results import SoFar, Told

# Seconds between two looks of the line.
PAUSE = 0.2
# Letters of an unfinished line of the program that are written again below the line.
LONGEST = 1000
ERASE, UP = "\r\x1b[K", "\x1b[A\r"
# Codes that the line names before it counts the rest.
CODES = 3


@contextmanager
def live(program: str, wanted: bool = True) -> Iterator[Told | None]:
    """What to tell of each call of attention; None where nobody would see the line."""
    stream = sys.stderr
    if not wanted or not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    line = Line(stream)
    line.follow(*_same_terminal(stream))
    line.show([(f"trace: no attention call of {clean(program)} yet", "dim")])
    try:
        yield line.tell
    finally:
        line.close()


def _same_terminal(stream: TextIO) -> list[TextIO]:
    """The streams of the program that end on the terminal of this one."""
    streams = [stream]
    with suppress(OSError, ValueError, AttributeError):
        if os.fstat(sys.stdout.fileno()).st_rdev == os.fstat(stream.fileno()).st_rdev:
            streams.append(sys.stdout)
    return streams


class Line:
    """A line below the program's output, which the program's own writes never meet."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._write = stream, stream.write
        self._lock, self._process = threading.RLock(), os.getpid()
        self._shown, self._closed, self._last = False, False, 0.0
        # What the program has written since its last line end.
        self._begun = ""
        self._undo: list[Callable[[], None]] = []

    def follow(self, *streams: TextIO) -> None:
        """Look at what these write from here on."""
        for stream in streams:
            with suppress(AttributeError):
                self._follow(stream)

    def _follow(self, stream: TextIO) -> None:
        original = stream.write

        @functools.wraps(original)
        def write(text: str) -> int:
            if self._closed or os.getpid() != self._process:
                return original(text)
            with self._lock:
                self._give_way(text)
                return original(text)

        def undo() -> None:
            # What the program has put in its place stays.
            if vars(stream).get("write") is write:
                del stream.write

        stream.write = write  # type: ignore[method-assign]
        self._undo.append(undo)

    def _give_way(self, text: str) -> None:
        """The program is about to write: nothing of the line may stand where it does."""
        if not isinstance(text, str):
            return
        redraws = self._begun != "" and text.startswith("\r") and "\n" not in text and "\x1b" not in text
        if self._shown and not redraws:
            self._erase()
        whole = (self._begun + text).rpartition("\n")[2]
        begun = "\r" + whole.rpartition("\r")[2] if "\r" in whole else whole
        # What is too long to be written again is no bar, however long it gets.
        self._begun = begun[: LONGEST + 1]

    def tell(self, so_far: Callable[[], SoFar]) -> None:
        """Show what was seen so far, unless it was shown a moment ago."""
        now = time.monotonic()
        if now - self._last < PAUSE or self._closed or os.getpid() != self._process:
            return
        self._last = now
        self.show(_parts(so_far()))

    def show(self, parts: list[tuple[str, str]]) -> None:
        """Show a line, below a progress bar of the program's; not where a line of it has no end yet."""
        columns = (width(self._stream) or 80) - 1
        with self._lock:
            bar = self._begun
            if bar and not _is_bar(bar, columns):
                return
            line = _painted(parts, columns, colour(self._stream))
            self._put(f"\n{ERASE}{line}{UP}{bar}" if bar else f"{ERASE}{line}\r")
            self._shown = True

    def _erase(self) -> None:
        self._put(f"\n{ERASE}{UP}{self._begun}" if self._begun else ERASE)
        self._shown = False

    def _put(self, text: str) -> None:
        try:
            self._write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._closed = True

    def close(self) -> None:
        """Leave the terminal as the program alone would have left it."""
        if os.getpid() == self._process:
            with self._lock:
                if self._shown and not self._closed:
                    self._erase()
        self._closed = True
        for undo in self._undo:
            undo()


def _is_bar(begun: str, columns: int) -> bool:
    """Whether an unfinished line is one that is drawn again and again, and can be drawn once more."""
    from rich.cells import cell_len

    bar = begun[1:]
    again = begun.startswith("\r") and bar.isprintable() and len(begun) <= LONGEST
    return again and cell_len(bar) <= columns


def _parts(seen: SoFar) -> list[tuple[str, str]]:
    """The line as texts and their styles."""
    from maskcli.diagnostics.plain import counts_in_words
    from maskcli.masks.words import counted, first

    parts = [(f"trace: step {seen.step:,}, {counted(seen.calls, 'attention call')}, ", "dim")]
    if not seen.codes:
        return [*parts, ("nothing found so far", "dim")]
    worst = next(severity for severity in STYLES if seen.counts.get(severity))
    named = first(seen.codes, CODES, " and {} more")
    return [*parts, (counts_in_words(seen.counts), STYLES[worst]), (f": {named}", "dim")]


def _painted(parts: list[tuple[str, str]], columns: int, painted: bool) -> str:
    """Texts in their styles, in at most so many columns."""
    from rich.cells import cell_len
    from rich.color import ColorSystem
    from rich.style import Style

    line, room = "", columns
    for text, style in parts:
        fits = cut(text, room) if room > 0 else ""
        room -= cell_len(fits)
        line += Style.parse(style).render(fits, color_system=ColorSystem.STANDARD) if painted else fits
    return line
