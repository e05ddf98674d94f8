"""The picture of a report: each finding on the weights or the mask that it is about, its cells outlined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from maskcli.diagnostics.finding import Finding, Where
from maskcli.errors import MaskcliError
from maskcli.inputs.beside import Beside, beside
from maskcli.inputs.looks import inspected
from maskcli.masks.words import counted
from maskcli.report.forms import Look
from maskcli.report.pictures.canvas import Canvas
from maskcli.report.pictures.weights import Scale, forbidden, hatch, part_of
from maskcli.scene.describe import Described
from maskcli.tensors import View, Zoom

# Findings of one picture; the rest is counted.
MOST, ACROSS = 6, 3


class _Drawn(NamedTuple):
    """A finding, what is drawn of its tensor, and where it is there."""

    finding: Finding
    described: Described
    view: View
    told: Beside
    place: Where


def figure_of_findings(findings: Sequence[Finding], look: Look) -> Any:
    """A matplotlib Figure of the first findings; what is left out is said.

    Raises MaskcliError where none is about a matrix of a file.
    """
    drawn = [each for each in map(_drawn, findings[: MOST * 2]) if each is not None][:MOST]
    if not drawn:
        raise MaskcliError(
            f"{counted(len(findings), 'finding')}, and none of a matrix that can be drawn; "
            "leave -o out, or write the report as .txt"
        )
    longest = max((each.view for each in drawn), key=_cells)
    (top, bottom), (left, right) = longest.rows, longest.keys
    canvas = Canvas(look, len(drawn), (bottom - top, right - left), ACROSS)
    legend: dict[str, dict[str, Any]] = {"found": _outline(canvas)}
    for axes, each in zip(canvas.panels, drawn, strict=True):
        scale = Scale(canvas, [each.view.pixels], each.described)
        canvas.draw(axes, scale.colours(each.view.pixels), each.view.rows, each.view.keys)
        hatched = hatch(canvas, axes, each.view, each.told)
        _mark(canvas, axes, each)
        canvas.caption(axes, _said(each), lines=4)
        legend |= {**dict(scale.legend), **dict(forbidden(canvas, hatched))}

    canvas.name("query", "key")
    left_out = len(findings) - len(drawn)
    if left_out:
        canvas.notes.append(f"{counted(left_out, 'more finding')} not drawn; the report as text has all")
    if any(each.described.roled.role == "weights" for each in drawn):
        canvas.notes.append("weights on a log scale of each panel, the largest the strongest")
    return canvas.finish(f"{findings[0].file}: {counted(len(findings), 'finding')}", [*legend.items()])


def _drawn(finding: Finding) -> _Drawn | None:
    """What is drawn of a finding: of its first tensor that is a matrix, the first place."""
    place = (finding.places or (finding.where,))[0]
    zoom = Zoom((place.batch or (0,))[0], (place.heads or (0,))[0])
    for name in finding.tensors:
        try:
            (described,) = inspected([f"{finding.file}:{name}"], Zoom(), None, None).looked()
            if len(described.roled.tensor.shape) > 2:
                view = part_of(described, _fitting(described, zoom))
                return _Drawn(finding, described, view, beside(finding.file, name), place)
        except MaskcliError:
            continue
    return None


def _fitting(described: Described, zoom: Zoom) -> Zoom:
    """The sample and head that a tensor has: one of three axes has one of them, an axis of 1 is for all."""
    sizes = described.roled.tensor.shape[:-2]
    batch, head = zoom.batch or 0, zoom.head or 0
    if len(sizes) == 1:
        return Zoom(batch=min(batch, sizes[0] - 1))
    return Zoom(min(batch, sizes[0] - 1), min(head, sizes[1] - 1))


def _mark(canvas: Canvas, axes: Any, each: _Drawn) -> None:
    """Outline the cells of a finding."""
    from matplotlib.patches import Rectangle

    for top, bottom in each.place.queries or (each.view.rows,):
        for left, right in each.place.keys or (each.view.keys,):
            corner, wide, tall = (left - 0.5, top - 0.5), right - left, bottom - top
            axes.add_patch(Rectangle(corner, wide, tall, clip_on=False, zorder=5, **_outline(canvas)))


def _outline(canvas: Canvas) -> dict[str, Any]:
    return {"facecolor": "none", "edgecolor": canvas.theme.finding, "linewidth": 1.6}


def _said(each: _Drawn) -> str:
    """The code, the sentence, and what it is drawn on."""
    leading = [f"{name} {at}" for name, at in zip(("sample", "head"), each.view.leading, strict=False)]
    where = ", ".join([each.described.roled.tensor.name, *leading])
    return f"{each.finding.code} {each.finding.name}: {each.finding.message} ({where})"


def _cells(view: View) -> int:
    return max(view.rows[1] - view.rows[0], view.keys[1] - view.keys[0])
