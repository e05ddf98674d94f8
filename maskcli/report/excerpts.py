"""The finding on the map: who attends beside who should, in at most ten lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from maskcli.diagnostics.finding import Excerpt, Stretch
from maskcli.report.colours import ATTENDS, FOUND, PAINTS
from maskcli.report.terminal import clean, cut, hang

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Of a cell that attends, and that should: its character, its colour, and what it means.
CELLS = {
    (True, True): (PAINTS[ATTENDS].glyph, PAINTS[ATTENDS].style, "attends"),
    (False, False): ("·", "dim", "ignores"),
    (True, False): ("!", FOUND, "attends and should not"),
    (False, True): ("?", FOUND, "should attend and does not"),
}
# How wide what names a query may be, and a key: the widest that fits.
ROW, LABELS = 14, (14, 8, 5)
INDENT, GAP = "         ", 3


class _Axes(NamedTuple):
    """What names the lines, and the columns."""

    rows: list[str]
    columns: list[str]

    @property
    def stub(self) -> int:
        """Cells that the names of the lines take."""
        from rich.cells import cell_len

        return max(map(cell_len, self.rows))

    @property
    def wide(self) -> int:
        """Cells that one map takes."""
        from rich.cells import cell_len

        return sum(cell_len(each) + 1 for each in self.columns)


def print_excerpt(excerpt: Excerpt, console: Console) -> None:
    """What is, red where it is wrong, and beside it what should be, as far as there is room."""
    axes = next(each for each in _named(excerpt) if _fits(each, console) or len(each.columns) < 2)
    two = _fits(axes, console, maps=2)
    console.print(_header(axes, two), soft_wrap=True)
    for number, name in enumerate(axes.rows):
        line = _line(axes, excerpt, number)
        if two:
            line.append(" " * GAP)
            line.append_text(_line(axes, excerpt, number, meant=True))
        console.print(_stub(name, axes.stub).append_text(line), soft_wrap=True)
    _print_legend(excerpt, two, console)


def _named(excerpt: Excerpt) -> Iterator[_Axes]:
    """The names of both axes, narrower and narrower; in the end with fewer columns."""
    rows = [cut(_name(each), ROW) for each in excerpt.queries]
    for label in LABELS:
        yield _Axes(rows, [cut(_name(each), label) for each in excerpt.keys])
    names = [cut(_name(each), LABELS[-1]) for each in excerpt.keys]
    for count in range(len(names) - 1, 0, -1):
        yield _Axes(rows, names[:count])


def _fits(axes: _Axes, console: Console, maps: int = 1) -> bool:
    room = console.width - len(INDENT) - axes.stub - 1
    return maps * axes.wide + (maps - 1) * GAP <= room


def _name(stretch: Stretch) -> str:
    """A token and how many of it, or numbers: "<pad> x14", "12..26"."""
    start, stop, token = stretch
    if not token:
        return str(start) if stop - start == 1 else f"{start}..{stop}"
    return clean(token) if stop - start == 1 else f"{clean(token)} x{stop - start}"


def _header(axes: _Axes, two: bool) -> Text:
    """The names of the keys, over each of the maps."""
    from rich.text import Text

    names = "".join(f"{name} " for name in axes.columns)
    return _stub("", axes.stub).append_text(Text(names + " " * GAP + names if two else names, "dim"))


def _stub(name: str, wide: int) -> Text:
    from rich.cells import cell_len
    from rich.text import Text

    # Of its own: what is appended is not dim.
    return Text.assemble((INDENT + " " * (wide - cell_len(name)) + name + " ", "dim"))


def _line(axes: _Axes, excerpt: Excerpt, number: int, meant: bool = False) -> Text:
    """The cells of a query below the names of their keys: as they are, or as they are meant."""
    from rich.cells import cell_len
    from rich.text import Text

    line = Text()
    cells = zip(axes.columns, excerpt.attends[number], excerpt.should[number], strict=False)
    for name, attends, should in cells:
        glyph, style, _ = CELLS[should if meant else attends, should]
        before = (cell_len(name) - 1) // 2
        line.append(" " * before)
        line.append(glyph, style)
        line.append(" " * (cell_len(name) - before))
    return line


def _print_legend(excerpt: Excerpt, two: bool, console: Console) -> None:
    """What the characters that occur mean, and where it is."""
    from rich.text import Text

    lines = zip(excerpt.attends, excerpt.should, strict=True)
    seen = {pair for line in lines for pair in zip(*line, strict=True)}
    shown = [cell for pair, cell in CELLS.items() if pair in seen]
    parts = [Text.assemble((glyph, style), f" {words}") for glyph, style, words in shown]
    beside = "; at the right what should be" if two else ""
    parts.append(Text(f"(sample {excerpt.batch}, head {excerpt.head}{beside})", "dim"))
    hang(console, INDENT, Text("  ").join(parts))
