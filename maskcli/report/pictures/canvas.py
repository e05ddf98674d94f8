"""What every picture is drawn on: panels of square cells, axes, legends; and how it is saved."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np

from maskcli.arrays import Array
from maskcli.report.forms import Look
from maskcli.report.pictures.lettering import fit, missing, plain, set_fonts, told, without
from maskcli.report.pictures.themes import THEMES
from maskcli.tensors import replacing

# Tokens are named on an axis up to so many cells, and a grid is drawn; beyond, ticks are numbers.
NAMED = 64
# Pixels of a panel on a side: every cell up to here, shares of cells beyond. One of several panels has half.
PIXELS = 800
# Panels of a picture, and of one of its rows.
MOST_PANELS, ACROSS = 8, 4
# Cells are not square where that would make a line of the panel.
SLIM = 8
# Inches: a cell with a name, the least and the largest side of a panel, a letter and a line of names.
CELL, LEAST, LARGEST, LETTER, LINE = 0.25, 2.2, 8.0, 0.07, 0.18
GAP = 0.1
DPI = 150
# Points of a name, and of an inch; how much of a cell the letters of its name fill at most.
SIZE, INCH, FILLED = 8, 72, 0.8
# A token's letters before an ellipsis.
LETTERS = 24


class Canvas:
    """A figure with panels in rows, in the colours of one theme."""

    def __init__(self, look: Look, panels: int, cells: tuple[int, int], across: int = ACROSS) -> None:
        """Panels for so many cells (queries, keys), in rows that are as equal as can be."""
        self.look, self.theme = look, THEMES[look.theme]
        self.lines = math.ceil(panels / across)
        self.columns = math.ceil(panels / self.lines)
        self.cells, self.inches = cells, _inches(cells, panels)
        self.pixels = PIXELS if panels == 1 else PIXELS // 2
        self.notes: list[str] = []
        self.missing: set[str] = set()
        # Inches of what else stands beside the panels.
        self.extra = 0.0
        self.shared = False

        self.figure = _blank(look.dpi or DPI)
        self.figure.set_facecolor(self.theme.ground)
        places = self.figure.subplots(self.lines, self.columns, squeeze=False).ravel()
        for unused in places[panels:]:
            unused.remove()
        self.panels: list[Any] = list(places[:panels])

    def draw(self, axes: Any, colours: Array, rows: tuple[int, int], keys: tuple[int, int]) -> None:
        """Cells of rows and keys [start, stop) in colours [tall, wide, 3]; ticks stand in their middle."""
        tall, wide = rows[1] - rows[0], keys[1] - keys[0]
        edges = (keys[0] - 0.5, keys[1] - 0.5, rows[1] - 0.5, rows[0] - 0.5)
        aspect = "equal" if max(tall, wide) <= SLIM * min(tall, wide) else "auto"
        axes.imshow(colours, extent=edges, aspect=aspect, interpolation="nearest")
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.tick_params(colors=self.theme.ink, labelsize=SIZE, length=2, width=0.5)
        axes.spines[:].set(color=self.theme.quiet, linewidth=0.5)
        _number(axes.xaxis)
        _number(axes.yaxis)
        if max(tall, wide) <= NAMED:
            axes.set_xticks(np.arange(keys[0], keys[1] + 1) - 0.5, minor=True)
            axes.set_yticks(np.arange(rows[0], rows[1] + 1) - 0.5, minor=True)
            axes.grid(which="minor", color=self.theme.ground, linewidth=0.8)
            axes.tick_params(which="minor", length=0)

    def text(self, text: object, longest: int = 300) -> str:
        """Text that can be drawn; what no font has is noted."""
        shown = plain(text, longest)
        lacking = missing(shown)
        self.missing |= lacking
        return without(shown, lacking)

    def tokens(self, axis: Any, names: Iterable[str], first: int = 0) -> None:
        """Name the cells of an axis, from `first` on."""
        shown = [self.text(name, LETTERS) for name in names]
        turned = {"rotation": 90} if axis.axis_name == "x" else {}
        axis.set_ticks(range(first, first + len(shown)), shown, parse_math=False, **turned)
        cell = max(self.inches) / max(self.cells)
        axis.set_tick_params(length=0, labelsize=min(SIZE, FILLED * cell * INCH))

    def name(self, down: str, across: str) -> None:
        """What stands on the axes, said beside the outer panels."""
        for axes in self.panels[:: self.columns]:
            axes.set_ylabel(down, color=self.theme.quiet, fontsize=8)
        for axes in self.panels[: self.columns]:
            axes.set_xlabel(across, color=self.theme.quiet, fontsize=8)

    def share_names(self) -> None:
        """Leave the names of cells to the outer panels: all have the same."""
        self.shared = True
        for at, axes in enumerate(self.panels):
            axes.tick_params(labeltop=at < self.columns, labelleft=at % self.columns == 0)

    def caption(self, axes: Any, text: str, lines: int = 1) -> None:
        """What a panel shows, below it."""
        below = {"xycoords": "axes fraction", "xytext": (0, -5), "textcoords": "offset points"}
        drawn = axes.annotate(
            self.text(text), (0.5, 0), ha="center", va="top", fontsize=9, color=self.theme.ink, **below
        )
        fit(drawn, self.inches[1] + 0.4, lines)

    def finish(self, title: str, entries: Sequence[tuple[str, dict[str, Any]]]) -> Any:
        """The figure, with its title, a legend of patches and their words, and the notes below."""
        self.figure.set_size_inches(self._size())
        width = self.figure.get_figwidth() - 0.3
        above = self.figure.suptitle(self.text(self.look.title or title), fontsize=12, color=self.theme.ink)
        fit(above, width)
        below = self._legend(entries, width)
        notes = [*map(self.text, self.notes), *([told(self.missing)] if self.missing else [])]
        below.set_title("\n".join(notes) or None, {"size": 8})
        below.get_title().set(color=self.theme.quiet, multialignment="center")
        fit(below.get_title(), width, 6)
        set_fonts(self.figure)
        self.figure.align_xlabels()
        return self.figure

    def _legend(self, entries: Sequence[tuple[str, dict[str, Any]]], width: float) -> Any:
        from matplotlib.patches import Patch

        edge: dict[str, Any] = {"edgecolor": self.theme.quiet, "linewidth": 0.5}
        return self.figure.legend(
            handles=[Patch(label=self.text(label, 60), **edge | style) for label, style in entries],
            loc="outside lower center",
            ncols=max(1, min(len(entries), int(width / 1.6))),
            frameon=False,
            fontsize=8,
            labelcolor=self.theme.ink,
            handlelength=1,
            handleheight=1,
        )

    def _size(self) -> tuple[float, float]:
        """Inches of the figure: panels, with room for their names and captions, the title and the legend."""
        tall, wide = self.inches
        beside = max(_letters(axes.get_yticklabels()) for axes in self.panels) * LETTER + 0.4
        above = max(_letters(axes.get_xticklabels()) for axes in self.panels) * LETTER + 0.3
        captions = max(_lines(axes.texts) for axes in self.panels) * LINE
        if self.shared:
            wide, tall, columns, lines = wide + GAP, tall + GAP, 1, 1
        else:
            columns, lines = self.columns, self.lines
        across = self.columns * wide + columns * beside + self.extra
        return across, self.lines * (tall + captions) + lines * above + 1


def _letters(labels: Iterable[Any]) -> int:
    return max((len(label.get_text()) for label in labels), default=0)


def _lines(texts: Iterable[Any]) -> int:
    return max((text.get_text().count("\n") + 1 for text in texts), default=0)


def rgb(colour: str) -> Array:
    """Red, green and blue in 0..1, float64 [3]."""
    from matplotlib.colors import to_rgb

    return np.array(to_rgb(colour))


def save(figure: Any, path: str) -> None:
    """Write a figure in the form of the suffix, cut to what is drawn."""
    with replacing(path) as temporary:
        write(figure, temporary, path)


def write(figure: Any, file: str | BinaryIO, name: str) -> None:
    """The same into a file that is there, in the form of the suffix of a name."""
    form = os.path.splitext(name)[1][1:].lower()
    # Where its file fails, matplotlib's writer of PDF fails once more as it ends, with an error of its own.
    drawn = io.BytesIO()
    figure.savefig(drawn, format=form, bbox_inches="tight", pad_inches=0.15)
    if isinstance(file, str):
        with open(file, "wb") as opened:
            opened.write(drawn.getbuffer())
    else:
        file.write(drawn.getbuffer())


def _blank(dpi: int) -> Any:
    """An empty figure, without pyplot: no window system is asked for, and no state stays behind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Drawn(Figure):
        """A figure that a notebook shows; those of others it shows once pyplot is imported."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", bbox_inches="tight")
            return file.getvalue()

    drawn = Drawn(layout="compressed", dpi=dpi)
    FigureCanvasAgg(drawn)
    return drawn


def _inches(cells: tuple[int, int], panels: int) -> tuple[float, float]:
    """How tall and wide a panel is: its cells are square, and those with names have room for them."""
    most = LARGEST if panels == 1 else LARGEST / 2
    longest = max(cells)
    side = most
    if longest <= NAMED:
        side = max(LEAST, CELL * longest if panels == 1 else min(most, CELL * longest))
    tall, wide = (max(side * length / longest, side / SLIM) for length in cells)
    return tall, wide


def _number(axis: Any) -> None:
    """A few whole numbers as ticks."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(8, integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
