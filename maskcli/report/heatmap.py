"""Pictures of masks as .png, .svg and .pdf. The only room that imports matplotlib."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

import numpy as np

from maskcli.inputs.texts import Shown
from maskcli.masks.views import picture
from maskcli.report.terminal import clean
from maskcli.tensors import replacing

# Tokens are named on an axis up to this many; beyond, ticks are numbers.
NAMED = 40
# A grid helps up to this many cells on a side.
GRID = 64
# Pixels of a picture on a side: every token up to here, shares of attended cells beyond. One of several
# panels has half.
PIXELS = 800
# Panels for batch items that differ.
MOST_PANELS = 6
# Two colours that stay apart for every kind of colour blindness and in grey: blue attends, pale sand is
# ignored.
ATTEND_COLOUR, IGNORE_COLOUR = "#1f5fa8", "#f2e6c9"


def save_heatmap(shown: Shown, path: str) -> None:
    """Write the picture of a mask."""
    drawn = figure(shown)
    with replacing(path) as temporary, warnings.catch_warnings():
        # A font without a token's glyph draws a box; that is no news for someone who asked for a picture.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        drawn.savefig(temporary, format=os.path.splitext(path)[1][1:].lower())


def figure(shown: Shown) -> Any:
    """The picture of a mask: one panel for each sequence, or one for all that are equal."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Patch

    items = shown.mask.shape[0]
    panels = 1 if shown.mask.stored[0] == 1 else min(items, MOST_PANELS)
    side = _side(max(shown.mask.shape[2:]), panels)
    drawn = blank((side * panels + 1.2, side + 1.2))
    colours = LinearSegmentedColormap.from_list("attend", [IGNORE_COLOUR, ATTEND_COLOUR])
    queries, keys = shown.mask.shape[2:]
    pixels = PIXELS if panels == 1 else PIXELS // 2
    most = 0
    for item, axes in enumerate(np.atleast_1d(drawn.subplots(1, panels, squeeze=False)[0])):
        share, cells = picture(shown.mask, pixels, pixels, item)
        look = {"cmap": colours, "vmin": 0, "vmax": 1, "interpolation": "nearest", "aspect": "auto"}
        axes.imshow(share, extent=(0, keys, queries, 0), **look)
        most = max(most, int(cells.max(initial=0)))
        _label(axes, shown, item)
        if panels > 1:
            axes.set_title(f"sequence {item}")

    drawn.suptitle(_plain(shown.spec, 100) + _whose(panels, items))
    note = f"each pixel: share of {most:,} cells attended" if most > 1 else None
    handles = [
        Patch(facecolor=ATTEND_COLOUR, edgecolor="grey", label="attend"),
        Patch(facecolor=IGNORE_COLOUR, edgecolor="grey", label="ignored"),
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=3, title=note, frameon=False)
    return drawn


def blank(inches: tuple[float, float]) -> Any:
    """An empty figure, without pyplot: no window system is asked for, and no state stays behind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Drawn(Figure):
        """A figure that a notebook shows; those of others it shows once pyplot is imported."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    drawn = Drawn(figsize=inches, layout="constrained", dpi=120)
    FigureCanvasAgg(drawn)
    return drawn


def _side(longest: int, panels: int) -> float:
    """Inches of a panel: room for a name on each token, else the usual."""
    if longest <= NAMED:
        return max(5.0, 0.3 * longest)
    return 12.0 if panels == 1 else 6.0


def _whose(panels: int, items: int) -> str:
    """Which of the sequences are drawn, where there are more than panels."""
    if panels == items:
        return ""
    return " (the same for every sequence)" if panels == 1 else f" (first {panels} of {items})"


def _label(axes: Any, shown: Shown, item: int) -> None:
    queries, keys = shown.mask.shape[2:]
    axes.set_xlabel("Key position (attending to)")
    axes.set_ylabel("Query position (attending from)")
    if keys <= NAMED and queries <= NAMED:
        names = [_plain(shown.key_token(item, key)) for key in range(keys)]
        axes.set_xticks(np.arange(keys) + 0.5, names, rotation=90, parse_math=False)
        names = [_plain(shown.queries.token(item, query)) for query in range(queries)]
        axes.set_yticks(np.arange(queries) + 0.5, names, parse_math=False)
        axes.tick_params(length=0)
    if keys <= GRID and queries <= GRID:
        axes.set_xticks(np.arange(keys + 1), minor=True)
        axes.set_yticks(np.arange(queries + 1), minor=True)
        axes.grid(which="minor", color="white", linewidth=0.6)
        axes.tick_params(which="minor", length=0)


def _plain(text: str, longest: int = 24) -> str:
    """Text that matplotlib draws as it is: no mathematics between dollar signs, and not too long."""
    text = clean(text)
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return short.replace("$", r"\$")
