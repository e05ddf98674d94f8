"""The picture of a report: each finding on the weights or the mask that it is about, its cells outlined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from maskcli.diagnostics.finding import Finding, Where
from maskcli.inputs.beside import Beside, in_scene
from maskcli.masks.words import counted
from maskcli.report.forms import Look
from maskcli.report.pictures.canvas import Canvas
from maskcli.report.pictures.weights import Scale, forbidden, hatch, name_cells, part_of
from maskcli.scene.describe import Described
from maskcli.scene.scene import Scene
from maskcli.tensors import View, Zoom

# Findings of one picture, the rest is counted; how many stand in a row, and the lines of their sentence.
MOST, ACROSS, LINES = 6, 3, 5
# Queries and keys of the panel where nothing is drawn.
EMPTY = (1, 24)


class Drawn(NamedTuple):
    """A finding, what is drawn of its tensor, and where it is there."""

    finding: Finding
    described: Described
    view: View
    told: Beside
    place: Where


def figure_of_findings(
    findings: Sequence[Finding],
    closing: str,
    scenes: Iterable[Scene],
    token: Callable[[int], str],
    look: Look,
) -> Any:
    """A matplotlib Figure of the first findings about matrices of the scenes; what is left out is said.

    Its title is the line that closes the report, which stands alone where there is nothing to draw.
    """
    drawn = _drawn(findings, scenes, token)
    if not drawn:
        return _without_panels(findings, closing, look)
    canvas = Canvas(look, len(drawn), max((_size(each.view) for each in drawn), key=max), ACROSS)
    legend: dict[str, dict[str, Any]] = {"found": _outline(canvas)}
    for axes, each in zip(canvas.panels, drawn, strict=True):
        scale = Scale(canvas, [each.view.pixels], each.described)
        canvas.draw(axes, scale.colours(each.view.pixels), each.view.rows, each.view.keys)
        hatched = hatch(canvas, axes, each.view, each.told)
        name_cells(canvas, axes, each.view, each.described.roled.tensor.shape, each.told)
        _mark(canvas, axes, each)
        canvas.caption(axes, _said(each), LINES)
        legend |= dict([*scale.legend, *forbidden(canvas, hatched)])

    canvas.name("query", "key")
    canvas.notes += _notes(findings, drawn)
    return canvas.finish(closing, [*legend.items()])


def _without_panels(findings: Sequence[Finding], closing: str, look: Look) -> Any:
    """The closing line and the notes alone."""
    canvas = Canvas(look, 1, EMPTY)
    canvas.panels[0].set_axis_off()
    canvas.notes += _notes(findings, ())
    return canvas.finish(closing, [])


def _drawn(findings: Sequence[Finding], scenes: Iterable[Scene], token: Callable[[int], str]) -> list[Drawn]:
    """The first findings that can be drawn, in the order of the report."""
    found: dict[int, Drawn] = {}
    for scene in scenes:
        for at, finding in enumerate(findings):
            each = _in_scene(finding, scene, token) if at not in found else None
            if each is not None:
                found[at] = each
    return [found[at] for at in sorted(found)[:MOST]]


def _in_scene(finding: Finding, scene: Scene, token: Callable[[int], str]) -> Drawn | None:
    """A finding on the first of its tensors that is a matrix of this scene."""
    if finding.file != scene.file:
        return None
    matrices = {each.tensor.name: Described(each.roled, "") for each in scene.attentions}
    matrices |= {each.roled.tensor.name: Described(each.roled, "", each.given) for each in scene.masks}
    name = next((name for name in finding.tensors if name in matrices), None)
    if name is None or len(matrices[name].roled.tensor.shape) < 2:
        return None
    place = (finding.places or (finding.where,))[0]
    zoom = _zoom(matrices[name].roled.tensor.shape, place)
    described, told = matrices[name], in_scene(scene, name, token)
    return Drawn(finding, described, part_of(described, zoom), told, place)


def _zoom(shape: tuple[int, ...], place: Where) -> Zoom:
    """The sample and head of a place; an axis of 1 is for all, and the first of three axes is either."""
    sizes = shape[:-2]
    asked = [(place.batch or (0,))[0], (place.heads or (0,))[0]]
    if len(sizes) == 1:
        asked = [asked[0] if place.batch else asked[1]]
    picked = [min(number, size - 1) for number, size in zip(asked, sizes, strict=False)]
    batch, head = (*picked, None, None)[:2]
    return Zoom(batch, head)


def _mark(canvas: Canvas, axes: Any, each: Drawn) -> None:
    """Outline the cells of a finding."""
    from matplotlib.patches import Rectangle

    for top, bottom in each.place.queries or (each.view.rows,):
        for left, right in each.place.keys or (each.view.keys,):
            box = (left - 0.5, top - 0.5), right - left, bottom - top
            axes.add_patch(Rectangle(*box, clip_on=False, zorder=5, **_outline(canvas)))


def _outline(canvas: Canvas) -> dict[str, Any]:
    return {"facecolor": "none", "edgecolor": canvas.theme.finding, "linewidth": 1.8}


def _said(each: Drawn) -> str:
    """The code, the sentence, and what it is drawn on."""
    leading = [f"{name} {at}" for name, at in zip(("sample", "head"), each.view.leading, strict=False)]
    where = ", ".join([each.described.roled.tensor.name, *leading])
    return f"{each.finding.code} {each.finding.name} ({where}): {each.finding.message}"


def _notes(findings: Sequence[Finding], drawn: Sequence[Drawn]) -> Iterator[str]:
    """What the picture leaves out, and how values are drawn."""
    left = len(findings) - len(drawn)
    if left:
        yield f"{counted(left, 'finding')} not drawn; the report as text has all"
    if any(each.described.given is None for each in drawn):
        yield "weights on a log scale of their own: the stronger the colour, the larger"


def _size(view: View) -> tuple[int, int]:
    return view.rows[1] - view.rows[0], view.keys[1] - view.keys[0]
