"""The colours of pictures, on a light and on a dark ground."""

from __future__ import annotations

from dataclasses import dataclass

# What a cell is called in a legend, by its kind: who attends, else why not.
WORDS = {
    "attends": "attends",
    "future": "later than the query",
    "padding": "padding",
    "document": "another document",
    "window": "outside the window",
    "other": "forbidden otherwise",
    "ignored": "ignored",
}


@dataclass(frozen=True)
class Theme:
    """Colours on a light or a dark ground.

    `cells` has one for each kind of WORDS, all apart for every kind of colour blindness, as attending is far
    darker (or lighter) than the rest. `weights` rise from the smallest weight to 1, `zero` is exactly 0.
    """

    ground: str
    ink: str
    quiet: str
    faint: str
    cells: dict[str, str]
    weights: tuple[str, ...]
    zero: str
    finding: str


LIGHT = Theme(
    ground="#ffffff",
    ink="#1d232b",
    quiet="#66707c",
    faint="#b4bac2",
    cells={
        "attends": "#1f5fa8",
        "future": "#e4e7eb",
        "padding": "#efdfb4",
        "document": "#f1b683",
        "window": "#c9b6e4",
        "other": "#b5d6cb",
        "ignored": "#e4e7eb",
    },
    weights=("#f4e8c8", "#b9cbd0", "#6c9fc9", "#1f5fa8", "#0a2a55"),
    zero="#ffffff",
    finding="#d6202f",
)
DARK = Theme(
    ground="#14181e",
    ink="#e8ebef",
    quiet="#98a2ae",
    faint="#5b6571",
    cells={
        "attends": "#62a8f5",
        "future": "#2a313a",
        "padding": "#5d5030",
        "document": "#7d4b22",
        "window": "#54417a",
        "other": "#2f5a4d",
        "ignored": "#2a313a",
    },
    weights=("#3a3524", "#2c4a63", "#2f74b5", "#62a8f5", "#d9ecff"),
    zero="#14181e",
    finding="#ff5a5f",
)
THEMES = {"light": LIGHT, "dark": DARK}
