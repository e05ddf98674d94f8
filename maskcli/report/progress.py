"""Progress of long work, on standard error and only when that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

# Less than this is read in the blink of an eye, as are fewer files.
WORTH_SHOWING, MANY_FILES = 2**28, 64

T = TypeVar("T")


class Bar(NamedTuple):
    """A bar that `advance` moves on by some bytes; None when there is nobody to see it."""

    advance: Callable[[int], None] | None
    shown: Progress | None

    def while_waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The items; the bar is out of sight while one of them is in use, so that it can be printed."""
        for item in items:
            if self.shown is not None:
                self.shown.stop()
            yield item
            if self.shown is not None:
                self.shown.start()


@contextmanager
def progress(what: str, total: int, files: int = 1) -> Iterator[Bar]:
    """A bar over `total` bytes of some files."""
    if (total < WORTH_SHOWING and files < MANY_FILES) or not sys.stderr.isatty():
        yield Bar(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    # Standard output is left alone: it may be a file, and the bar would take what is written there for its
    # own.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(what, total=total)
        yield Bar(lambda count: bar.advance(task, count), bar)


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A line that says what is being worked on, in a terminal; what to call with each part."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    from maskcli.report.terminal import clean

    with Console(stderr=True).status(clean(what)) as status:
        yield lambda part: status.update(f"{clean(what)}: {clean(part)}")
