"""A part of a tensor as numbers: tokens on its axes, and marks where a weight should be 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.report.colours import FOUND
from maskcli.report.terminal import clean, cut
from maskcli.tensors import View

if TYPE_CHECKING:
    from rich.console import Console

    from maskcli.inputs.beside import Beside

# Columns of a number, and of the token of a row.
WIDTH, TOKEN = 8, 14
MARK = "!"


class Numbers(NamedTuple):
    """The values of a view, the tokens of its rows and keys where they are known, and what is wrong."""

    view: View
    rows: list[str] | None
    keys: list[str] | None
    wrong: Array

    @property
    def marked(self) -> bool:
        """Whether there are marks, which take a column behind each number."""
        return bool(self.wrong.any())

    @property
    def width(self) -> int:
        """Columns of a line."""
        count: int = self.view.pixels.shape[1]
        return self.gutter + count * (WIDTH + self.marked)

    @property
    def gutter(self) -> int:
        """Columns in front of the values."""
        from rich.cells import cell_len

        names = 0 if self.rows is None else 1 + max(map(cell_len, self.rows), default=0)
        return len(str(self.view.rows[1])) + 1 + names


def numbers(view: View, shape: tuple[int, ...], told: Beside | None) -> Numbers:
    """What is printed of a part of a tensor of this shape, with what its file tells beside it."""
    if told is None:
        return Numbers(view, None, None, np.zeros(view.pixels.shape, bool))
    item = view.leading[0] if view.leading else 0
    rows, keys = told.names(item, view.rows, shape[-2]), told.names(item, view.keys, shape[-1])
    wrong = np.zeros(view.pixels.shape, bool)
    if told.meant is not None and len(view.leading) == 2:
        wrong = (view.pixels > 0) & ~told.meant.dense(*view.leading, view.rows, view.keys)
    return Numbers(view, _cut(rows, TOKEN), _cut(keys, WIDTH - 1), wrong)


def _cut(names: list[str] | None, width: int) -> list[str] | None:
    return None if names is None else [cut(clean(name), width) for name in names]


def print_numbers(table: Numbers, console: Console) -> None:
    """Each value, under the number and the token of its key and behind those of its row."""
    from rich.cells import set_cell_size
    from rich.text import Text

    view, gutter = table.view, " " * table.gutter
    # A mark stands where a blank stands behind the others.
    space = " " * table.marked
    heads = "".join(f"{key:>{WIDTH}}{space}" for key in range(*view.keys))
    console.print(Text(gutter + heads, style="dim"))
    if table.keys is not None:
        names = "".join(f"{_right(name, WIDTH)}{space}" for name in table.keys)
        console.print(Text(gutter + names, style="dim"))
    for number, (row, values) in enumerate(zip(range(*view.rows), view.pixels, strict=True)):
        digits = len(str(view.rows[1])) + 1
        line = Text(f"{row:>{digits}}", style="dim")
        if table.rows is not None:
            line.append(f" {set_cell_size(table.rows[number], table.gutter - digits - 1)}")
        line = Text.assemble(line)
        for value, wrong in zip(values.tolist(), table.wrong[number].tolist(), strict=True):
            mark = MARK if wrong else space
            line.append(f"{_number(value):>{WIDTH}}{mark}", FOUND if wrong else "")
        console.print(line, no_wrap=True)
    if table.marked:
        console.print(Text.assemble((MARK, FOUND), " should be 0: what the file or --expect says forbids it"))


def _right(text: str, width: int) -> str:
    from rich.cells import cell_len

    return " " * (width - cell_len(text)) + text


def _number(value: float) -> str:
    if not np.isfinite(value):
        return str(value)
    if value == int(value):
        return str(int(value)) if abs(value) < 1e6 else f"{value:.1e}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.0e}"
