"""The one table of colours: of who attends, and of the reasons of masks/reasons.py."""

from __future__ import annotations

from typing import NamedTuple


class Paint(NamedTuple):
    """A colour: `style` in a terminal, readable on dark and on light; `fill` in pictures and pages.

    `glyph` stands for it where there is no colour, and `label` in legends.
    """

    style: str
    fill: str
    glyph: str
    label: str


ATTENDS = "attends"
PAINTS = {
    ATTENDS: Paint("#3b7dd8", "#1f5fa8", "■", "attends"),
    "padding": Paint("#b08d3c", "#f1deac", "-", "padding"),
    "document": Paint("#e07020", "#f0b27e", "/", "another document"),
    "future": Paint("#8a8a8a", "#dfe3e8", "·", "future"),
    "window": Paint("#9d6ad6", "#c6b2e3", "~", "outside the window"),
    "other": Paint("#2f9e8f", "#a9d0c6", "x", "forbidden otherwise"),
}
# What a finding is about, and nothing else.
FOUND = "bold red"
