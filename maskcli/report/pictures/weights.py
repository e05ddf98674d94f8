"""Pictures of tensors: weights on one scale, 0 in a colour of its own, forbidden cells hatched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from maskcli.arrays import Array, dense_runs
from maskcli.inputs.beside import Beside
from maskcli.masks.views import picture
from maskcli.report.forms import Look
from maskcli.report.pictures.canvas import ACROSS, NAMED, PIXELS, Canvas, rgb, save
from maskcli.report.pictures.themes import WORDS
from maskcli.scene.describe import Described, shares
from maskcli.tensors import View, Zoom, view

# A weight that is so many times smaller than the largest is drawn as the smallest.
DECADES = 1e4
# Inches of the scale beside the panels.
BAR = 1.0
# Beyond so many panels rows of them are longer.
FEW = 12


def save_tensor(described: Described, zooms: Sequence[Zoom], told: Beside, path: str, look: Look) -> None:
    """Write the picture of parts of one tensor."""
    save(figure_of_tensor(described, zooms, told, look), path)


def figure_of_tensor(described: Described, zooms: Sequence[Zoom], told: Beside, look: Look) -> Any:
    """A matplotlib Figure of parts of one tensor, a panel each: of a mask who attends, else the values."""
    tensor = described.roled.tensor
    views = [part_of(described, zoom) for zoom in zooms]
    across = ACROSS if len(views) <= FEW else 2 * ACROSS
    (top, bottom), (left, right) = views[0].rows, views[0].keys
    canvas = Canvas(look, len(views), (bottom - top, right - left), across)
    scale = Scale(canvas, [each.pixels for each in views], described)
    hatched = False
    for axes, each in zip(canvas.panels, views, strict=True):
        canvas.draw(axes, scale.colours(each.pixels), each.rows, each.keys)
        hatched |= hatch(canvas, axes, each, told)
        if len(views) > 1:
            canvas.caption(axes, f"head {each.leading[-1]}")
    flat = _is_flat(described)
    for axes, each in zip(canvas.panels, views, strict=True):
        name_cells(canvas, axes, each, tensor.shape, Beside() if flat else told)
    canvas.name("sample" if flat else "query", "key")
    canvas.share_names()
    scale.bar()
    title = ", ".join([f"{tensor.name} {list(tensor.shape)}", *_place(views)])
    return canvas.finish(title, [*scale.legend, *forbidden(canvas, hatched)])


class Scale:
    """Colours of values, the same in all panels: by logarithm for weights, else in equal steps."""

    def __init__(self, canvas: Canvas, pixels: Sequence[Array], described: Described) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

        self.canvas = canvas
        self.is_mask = described.given is not None
        self.is_weights = described.roled.role == "weights"
        finite = np.concatenate([each[np.isfinite(each)] for each in pixels])
        self.broken = any(not np.isfinite(each).all() for each in pixels)
        self.zero = self.is_weights and bool((finite == 0).any())
        theme = canvas.theme
        shades = LinearSegmentedColormap.from_list("weights", theme.weights)
        norm: Any = Normalize(*_ends(finite))
        positive = finite[finite > 0]
        if self.is_mask:
            ends = [theme.cells["ignored"], theme.cells["attends"]]
            shades = LinearSegmentedColormap.from_list("mask", ends)
            norm = Normalize(0, 1)
        elif self.is_weights and positive.size:
            high = float(positive.max())
            norm = LogNorm(min(max(float(positive.min()), high / DECADES), high * 0.1), high, clip=True)
        self.mappable = ScalarMappable(norm, shades)

    def colours(self, pixels: Array) -> Array:
        """Colours [tall, wide, 3] of values [tall, wide]."""
        known = np.where(np.isfinite(pixels), pixels, 0)
        drawn: Array = np.asarray(self.mappable.to_rgba(known))[..., :3]
        if self.zero:
            drawn[known == 0] = rgb(self.canvas.theme.zero)
        drawn[~np.isfinite(pixels)] = rgb(self.canvas.theme.ink)
        return drawn

    def bar(self) -> None:
        """The scale beside the panels; a mask has none."""
        if self.is_mask:
            return
        from matplotlib.ticker import NullFormatter, StrMethodFormatter

        canvas = self.canvas
        label = "weight (log scale)" if self.is_weights else "value"
        canvas.extra = BAR
        place = {"ax": canvas.panels, "shrink": 0.7, "aspect": 30, "pad": 0.02}
        bar = canvas.figure.colorbar(self.mappable, format=StrMethodFormatter("{x:g}"), **place)
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        bar.set_label(label, color=canvas.theme.quiet, fontsize=8)
        bar.ax.tick_params(colors=canvas.theme.ink, labelsize=8, width=0.5)
        bar.outline.set(color=canvas.theme.quiet, linewidth=0.5)

    @property
    def legend(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Colours that no scale has."""
        theme = self.canvas.theme
        if self.is_mask:
            yield WORDS["attends"], {"facecolor": theme.cells["attends"]}
            yield WORDS["ignored"], {"facecolor": theme.cells["ignored"]}
        if self.zero:
            yield "exactly 0", {"facecolor": theme.zero}
        if self.broken:
            yield "NaN or infinite", {"facecolor": theme.ink}


def _ends(finite: Array) -> tuple[float, float]:
    if not finite.size:
        return 0.0, 1.0
    return float(finite.min()), float(finite.max())


def part_of(described: Described, zoom: Zoom) -> View:
    """What of a tensor is drawn: the share of a mask that attends, else the largest values."""
    return shares(described, zoom, PIXELS, PIXELS) or view(described.roled.tensor, zoom, PIXELS, PIXELS)


def hatch(canvas: Canvas, axes: Any, seen: View, told: Beside) -> bool:
    """Hatch what may not be attended; whether anything is."""
    from matplotlib.collections import PolyCollection

    if told.meant is None:
        return False
    item, head = (*seen.leading, 0, 0)[:2]
    plane = slice(item, item + 1), slice(head, head + 1)
    part = told.meant.select(*plane, slice(*seen.rows), slice(*seen.keys))
    share, _ = picture(part, *seen.pixels.shape)
    counts, starts, stops = dense_runs(share == 0)
    if not starts.size:
        return False
    lines = np.repeat(np.arange(len(counts)), counts)
    tall, wide = ((b - a) / n for (a, b), n in zip((seen.rows, seen.keys), share.shape, strict=True))
    left, right = seen.keys[0] + starts * wide - 0.5, seen.keys[0] + stops * wide - 0.5
    top = seen.rows[0] + lines * tall - 0.5
    corners = [[left, top], [right, top], [right, top + tall], [left, top + tall]]
    boxes = np.array(corners).transpose(2, 0, 1)
    axes.add_collection(PolyCollection(list(boxes), **_hatching(canvas)), autolim=False)
    return True


def _hatching(canvas: Canvas) -> dict[str, Any]:
    return {"facecolor": "none", "edgecolor": canvas.theme.faint, "hatch": "////", "linewidth": 0}


def forbidden(canvas: Canvas, hatched: bool) -> list[tuple[str, dict[str, Any]]]:
    """What the hatches say, where there are some."""
    return [("forbidden", _hatching(canvas))] if hatched else []


def name_cells(canvas: Canvas, axes: Any, seen: View, shape: Sequence[int], told: Beside) -> None:
    """Tokens on both axes, where the file has them, else numbers; where there is room."""
    (top, bottom), (left, right) = seen.rows, seen.keys
    if max(bottom - top, right - left) > NAMED:
        return
    item = seen.leading[0] if len(seen.leading) > 1 else 0
    across = told.names(item, seen.keys, shape[-1]) or map(str, range(left, right))
    down = told.names(item, seen.rows, shape[-2]) or map(str, range(top, bottom))
    canvas.tokens(axes.xaxis, across, left)
    canvas.tokens(axes.yaxis, down, top)


def _place(views: Sequence[View]) -> Iterator[str]:
    """Which sample and head the parts are of, as far as all are of one."""
    leading = views[0].leading
    if len(leading) > 1:
        yield f"sample {leading[0]}"
    if leading and len(views) == 1:
        yield f"head {leading[-1]}"


def _is_flat(described: Described) -> bool:
    """Whether a tensor is a padding mask [B, K], whose rows are samples."""
    given = described.given
    return given is not None and len(described.roled.tensor.shape) <= 2 and given.shape[2] == 1
