"""`inspect`: what each tensor of a file is, and a look into one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.report.characters import FULL, MAP_HEIGHT, MAP_WIDTH, SHADES, columns, print_map, shaded
from maskcli.report.shown import SCHEMA_VERSION
from maskcli.report.terminal import PIPE_WIDTH, clean, hang, json_text
from maskcli.scene.describe import Described, shares
from maskcli.tensors import View, Zoom
from maskcli.tensors import view as look

if TYPE_CHECKING:
    from rich.console import Console

# A part of at most this many rows and columns is printed as numbers.
NUMBER_ROWS, NUMBER_WIDTH = 40, 8
# Pixels of a saved picture on a side.
PIXELS = 800
# Padding of so many items is listed.
LISTED_ITEMS = 8
# Cells in which a mask and its nearest name differ are quoted up to this many.
QUOTED_CELLS = 3


def print_files(files: list[tuple[str, list[Described]]], console: Console) -> None:
    """Each tensor in two lines: name, type, shape and role, then its values or its name as a mask."""
    from rich.text import Text

    for path, tensors in files:
        console.print(
            Text(f"{clean(path)}: {len(tensors)} tensor{'s' if len(tensors) != 1 else ''}", style="bold")
        )
        for each in tensors:
            tensor, roled = each.roled.tensor, each.roled
            line = Text(clean(tensor.name), style="cyan")
            line.append(f"  {tensor.dtype} {list(tensor.shape)}", style="default")
            line.append(f"  {roled.role or 'no role'} ({clean(roled.why)})", style="dim")
            console.print(line)
            for told in lines(each):
                hang(console, "  ", clean(told))


def lines(each: Described) -> Iterator[str]:
    """What is said of a tensor below its name."""
    if each.name is not None and each.given is not None:
        yield called(each)
        yield f"{reading(each)}; {each.given.keep.density:.2%} attended, {each.given.keep.empty_rows:,} empty rows"
    yield each.summary


def called(each: Described) -> str:
    """A mask's name with its padding, its nearest name and the cells that differ, and other names for it."""
    name = each.name
    assert name is not None
    text = name.spec
    if not name.exact:
        cells = ", ".join(_cells(each))
        text += (
            f", except {name.wrong:,} cell{'s' if name.wrong != 1 else ''}: {cells}"
            if name.wrong
            else ", but no name says it"
        )
    if each.padding:
        shown = [_sides(*item) for item in each.padding[:LISTED_ITEMS]]
        more = (
            f" and {len(each.padding) - LISTED_ITEMS} more items" if len(each.padding) > LISTED_ITEMS else ""
        )
        text += f"; padding {', '.join(shown)}{more}"
    if name.aliases:
        text += f" (at K = {name.layout.keys}, {' and '.join(name.aliases)} {'is' if len(name.aliases) == 1 else 'are'} the same)"
    return text


def reading(each: Described) -> str:
    """How the values are read, and whether another reading is possible."""
    given = each.given
    assert given is not None
    if given.reason == "assumed":
        return "read as sdpa (True = attend); mha (True = ignore) is possible, --from says which"
    fill = "" if given.fill is None else f" with fill {given.fill:.6g}"
    return f"read as {given.convention}{fill} ({given.reason})"


def as_json(files: list[tuple[str, list[Described]]]) -> Iterator[str]:
    """The JSON of `inspect`."""
    yield json_text(
        {
            "schema_version": SCHEMA_VERSION,
            "files": [
                {"file": path, "tensors": [_tensor(each) for each in tensors]} for path, tensors in files
            ],
        }
    )
    yield "\n"


def print_look(each: Described, zoom: Zoom, console: Console) -> None:
    """A part of a tensor: numbers where they fit, else a map of what attends (masks) or of the largest values."""
    from rich.text import Text

    queries = each.roled.tensor.shape[-2] if len(each.roled.tensor.shape) > 1 else 1
    view = look(each.roled.tensor, zoom, *map_size(console, queries))
    tall, wide = view.pixels.shape
    whole = (tall, wide) == (view.rows[1] - view.rows[0], view.keys[1] - view.keys[0])
    width = MAP_WIDTH if console.width == PIPE_WIDTH else console.width
    gutter = len(str(view.rows[1])) + 1
    place = f"rows {view.rows[0]}..{view.rows[1]} down, keys {view.keys[0]}..{view.keys[1]} across"
    where = f" of [{', '.join(map(str, view.leading))}]" if view.leading else ""
    console.print()
    console.print(Text(place + where, style="bold"))
    if whole and tall <= NUMBER_ROWS and gutter + wide * NUMBER_WIDTH <= width:
        heads = "".join(f"{key:>{NUMBER_WIDTH}}" for key in range(*view.keys))
        console.print(Text(" " * gutter + heads, style="dim"))
        for row, values in zip(range(*view.rows), view.pixels, strict=True):
            console.print(
                Text(f"{row:>{gutter}}", style="dim") + Text("".join(_number(value) for value in values))
            )
        return
    attends = shares(each, zoom, *map_size(console, queries))
    view = attends or view
    finite = view.pixels[np.isfinite(view.pixels)]
    low, high = (
        (float(finite.min()), float(finite.max()))
        if finite.size and not attends
        else (0.0, 1.0 if attends else 0.0)
    )
    if attends:
        note = "█ all cells attend, shades some, blank none"
    else:
        note = f"blank {low:.4g}, █ {high:.4g}, ? NaN; each character is the largest value of its cells"
    firsts = view.rows[0] + np.arange(tall) * (view.rows[1] - view.rows[0]) // tall
    glyphs = shaded((view.pixels - low) / (high - low or 1.0), SHADES + FULL)
    print_map(console, firsts.tolist(), glyphs, note, gutter + 1)


def map_size(console: Console, rows: int) -> tuple[int, int]:
    """How many pixels a map may have: tall, wide."""
    return min(rows, MAP_HEIGHT), columns(console, len(str(rows)) + 2)


def _number(value: float) -> str:
    if value == int(value) if np.isfinite(value) else False:
        text = str(int(value)) if abs(value) < 1e6 else f"{value:.1e}"
    else:
        text = (
            f"{value:.3g}"
            if np.isfinite(value) and abs(value) >= 1e-3
            else f"{value:.0e}"
            if np.isfinite(value)
            else str(value)
        )
    return f"{text:>{NUMBER_WIDTH}}"


def _cells(each: Described) -> Iterator[str]:
    """The first cells in which a mask and its nearest name differ."""
    assert each.name is not None
    for mask, what in ((each.name.missing, "attends"), (each.name.extra, "ignores")):
        if mask is None or not mask.starts.size:
            continue
        rows = mask.row_of_run()[:QUOTED_CELLS].tolist()
        for run, row in enumerate(rows):
            b, h, q = (int(i) for i in np.unravel_index(row, mask.stored))
            item = f"[{b}, {h}] " if mask.shape[0] * mask.shape[1] > 1 else ""
            yield f"{item}query {q} {what} key {mask.starts[run]}" + (
                f"..{mask.stops[run]}" if mask.stops[run] - mask.starts[run] > 1 else ""
            )


def _sides(left: int, right: int, holes: int) -> str:
    parts = [
        f"{side} {count}" for side, count in (("left", left), ("right", right), ("holes", holes)) if count
    ]
    return " and ".join(parts) or "none"


def _tensor(each: Described) -> dict[str, Any]:
    tensor = each.roled.tensor
    mask = None
    if each.name is not None and each.given is not None:
        fill = each.given.fill
        mask = {
            "spec": each.name.spec,
            "exact": each.name.exact,
            "convention": each.given.convention,
            "reason": each.given.reason,
            "fill": None if fill is None else fill if np.isfinite(fill) else str(fill),
            "density": each.given.keep.density,
            "empty_rows": each.given.keep.empty_rows,
            "wrong_cells": each.name.wrong,
            "also": list(each.name.aliases),
            "padding": [
                {"left": left, "right": right, "holes": holes} for left, right, holes in each.padding
            ],
        }
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "role": each.roled.role,
        "why": each.roled.why,
        "summary": each.summary,
        "mask": mask,
    }


def save_view(view: View, title: str, label: str, path: str) -> None:
    """The same part as a picture; `label` says what the colours are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from maskcli.tensors import replacing

    figure = Figure(figsize=(8, 7), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    extent = (view.keys[0], view.keys[1], view.rows[1], view.rows[0])
    image = axes.imshow(
        np.ma.masked_invalid(view.pixels),
        cmap="cividis",
        interpolation="nearest",
        extent=extent,
        aspect="auto",
    )
    axes.set_facecolor("crimson")
    axes.set_xlabel("Key position (attending to)")
    axes.set_ylabel("Query position (attending from)")
    axes.set_title(clean(title).replace("$", r"\$"))
    figure.colorbar(image, label=label)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=os.path.splitext(path)[1][1:].lower())
