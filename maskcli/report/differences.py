"""`diff`: the regions where two masks differ, with a map, or how far two sets of weights are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.api.comparing import Comparison, Pair
from maskcli.arrays import Array
from maskcli.masks.compare import Region
from maskcli.masks.mask import Mask
from maskcli.masks.views import picture
from maskcli.report.characters import columns, print_map
from maskcli.report.ci import Tell, ci_forms
from maskcli.report.forms import PAGES, PICTURES, SCHEMA_VERSION, Form, Look, in_pieces, on_screen
from maskcli.report.terminal import PIPE_WIDTH, clean, hang, json_text

if TYPE_CHECKING:
    from rich.console import Console

MAP_WIDTH, MAP_HEIGHT = 160, 32
# On a screen so wide A, B and their difference stand side by side.
ABREAST, GAP = 100, "   "
# Colours of A and of B.
STYLES = ("cyan", "magenta")
# Columns in front of a line of the map, its number and a blank.
GUTTER = 7
# Regions printed before the rest is counted.
LISTED = 20


def _print_masks(compared: Comparison, masks: tuple[Mask, Mask], console: Console) -> None:
    """Each region in a line, then a map of where the masks differ."""
    from rich.text import Text

    shape, cells = list(masks[0].shape), masks[0].cells
    a, b = clean(compared.a), clean(compared.b)
    for name in compared.left_out:
        console.print(Text(f"only who attends is compared, not the values that {clean(name)} adds"))
    if compared.equal:
        values = " and add the same values" if compared.biases else ""
        console.print(Text(f"equal: {a} and {b} are the same mask {shape}{values}"))
        return

    console.print(Text(f"A: {a}", style=STYLES[0]))
    console.print(Text(f"B: {b}", style=STYLES[1]))
    differing = sum(region.cells for region in compared.regions)
    if compared.biases is not None:
        console.print(Text(_biases(compared.biases)))
    if not differing:
        console.print(Text(f"both let the same keys be seen, of {cells:,} cells {shape}"))
        return
    console.print(Text(f"{differing:,} of {cells:,} cells {shape} differ ({differing / cells:.2%})"))
    for region in compared.regions[:LISTED]:
        hang(console, f"  {region.cells:>9,}  ", region.meaning)
    if len(compared.regions) > LISTED:
        console.print(f"  … {len(compared.regions) - LISTED} more regions; --format json has them all")
    _print_map(masks, compared.regions[0], console)


def _biases(pair: Pair) -> str:
    """How far apart the values are that two masks add to the scores."""
    apart = pair.difference
    if apart.equal:
        return f"what they add to the scores is equal within {apart.tolerance:g}"
    values = "value differs" if apart.cells == 1 else "values differ"
    return (
        f"{apart.cells:,} {values} in what is added to the scores, by {apart.largest:.6g} at most, "
        f"at {list(apart.place)} (tolerance {apart.tolerance:g})"
    )


def _print_weights(compared: Comparison, console: Console) -> None:
    """One line a pair of tensors, and the first layer that differs."""
    from rich.text import Text

    for name, other, apart in compared.tensors:
        names = clean(name) if name == other else f"{clean(name)} and {clean(other)}"
        what = "equal" if apart.equal else f"{apart.cells:,} cells differ"
        largest = f"largest difference {apart.largest:.3g} at {list(apart.place)}"
        console.print(Text(f"{names}: {what}, {largest} (tolerance {apart.tolerance:g})"))
    first = next((name for name, _, apart in compared.tensors if not apart.equal), None)
    console.print(
        Text("all equal within tolerance" if first is None else f"the first that differs is {clean(first)}")
    )


def print_difference(compared: Comparison, console: Console) -> None:
    """Where masks differ, or how far weights are apart."""
    if compared.masks is not None:
        _print_masks(compared, compared.masks, console)
    else:
        _print_weights(compared, console)


def _json(compared: Comparison) -> Iterator[str]:
    whole: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "equal": compared.equal,
        "a": compared.a,
        "b": compared.b,
        "cells": compared.cells,
        "regions": [_region(region) for region in compared.regions],
    }
    if compared.biases is not None:
        whole["biases"] = _tensors(compared.biases)
    if compared.left_out:
        whole["values_not_compared"] = list(compared.left_out)
    if compared.masks is None:
        whole["tensors"] = [_tensors(pair) for pair in compared.tensors]
    yield json_text(whole) + "\n"


def _tensors(pair: Pair) -> dict[str, Any]:
    apart = pair.difference
    return {
        "a": pair.a,
        "b": pair.b,
        "equal": apart.equal,
        "largest": apart.largest if np.isfinite(apart.largest) else str(apart.largest),
        "index": list(apart.place),
        "cells": apart.cells,
        "tolerance": apart.tolerance,
    }


def _region(region: Region) -> dict[str, Any]:
    return {
        "batch": None if region.batch is None else list(region.batch),
        "heads": None if region.heads is None else list(region.heads),
        "queries": [list(run) for run in region.queries],
        "keys": [list(run) for run in region.keys],
        "cells": region.cells,
        "attends": region.wider,
        "what": region.what,
        "meaning": region.meaning,
    }


def _print_map(masks: tuple[Mask, Mask], differs: Region, console: Console) -> None:
    """Where the first differing sample differs; with room for it, behind the two masks themselves."""
    a, b = masks
    item = differs.batch[0] if differs.batch else 0
    head = differs.heads[0] if differs.heads else 0
    abreast = ABREAST <= console.width < PIPE_WIDTH
    room = columns(console, GUTTER + 1, MAP_WIDTH)
    wide = (room - 2 * len(GAP)) // 3 if abreast else room

    only_a, only_b, both = (
        picture(part, MAP_HEIGHT, wide, item, head)[0] > 0 for part in (a - b, b - a, a & b)
    )
    glyphs = np.select([only_a & only_b, only_a, only_b, both], ["X", "A", "B", "■"], "·")
    styles = np.select([glyphs == "A", glyphs == "B", glyphs == "■"], [*STYLES, ""], "dim")
    firsts = [line * a.shape[2] // len(glyphs) for line in range(len(glyphs))]
    place = f"sample {item}, head {head}: " if a.shape[0] * a.shape[1] > 1 else ""
    note = f"{place}A only A attends, B only B, ■ both, · neither, X both kinds in one character"

    console.print()
    if abreast:
        _print_titles(console, glyphs.shape[1])
        seen = [np.where(only | both, "■", "·") for only in (only_a, only_b)]
        looks = [np.where(cells == "■", style, "dim") for cells, style in zip(seen, STYLES, strict=True)]
        glyphs, styles = _abreast([*seen, glyphs], " "), _abreast([*looks, styles], "")
    print_map(console, firsts, glyphs, note, GUTTER, styles)


def _print_titles(console: Console, wide: int) -> None:
    """What stands above three maps of so many columns; the last word may be wider than its map."""
    from rich.text import Text

    titles = (f"{title:<{wide}.{wide}}{GAP}" for title in ("A", "B"))
    console.print(Text(f"{'':{GUTTER}}{''.join(titles)}difference", style="dim"), no_wrap=True)


def _abreast(parts: list[Array], blank: str) -> Array:
    """Maps of characters beside each other, with gaps of `blank`."""
    gap = np.full((len(parts[0]), len(GAP)), blank, object)
    return np.hstack([parts[0], gap, parts[1], gap, parts[2]])


def _picture(compared: Comparison, path: str | None, look: Look) -> None:
    from maskcli.report.pictures.differences import save_difference

    save_difference(compared, path, look)


def _page(compared: Comparison, path: str | None, megabytes: int | None = None) -> None:
    from maskcli.report.page.pages import save_compared

    save_compared(compared, path, megabytes)


Writer = Callable[..., None]


def _for_ci(tell: Tell) -> Writer:
    def tell_comparison(compared: Comparison) -> Iterator[str]:
        from maskcli.report.entries import of_comparison

        return tell(of_comparison(compared))

    return in_pieces(tell_comparison)


FORMS: tuple[Form[Writer], ...] = (
    Form("text", (".txt",), on_screen(print_difference)),
    Form("json", (".json",), in_pieces(_json)),
    # The others tell of rules, and none of them finds this.
    *ci_forms(_for_ci, ("github", "markdown")),
    Form(None, PICTURES, _picture),
    Form(None, PAGES, _page),
)
