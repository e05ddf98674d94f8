"""The picture of a mask: every cell in the colour of who attends, or of why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.inputs.texts import Shown
from maskcli.masks.mask import Mask
from maskcli.masks.views import picture
from maskcli.report.colours import ATTENDS
from maskcli.report.forms import Look
from maskcli.report.pictures.canvas import MOST_PANELS, NAMED, Canvas, rgb, save
from maskcli.report.pictures.themes import IGNORED, WORDS, Theme

# A share that is none, but for the rounding of sums.
ROUNDED = 1e-9
# Drawn where nothing is asked for.
USUAL = Look()


def save_mask(shown: Shown, path: str, look: Look = USUAL) -> None:
    """Write the picture of a mask."""
    save(figure_of_mask(shown, look), path)


def figure_of_mask(shown: Shown, look: Look = USUAL) -> Any:
    """A matplotlib Figure of a mask: a panel for each sample and head, or one for all that are equal."""
    planes = [*np.ndindex(*shown.mask.stored[:2])]
    drawn = planes[:MOST_PANELS]
    queries, keys = shown.mask.shape[2:]
    canvas = Canvas(look, len(drawn), (queries, keys))
    cells, most = cells_of(shown), 1
    occurring = set()
    for axes, (item, head) in zip(canvas.panels, drawn, strict=True):
        colours, kinds, many = coloured(cells, canvas.theme, canvas.pixels, item, head)
        canvas.draw(axes, colours, (0, queries), (0, keys))
        if max(queries, keys) <= NAMED:
            canvas.tokens(axes.yaxis, (shown.queries.token(item, query) for query in range(queries)))
            canvas.tokens(axes.xaxis, (shown.key_token(item, key) for key in range(keys)))
        if len(planes) > 1:
            canvas.caption(axes, _plane(shown, item, head))
        occurring |= kinds
        most = max(most, many)

    canvas.name("query", "key")
    if most > 1:
        canvas.notes.append(f"a pixel mixes the colours of {most:,} cells")
    legend = [(WORDS[kind], {"facecolor": canvas.theme.cells[kind]}) for kind in WORDS if kind in occurring]
    return canvas.finish(shown.spec + _of_all(shown, len(planes)), legend)


def cells_of(shown: Shown) -> dict[str, Mask]:
    """The cells of each kind of WORDS, disjoint; what is in none of them is ignored."""
    return {ATTENDS: shown.mask, **(shown.forbidden(0) if shown.explained else {})}


def coloured(
    cells: Mapping[str, Mask], theme: Theme, pixels: int, item: int = 0, head: int = 0
) -> tuple[Array, set[str], int]:
    """Colours of a plane, float64 [tall, wide, 3], the kinds that occur in it, and the most cells of a pixel.

    A pixel of several cells has the mean of their colours.
    """
    colours, rest = np.zeros((1, 1, 3)), np.ones((1, 1))
    occurring, most = set(), 0
    for kind, mask in cells.items():
        share, counts = picture(mask, pixels, pixels, item, head)
        colours = colours + share[..., None] * rgb(theme.cells[kind])
        rest = rest - share
        most = int(counts.max(initial=0))
        if share.any():
            occurring.add(kind)
    if (rest > ROUNDED).any():
        occurring.add(IGNORED)
    colours = colours + np.clip(rest, 0, 1)[..., None] * rgb(theme.cells[IGNORED])
    return np.clip(colours, 0, 1), occurring, most


def _plane(shown: Shown, item: int, head: int) -> str:
    """Which of the samples and heads a panel shows."""
    samples, heads, _ = shown.mask.stored
    return ", ".join([f"sample {item}"] * (samples > 1) + [f"head {head}"] * (heads > 1))


def _of_all(shown: Shown, planes: int) -> str:
    """What of a batch is drawn."""
    if planes > MOST_PANELS:
        return f" (the first {MOST_PANELS} of {planes:,} maps)"
    return " (the same for every sample)" if planes == 1 and shown.mask.shape[0] > 1 else ""
