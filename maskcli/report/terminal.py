"""The terminal: what may reach it, how wide it is, whether it has colour, and where results are written."""

from __future__ import annotations

import json
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import StringIO
from typing import TYPE_CHECKING, Any, TextIO, cast

from maskcli.errors import FULL, MaskcliError
from maskcli.untrusted import clean as clean
from maskcli.untrusted import harmless

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

# A table for a pipe is as wide as its content; this is merely wider than any.
PIPE_WIDTH = 1_000_000
# Colours of severities.
STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}


class ClosedPipe(Exception):  # noqa: N818 (it ends the program and is no error)
    """Nobody reads standard output any more. Not an OSError, which typer would turn into exit code 1."""


def colour(stream: TextIO) -> bool:
    """Whether to write colour: NO_COLOR and FORCE_COLOR (0 is off) first, then whether the terminal can."""
    if os.environ.get("NO_COLOR"):
        return False
    forced = os.environ.get("FORCE_COLOR")
    if forced is not None:
        return forced.lower() not in ("", "0", "false")
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def width(stream: TextIO) -> int | None:
    """Columns to fit into: COLUMNS, else the terminal's; None in a pipe, where nothing is cut."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns) > 0:
        return max(int(columns), 20)
    if not stream.isatty():
        return None
    try:
        return max(os.get_terminal_size(stream.fileno()).columns, 20)
    except OSError:
        return 80


def console(stream: TextIO, columns: int | None = None) -> Console:
    """A rich console that writes text as it is: no markup, no emoji; colour and width as above.

    Of so many `columns` it is no terminal's: nothing is coloured.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Careful(Console):
        """A console that lets no text steer the terminal, nor turns a closed pipe into exit code 1."""

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else harmless(text), style, control)

        def on_broken_pipe(self) -> None:
            raise ClosedPipe

    painted = colour(stream) and columns is None
    # Its own escapes pass: what stands between them was looked at.
    plain = stream.stream if isinstance(stream, _Guarded) else stream
    return Careful(
        file=plain if painted else cast(TextIO, _Trimmed(plain)),
        color_system="truecolor"
        if os.environ.get("COLORTERM") in ("truecolor", "24bit")
        else "256"
        if painted
        else None,
        force_terminal=painted,
        no_color=not painted,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
        width=columns or width(stream) or PIPE_WIDTH,
        height=100,
    )


def lines(show: Callable[[Console], None], columns: int) -> list[str]:
    """What a console of so many columns shows, line by line."""
    stream = StringIO()
    show(console(stream, columns))
    return stream.getvalue().splitlines()


def print_line(console: Console, text: Text) -> None:
    """Print a line: many times as fast where there is neither colour nor a width to fit into."""
    if _is_plain(console):
        console.file.write(f"{harmless(text.plain)}\n")
    else:
        console.print(text)


def _is_plain(console: Console) -> bool:
    return console.no_color and console.width == PIPE_WIDTH


def hang(console: Console, label: str, line: str | Text) -> None:
    """Print a line that is wrapped behind its label."""
    from rich.text import Text

    whole = Text(line) if isinstance(line, str) else line
    if _is_plain(console) and "\n" not in whole.plain:
        console.file.write(f"{harmless(label + whole.plain)}\n")
        return
    for at, part in enumerate(whole.wrap(console, max(console.width - len(label), 20))):
        part.rstrip()
        console.print(Text.assemble((label if at == 0 else " " * len(label), "dim"), part))


def cut(text: str, width: int) -> str:
    """Text of at most `width` cells, an ellipsis for what is cut; wide characters count two."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…"


class _Guarded:
    """The one door to standard output and to files of text: whoever forgets `clean` steers no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, with escapes in place of what a terminal would obey."""
        return self.stream.write(harmless(text))


def guarded(stream: TextIO) -> TextIO:
    """A stream that lets nothing through that would steer a terminal."""
    return cast(TextIO, _Guarded(stream))


class _Trimmed:
    """A stream without the blanks that tables leave at the ends of lines."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, without blanks before line ends."""
        return self.stream.write("\n".join(line.rstrip(" ") for line in text.split("\n")))

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()


def say(text: str) -> None:
    """One line on standard error; where that takes nothing, the exit code alone tells."""
    try:
        print(clean(text), file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """Let what a stream does not take go nowhere: the interpreter would fail once more as it ends."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def flush() -> None:
    """Write what waits for standard output, where there is one."""
    if sys.stdout is not None:
        sys.stdout.flush()


@contextmanager
def output(path: str | None) -> Iterator[TextIO]:
    """Where a result goes: standard output (no path, or "-"), or a file that is replaced in the end."""
    if path in (None, "-", "/dev/stdout"):
        if sys.stdout is None:
            raise MaskcliError("standard output is closed; open it, or write to a file with -o FILE")
        try:
            yield guarded(sys.stdout)
            flush()
        except BrokenPipeError:
            raise ClosedPipe from None
        except OSError as error:
            if error.filename is not None or error.errno not in FULL:
                raise
            raise MaskcliError(f"standard output cannot be written, {FULL[error.errno]}") from error
        return
    from maskcli.tensors import replacing

    assert path is not None
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield guarded(file)


def write(pieces: Iterable[str], stream: TextIO) -> None:
    """Write pieces as they come, in blocks."""
    block: list[str] = []
    size = 0
    for piece in pieces:
        block.append(piece)
        size += len(piece)
        if size > 2**16:
            stream.write("".join(block))
            block, size = [], 0
    stream.write("".join(block))


# One encoder for every piece: json.dumps makes a new one each time it is called with options.
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode


def json_text(value: Any) -> str:
    """A value as JSON on one line; NaN and infinities, which JSON has not, are the texts "nan" and "inf"."""
    try:
        return _encode(value)
    except ValueError:
        return _encode(_finite(value))


def _finite(value: Any) -> Any:
    """The same with a text for every number that is none."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_finite, value))
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def csv_line(values: Iterable[object]) -> str:
    """Values as a line of CSV; text that a spreadsheet may take for a formula is quoted."""
    import csv
    import io

    line = io.StringIO()
    cells = (f"'{value}" if isinstance(value, str) and _may_be_formula(value) else value for value in values)
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _may_be_formula(text: str) -> bool:
    """Whether text begins with =, +, - or @, in any width, behind blanks and what nobody sees."""
    if text[:1].isalnum():
        return False
    first = next((each for each in text if unicodedata.category(each)[0] not in "CZM"), "")
    return unicodedata.normalize("NFKC", first).startswith(("=", "+", "-", "@"))
