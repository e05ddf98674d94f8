"""The picture of diff: A, B, and where they differ."""

from __future__ import annotations

from typing import Any

from maskcli.api.comparing import Comparison
from maskcli.errors import MaskcliError
from maskcli.masks.mask import Mask
from maskcli.report.colours import ATTENDS
from maskcli.report.forms import Look
from maskcli.report.pictures.canvas import Canvas, save
from maskcli.report.pictures.masks import coloured
from maskcli.report.pictures.themes import IGNORED, ONLY_A, ONLY_B, WORDS


def save_difference(compared: Comparison, path: str | None, look: Look) -> None:
    """Write the picture of a comparison of masks."""
    save(figure_of_difference(compared, look), path or "")


def figure_of_difference(compared: Comparison, look: Look) -> Any:
    """A matplotlib Figure of the first sample and head in which two masks differ, else of the first."""
    if compared.masks is None:
        raise MaskcliError(
            "a picture shows where two masks differ, and these are weights; "
            "maskcli inspect FILE:TENSOR -o FILE draws one of them"
        )
    a, b = compared.masks
    item, head = _first(compared)
    queries, keys = a.shape[2:]
    canvas = Canvas(look, 3, (queries, keys))
    panels: tuple[tuple[str, dict[str, Mask]], ...] = (
        (f"A: {compared.a}", {ATTENDS: a, IGNORED: ~a}),
        (f"B: {compared.b}", {ATTENDS: b, IGNORED: ~b}),
        ("difference", {ATTENDS: a & b, IGNORED: ~(a | b), ONLY_A: a - b, ONLY_B: b - a}),
    )
    occurring = set()
    for axes, (caption, cells) in zip(canvas.panels, panels, strict=True):
        colours, kinds, most = coloured(cells, canvas.theme, canvas.pixels, item, head)
        canvas.draw(axes, colours, (0, queries), (0, keys))
        canvas.caption(axes, caption, lines=2)
        occurring |= kinds

    canvas.name("query", "key")
    canvas.share_names()
    if most > 1:
        canvas.notes.append(f"a pixel mixes the colours of {most:,} cells")
    if compared.regions:
        canvas.notes.append(compared.regions[0].meaning)
    legend = [(WORDS[kind], {"facecolor": canvas.theme.cells[kind]}) for kind in WORDS if kind in occurring]
    place = f", sample {item}, head {head}" if a.shape[0] * a.shape[1] > 1 else ""
    return canvas.finish(f"{_counted(compared)}{place}", legend)


def _first(compared: Comparison) -> tuple[int, int]:
    """The first sample and head that differ."""
    batch, heads = (
        (compared.regions[0].batch, compared.regions[0].heads) if compared.regions else (None, None)
    )
    return (batch or (0,))[0], (heads or (0,))[0]


def _counted(compared: Comparison) -> str:
    differing = sum(region.cells for region in compared.regions)
    return f"{differing:,} of {compared.masks[0].cells:,} cells differ" if compared.masks else ""
