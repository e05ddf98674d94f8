"""The colours of pictures, on a light and on a dark ground."""

from __future__ import annotations

from dataclasses import dataclass

from maskcli.report.colours import PAINTS

# A cell that is forbidden, where nothing tells why.
IGNORED = "ignored"
# Cells of two masks of which one lets them be seen.
ONLY_A, ONLY_B = "only A", "only B"
# What cells are called in a legend.
WORDS = {kind: paint.label for kind, paint in PAINTS.items()} | {
    each: each for each in (IGNORED, ONLY_A, ONLY_B)
}


@dataclass(frozen=True)
class Theme:
    """Colours on a light or a dark ground.

    `cells` has one for each kind of WORDS: attending is far darker (or lighter) than the rest, for every kind
    of colour blindness and in grey. `weights` rise from the smallest weight to 1, `zero` is exactly 0.
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
    cells={kind: paint.fill for kind, paint in PAINTS.items()}
    | {IGNORED: "#e4e7eb", ONLY_A: "#129490", ONLY_B: "#c2338b"},
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
        "padding": "#5d5030",
        "document": "#8a5222",
        "future": "#333b45",
        "window": "#5b4685",
        "other": "#2f6255",
        IGNORED: "#2a313a",
        ONLY_A: "#2fc4b8",
        ONLY_B: "#f06ab8",
    },
    weights=("#3a3524", "#2c4a63", "#2f74b5", "#62a8f5", "#d9ecff"),
    zero="#14181e",
    finding="#ff5a5f",
)
THEMES = {"light": LIGHT, "dark": DARK}
