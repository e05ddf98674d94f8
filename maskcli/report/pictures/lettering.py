"""Letters of pictures: fonts for every script that is installed, no mathematics, no line too long."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from maskcli.report.terminal import clean

# Fonts with letters that matplotlib's own has not, in the order in which they are asked: CJK, then emoji.
FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Noto Emoji",
    "Symbola",
    "Segoe UI Emoji",
    "Segoe UI Symbol",
    "Noto Sans Symbols2",
    "Unifont",
)
OWN = "DejaVu Sans"
# What stands for a character that no font draws.
MISSING = "▯"
# Missing characters that are told by their numbers.
TOLD = 6


def plain(text: object, longest: int = 24) -> str:
    """Text for a picture, as a terminal may see it and not too long."""
    shown = clean(text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def missing(text: str) -> set[str]:
    """The characters of a text that no installed font draws."""
    foreign = set(text) - _letters(OWN)
    for family in _installed() if foreign else ():
        foreign -= _letters(family)
    return foreign


def without(text: str, letters: set[str]) -> str:
    """The text with a sign for such letters; marks that change the letter before them leave nothing."""
    gone = {ord(letter): "" if unicodedata.category(letter) == "Mn" else MISSING for letter in letters}
    return text.translate(gone)


def told(letters: Iterable[str]) -> str:
    """A note on characters that no font has."""
    codes = [f"U+{ord(letter):04X}" for letter in sorted(letters)]
    more = f" and {len(codes) - TOLD} more" if len(codes) > TOLD else ""
    return f"{MISSING} no installed font has {', '.join(codes[:TOLD])}{more}"


def set_fonts(figure: Any) -> None:
    """Give all texts of a figure the fonts that have their letters; none is read as mathematics."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        if set(text.get_text()) - _letters(OWN) - {"\n"}:
            text.set_fontfamily([OWN, *_installed()])


def fit(text: Any, inches: float, lines: int = 2) -> None:
    """Break a text of a figure into at most so many lines of so many inches; an ellipsis is the rest."""
    whole = text.get_text()
    renderer = text.figure.canvas.get_renderer()
    most = inches * text.figure.dpi
    letters = len(whole)
    while (wide := text.get_window_extent(renderer).width) > most and letters > 1:
        letters = max(1, min(letters - 1, int(max(map(len, text.get_text().split("\n"))) * most / wide)))
        text.set_text("\n".join(textwrap.wrap(whole, letters, max_lines=lines, placeholder="…")))


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """Those of FONTS that matplotlib finds."""
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    return tuple(family for family in FONTS if family in known)


@lru_cache(maxsize=len(FONTS) + 1)
def _letters(family: str) -> frozenset[str]:
    """The characters of a font."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(map(chr, get_font(findfont(family)).get_charmap()))
