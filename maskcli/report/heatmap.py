"""Pictures of masks as .png, .svg and .pdf. The only room that imports matplotlib."""

from __future__ import annotations

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
    """Write the picture of a mask: one panel for each sequence, or one for all that are equal."""
    # The figure is drawn without pyplot: no window system is asked for, and no state stays behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    items = shown.mask.shape[0]
    panels = 1 if shown.mask.stored[0] == 1 else min(items, MOST_PANELS)
    longest = max(shown.mask.shape[2:])
    side = max(5.0, 0.3 * longest) if longest <= NAMED else 12.0 if panels == 1 else 6.0
    pixels = PIXELS if panels == 1 else PIXELS // 2
    figure = Figure(figsize=(side * panels + 1.2, side + 1.2), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    colours = LinearSegmentedColormap.from_list("attend", [IGNORE_COLOUR, ATTEND_COLOUR])
    note = ""
    for item, axes in enumerate(np.atleast_1d(figure.subplots(1, panels, squeeze=False)[0])):
        share, cells = picture(shown.mask, pixels, pixels, item)
        queries, keys = shown.mask.shape[2:]
        axes.imshow(
            share,
            cmap=colours,
            vmin=0,
            vmax=1,
            interpolation="nearest",
            extent=(0, keys, queries, 0),
            aspect="auto",
        )
        if cells.size and cells.max() > 1:
            note = f"each pixel: share of {int(cells.max()):,} cells attended"
        _label(axes, shown, item)
        if panels > 1:
            axes.set_title(f"sequence {item}")
    whose = (
        ""
        if panels == items
        else " (the same for every sequence)"
        if panels == 1
        else f" (first {panels} of {items})"
    )
    figure.suptitle(_plain(shown.spec, 100) + whose)
    handles = [
        Patch(facecolor=ATTEND_COLOUR, edgecolor="grey", label="attend"),
        Patch(facecolor=IGNORE_COLOUR, edgecolor="grey", label="ignored"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, title=note or None, frameon=False)
    with replacing(path) as temporary, warnings.catch_warnings():
        # A font without a token's glyph draws a box; that is no news for someone who asked for a picture.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(temporary, format=os.path.splitext(path)[1][1:].lower())


def _label(axes: Any, shown: Shown, item: int) -> None:
    queries, keys = shown.mask.shape[2:]
    axes.set_xlabel("Key position (attending to)")
    axes.set_ylabel("Query position (attending from)")
    if keys <= NAMED and queries <= NAMED:
        names = [_plain(shown.key_token(item, key)) for key in range(keys)]
        axes.set_xticks(np.arange(keys) + 0.5, names, rotation=90, parse_math=False)
        axes.set_yticks(
            np.arange(queries) + 0.5,
            [_plain(shown.queries.token(item, q)) for q in range(queries)],
            parse_math=False,
        )
        axes.tick_params(length=0)
    if keys <= GRID and queries <= GRID:
        axes.set_xticks(np.arange(keys + 1), minor=True)
        axes.set_yticks(np.arange(queries + 1), minor=True)
        axes.grid(which="minor", color="white", linewidth=0.6)
        axes.tick_params(which="minor", length=0)


def _plain(text: str, longest: int = 24) -> str:
    """Text that matplotlib draws as it is: no mathematics between dollar signs, and not too long."""
    text = clean(text)
    return (text if len(text) <= longest else text[: longest - 1] + "…").replace("$", r"\$")
