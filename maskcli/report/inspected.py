"""`inspect`: what each tensor of a file is, and a look into one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import starmap
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.inputs.looks import Inspected
from maskcli.masks.name import Name
from maskcli.masks.words import counted, first, span
from maskcli.report.characters import FULL, MAP_HEIGHT, MAP_WIDTH, SHADES, columns, print_map, shaded
from maskcli.report.forms import PAGES, PICTURES, SCHEMA_VERSION, Form, Look, in_pieces, on_screen
from maskcli.report.numbers import WIDTH, numbers, print_numbers
from maskcli.report.terminal import PIPE_WIDTH, clean, hang, json_text, print_line
from maskcli.scene.describe import Described, shares
from maskcli.scene.saved_mask import Given
from maskcli.tensors import View, Zoom
from maskcli.tensors import view as look

if TYPE_CHECKING:
    from rich.console import Console

    from maskcli.inputs.beside import Beside

# A part of at most this many rows is printed as numbers.
NUMBER_ROWS = 40
# Padding of so many items is listed.
LISTED_ITEMS = 8
# The nearest name is one that is off in at most this share of the cells.
FEW = 0.05
# Cells in which a mask and its nearest name differ are quoted up to this many.
QUOTED_CELLS = 3
# Masks of as many queries as keys that no kind names, in words and as torch writes them.
DIAGONALS = {
    "window:0,-1": "a query sees itself and what follows: torch.triu(ones)",
    "window:-1,1": "causal and one key more: torch.tril(ones, diagonal=1)",
    "~window:0,-1": "causal without its diagonal: torch.tril(ones, diagonal=-1), or ~torch.triu(ones)",
}


def _print(inspected: Inspected, console: Console) -> None:
    """The files, then the part looked at; one that is not there is refused before anything is printed."""
    looked = inspected.looked()
    _print_files(inspected.files, console)
    for (path, _), described in zip(inspected.files, looked, strict=False):
        _print_look(described, inspected, path, console)


def _print_files(files: list[tuple[str, list[Described]]], console: Console) -> None:
    """Each tensor in two lines: name, type, shape and role, then its values or its name as a mask."""
    from rich.text import Text

    for path, tensors in files:
        console.print(Text(f"{clean(path)}: {counted(len(tensors), 'tensor')}", style="bold"))
        for described in tensors:
            tensor, roled = described.roled.tensor, described.roled
            kind = f"  {tensor.dtype} {list(tensor.shape)}"
            role = f"  {roled.role or 'no role'} ({clean(roled.why)})"
            print_line(console, Text.assemble((clean(tensor.name), "cyan"), kind, (role, "dim")))
            for told in _lines(described):
                hang(console, "  ", clean(told))


def _lines(described: Described) -> Iterator[str]:
    """What is said of a tensor below its name."""
    name, given = described.name, described.given
    if name is not None and given is not None:
        keep = given.keep
        yield _called(name)
        yield f"{_reading(given)}; {keep.density:.2%} attended, {keep.empty_rows:,} empty rows"
    yield described.summary


def _called(name: Name) -> str:
    """A mask's name with its padding, its nearest name and the cells that differ, and other names for it."""
    text, cells = name.spec, name.cells
    if name.exact and text in DIAGONALS and name.layout.queries == name.layout.keys:
        text += f" ({DIAGONALS[text]})"
    if not name.exact and name.wrong > cells * FEW:
        return f"no short name rebuilds it (the nearest is off in {name.wrong:,} of {cells:,} cells)"
    if not name.exact:
        verb = "differs" if name.wrong == 1 else "differ"
        text = f"nearly {text}: {name.wrong:,} of {cells:,} cells {verb} ({', '.join(_cells(name))})"
    if name.padding:
        text += f"; padding {first(starmap(_sides, name.padding), LISTED_ITEMS, ' and {} more items')}"
    if name.aliases:
        verb = "is" if len(name.aliases) == 1 else "are"
        text += f" (at K = {name.layout.keys}, {' and '.join(name.aliases)} {verb} the same)"
    return text


def _reading(given: Given) -> str:
    """How the values are read, and whether another reading is possible."""
    if given.reason == "assumed":
        return "read as sdpa (True = attend); mha (True = ignore) is possible, --from says which"
    fill = "" if given.fill is None else f" with fill {given.fill:.6g}"
    return f"read as {given.convention}{fill} ({given.reason})"


def _json(inspected: Inspected) -> Iterator[str]:
    files = [
        {"file": path, "tensors": [_tensor(described) for described in tensors]}
        for path, tensors in inspected.files
    ]
    yield json_text({"schema_version": SCHEMA_VERSION, "files": files}) + "\n"


def _print_look(described: Described, inspected: Inspected, path: str, console: Console) -> None:
    """A part of a tensor: numbers where they fit, else a map of what attends, or of the largest values."""
    from rich.text import Text

    sizes = described.roled.tensor.shape
    pixels = _map_size(console, sizes[-2] if len(sizes) > 1 else 1)
    view = look(described.roled.tensor, inspected.zoom or Zoom(), *pixels)
    (top, bottom), (left, right) = view.rows, view.keys
    place = f"rows {top}..{bottom} down, keys {left}..{right} across"
    where = f" of [{', '.join(map(str, view.leading))}]" if view.leading else ""
    console.print()
    console.print(Text(place + where, style="bold"))

    tall, wide = view.pixels.shape
    whole = (tall, wide) == (bottom - top, right - left)
    room = MAP_WIDTH if console.width == PIPE_WIDTH else console.width
    if whole and tall <= NUMBER_ROWS and wide * WIDTH <= room:
        table = numbers(view, sizes, _told(described, inspected, path))
        if table.width <= room:
            print_numbers(table, console)
            return
    attends = shares(described, inspected.zoom or Zoom(), *pixels)
    if attends:
        _print_map(attends, 0.0, 1.0, "█ all cells attend, shades some, blank none", console)
        return
    finite = view.pixels[np.isfinite(view.pixels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    note = f"blank {low:.4g}, █ {high:.4g}, ? NaN; each character is the largest value of its cells"
    _print_map(view, low, high, note, console)


def _told(described: Described, inspected: Inspected, path: str) -> Beside | None:
    """What the file tells beside weights; tokens have names where a tokenizer was named."""
    if described.roled.role != "weights" and inspected.tokenizer is None:
        return None
    from maskcli.inputs.beside import beside

    told = beside(path, described.roled.tensor.name, inspected.tokenizer, inspected.declared)
    return told if inspected.tokenizer is not None else replace(told, ids=None)


def _gutter(view: View) -> int:
    """Columns of the numbers of rows."""
    return len(str(view.rows[1])) + 1


def _print_map(view: View, low: float, high: float, note: str, console: Console) -> None:
    """A character for each pixel, blank at `low` and full at `high`."""
    tall, (top, bottom) = len(view.pixels), view.rows
    firsts = top + np.arange(tall) * (bottom - top) // tall
    glyphs = shaded((view.pixels - low) / (high - low or 1.0), SHADES + FULL)
    print_map(console, firsts.tolist(), glyphs, note, _gutter(view) + 1)


def _map_size(console: Console, rows: int) -> tuple[int, int]:
    """How many pixels a map may have: tall, wide."""
    return min(rows, MAP_HEIGHT), columns(console, len(str(rows)) + 2)


def _cells(name: Name) -> Iterator[str]:
    """The first cells in which a mask and its nearest name differ."""
    for mask, what in ((name.missing, "attends"), (name.extra, "ignores")):
        if mask is None:
            continue
        rows = mask.row_of_run()[:QUOTED_CELLS].tolist()
        several = mask.shape[0] * mask.shape[1] > 1
        for row, start, stop in zip(rows, mask.starts, mask.stops, strict=False):
            item, head, query = np.unravel_index(row, mask.stored)
            place = f"[{item}, {head}] " if several else ""
            yield f"{place}query {query} {what} key {span(start, stop)}"


def _sides(left: int, right: int, holes: int) -> str:
    parts = [
        f"{side} {count}" for side, count in (("left", left), ("right", right), ("holes", holes)) if count
    ]
    return " and ".join(parts) or "none"


def _tensor(described: Described) -> dict[str, Any]:
    tensor, roled = described.roled.tensor, described.roled
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "role": roled.role,
        "why": roled.why,
        "summary": described.summary,
        "mask": _mask(described.name, described.given),
    }


def _mask(name: Name | None, given: Given | None) -> dict[str, Any] | None:
    if name is None or given is None:
        return None
    fill = given.fill
    return {
        "spec": name.spec,
        "exact": name.exact,
        "convention": given.convention,
        "reason": given.reason,
        "fill": fill if fill is None or np.isfinite(fill) else str(fill),
        "density": given.keep.density,
        "empty_rows": given.keep.empty_rows,
        "wrong_cells": name.wrong,
        "also": list(name.aliases),
        "padding": [{"left": left, "right": right, "holes": holes} for left, right, holes in name.padding],
    }


def _save_picture(inspected: Inspected, path: str | None, look: Look) -> None:
    """Parts of one tensor as a picture: of what attends (masks), or of the largest values."""
    from maskcli.inputs.beside import beside
    from maskcli.report.pictures.weights import save_tensor

    if len(inspected.files) != 1:
        raise MaskcliError(
            f"{path!r} is one picture, and {len(inspected.files)} files were given; pass one FILE:TENSOR"
        )
    (described,) = inspected.looked()
    told = beside(inspected.files[0][0], described.roled.tensor.name, inspected.tokenizer, inspected.declared)
    save_tensor(described, inspected.zooms(described), told, path or "", look)


def _page(inspected: Inspected, path: str | None, megabytes: int | None = None) -> None:
    from maskcli.report.page.pages import save_inspected

    save_inspected(inspected, path, megabytes)


PICTURE: Form[Callable[..., None]] = Form(None, PICTURES, _save_picture)
FORMS: tuple[Form[Callable[..., None]], ...] = (
    Form("text", (".txt",), on_screen(_print)),
    Form("json", (".json",), in_pieces(_json)),
    PICTURE,
    Form(None, PAGES, _page),
)
