"""The one map of characters: pixels as shades, lines behind the number of their first row."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from maskcli.arrays import Array

if TYPE_CHECKING:
    from rich.console import Console

# A map in a pipe or on a wide screen gets at most this many columns and lines of characters.
MAP_WIDTH, MAP_HEIGHT = 160, 48
# From blank to nearly full; a full block follows.
SHADES = " ░▒▓"
FULL = "█"


def columns(console: Console, gutter: int, most: int = MAP_WIDTH) -> int:
    """The characters of a line of a map, behind a gutter of so many columns."""
    return max(min(console.width, most) - gutter, 10)


def shaded(share: Array, characters: str = SHADES) -> Array:
    """A character for each share in 0..1: the first for 0 alone, the others in equal steps, `?` for NaN."""
    known = np.nan_to_num(share, nan=1.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
    steps = np.ceil(known * (len(characters) - 1)).astype(int)
    glyphs: Array = np.array(list(characters))[steps]
    glyphs[np.isnan(share)] = "?"
    return glyphs


def print_map(
    console: Console,
    firsts: Iterable[int],
    glyphs: Array,
    note: str,
    gutter: int,
    style: Array | str = "green",
) -> None:
    """Lines behind the number of their first row, in a gutter of so many columns; then the note.

    `style` is that of all characters, or of each.
    """
    from rich.text import Text

    styles = np.broadcast_to(np.array(style, object), glyphs.shape)
    for first, line, looks in zip(firsts, glyphs.tolist(), styles.tolist(), strict=True):
        whole = Text.assemble((f"{first:>{gutter - 1}} ", "dim"))
        for look, run in groupby(zip(line, looks, strict=True), key=itemgetter(1)):
            whole.append("".join(glyph for glyph, _ in run), style=look)
        whole.rstrip()
        console.print(whole, no_wrap=True)
    console.print(Text(note, style="dim"))
