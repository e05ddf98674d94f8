"""Rows of tokens as text, with what the loss counts and what a finding is about marked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from maskcli.auditing.results import Example
from maskcli.report.terminal import clean

if TYPE_CHECKING:
    from rich.text import Text

# Colour: a background is counted, red is flagged. Both are readable on dark and light, and told apart by
# people who see no green. Themes for light grounds have a dark "white".
COUNTED, FLAGGED, BOTH = "#ffffff on #1f5fa8", "bold underline red", "bold underline #ffffff on #b3261e"
# Without colour: marks, and what stands before one that a text holds itself.
MARKS = {"counted": ("[[", "]]"), "flagged": ("{{", "}}")}
ESCAPE = "\\"
_MARK = re.compile("|".join(re.escape(mark) for pair in MARKS.values() for mark in pair))
# What stands for a line break: a text of many lines is one paragraph.
NEWLINE = "↵"
# A blank, as vocabularies write it before words; inside of one it is the word's own.
_BLANK = re.compile(r"(?<![^\s▁])▁")
# Bytes of a character that is spread over tokens, as byte-level vocabularies and byte fallback show them.
_BYTES = re.compile(r"\\x([89a-f][0-9a-f])|<0x([89A-F][0-9A-F])>")

# A piece of more tokens is shown by its first and its last ones: of what a finding is about more than of what
# is beside it. Pieces are shown up to so many tokens in all.
FLAGGED_ENDS, OTHER_ENDS, MOST = (16, 8), (8, 6), 80
CUT = " … "

Tokens = Callable[[int], str]


class Piece(NamedTuple):
    """Text of so many tokens that are marked alike, of which `shown` are in the text."""

    text: str
    counted: bool
    flagged: bool
    tokens: int
    shown: int


def pieces(example: Example, token: Tokens | None, apart: bool) -> list[Piece]:
    """An example as text, in pieces; `apart` puts a blank between tokens. Without `token` it is ids.

    Long pieces are shown without their middle, and pieces behind the first MOST tokens are left out.
    """
    known = token or str
    marked = zip(example.tokens, example.counted, example.flagged, strict=True)
    made: list[Piece] = []
    for (counted, flagged), group in groupby(marked, key=lambda each: each[1:]):
        if sum(piece.shown for piece in made) >= MOST:
            break
        texts = [known(each[0]) for each in group]
        head, tail = FLAGGED_ENDS if flagged else OTHER_ENDS
        whole = len(texts) <= head + tail
        parts = [texts] if whole else [texts[:head], texts[-tail:]]
        text = CUT.join(_joined(part, apart) for part in parts).replace(f"{CUT} ", CUT)
        made.append(Piece(text, counted, flagged, len(texts), sum(map(len, parts))))
    return made


def words_apart(examples: Iterable[Example], token: Tokens | None) -> bool:
    """Whether tokens are words or ids, between which a text has blanks: none of them holds a blank itself."""
    if token is None:
        return True
    return not any("▁" in token(number) for number in {each for one in examples for each in one.tokens})


def _joined(texts: Sequence[str], apart: bool) -> str:
    """Tokens as the text that they are, a character of several tokens whole, on one line."""
    if apart:
        return clean(" ".join(texts).replace(" ##", ""))
    blanks = (_BLANK.sub(" ", text) for text in texts)
    whole = b"".join(map(_encoded, blanks)).decode("utf-8", "backslashreplace")
    return NEWLINE.join(map(clean, whole.replace("\r\n", "\n").split("\n")))


def _encoded(text: str) -> bytes:
    """A token's bytes."""
    parts = _BYTES.split(text)
    # Between the texts stand the two groups of each match, one of which is None.
    return b"".join(
        bytes.fromhex(part) if at % 3 else part.encode("utf-8", "surrogatepass")
        for at, part in enumerate(parts)
        if part is not None
    )


def plain(parts: Iterable[Piece], apart: bool) -> str:
    """Pieces with marks, for a pipe: `[[counted]]`, `{{flagged}}`; marks that the text holds are escaped."""
    blank = " " if apart else ""
    runs = []
    for counted, group in groupby(parts, key=lambda piece: piece.counted):
        inner = blank.join(_within(escaped(piece.text), "flagged", piece.flagged) for piece in group)
        runs.append(_within(inner, "counted", counted))
    return blank.join(runs)


def _within(text: str, kind: str, marked: bool) -> str:
    opens, closes = MARKS[kind] if marked else ("", "")
    return f"{opens}{text}{closes}"


def escaped(text: str) -> str:
    """Text in which nothing looks like a mark."""
    return _MARK.sub(lambda mark: ESCAPE + mark[0], text)


def painted(parts: Iterable[Piece], apart: bool) -> Text:
    """Pieces in colour, for a terminal."""
    from rich.text import Text

    blank = " " if apart else ""
    return Text(blank).join(Text(piece.text, style=style_of(piece)) for piece in parts)


def style_of(piece: Piece) -> str:
    """The colour of a piece."""
    if piece.counted:
        return BOTH if piece.flagged else COUNTED
    return FLAGGED if piece.flagged else ""


def legend(colour: bool) -> Text:
    """What the marks mean."""
    from rich.text import Text

    if not colour:
        return Text("[[counted by the loss]], {{what the finding is about}}")
    return Text.assemble(("counted by the loss", COUNTED), ", ", ("what the finding is about", FLAGGED))
