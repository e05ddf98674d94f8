"""`diff`: the regions where two masks differ, with a map, or how far two sets of weights are apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.masks.compare import Region
from maskcli.masks.mask import Mask
from maskcli.masks.views import picture
from maskcli.report.characters import columns, print_map
from maskcli.report.shown import SCHEMA_VERSION
from maskcli.report.terminal import clean, hang, json_text
from maskcli.tensors import Difference

if TYPE_CHECKING:
    from rich.console import Console

MAP_WIDTH, MAP_HEIGHT = 100, 32
# Columns in front of a line of the map, its number and a blank.
GUTTER = 7
# Regions printed before the rest is counted.
LISTED = 20


@dataclass(frozen=True, eq=False)
class Masks:
    """Two masks of one shape, by the names they were given, and where they differ."""

    a: str
    b: str
    masks: tuple[Mask, Mask]
    regions: tuple[Region, ...]

    @property
    def cells(self) -> int:
        """Cells that differ."""
        return sum(region.cells for region in self.regions)


@dataclass(frozen=True, eq=False)
class Weights:
    """Pairs of tensors, by name, and how far they are apart, in layer order."""

    a: str
    b: str
    pairs: tuple[tuple[str, str, Difference], ...]

    @property
    def cells(self) -> int:
        """Cells that differ by more than the tolerance."""
        return sum(each.cells for _, _, each in self.pairs)


def print_masks(found: Masks, console: Console) -> None:
    """Each region in a line, then a map of where the masks differ."""
    from rich.text import Text

    shape = list(found.masks[0].shape)
    if not found.regions:
        console.print(Text(f"equal: {clean(found.a)} and {clean(found.b)} are the same mask {shape}"))
        return
    console.print(Text(f"A: {clean(found.a)}", style="cyan"))
    console.print(Text(f"B: {clean(found.b)}", style="magenta"))
    cells = found.masks[0].cells
    console.print(Text(f"{found.cells:,} of {cells:,} cells {shape} differ ({found.cells / cells:.2%})"))
    for region in found.regions[:LISTED]:
        hang(console, f"  {region.cells:>9,}  ", region.meaning)
    if len(found.regions) > LISTED:
        console.print(f"  … {len(found.regions) - LISTED} more regions; --format json has them all")
    _print_map(found, console)


def print_weights(found: Weights, console: Console) -> None:
    """One line a pair of tensors, and the first layer that differs."""
    from rich.text import Text

    for name, other, each in found.pairs:
        names = clean(name) if name == other else f"{clean(name)} and {clean(other)}"
        what = "equal" if each.equal else f"{each.cells:,} cells differ"
        console.print(
            Text(
                f"{names}: {what}, largest difference {each.largest:.3g} at {list(each.place)} (tolerance {each.tolerance:g})"
            )
        )
    first = next((name for name, _, each in found.pairs if not each.equal), None)
    console.print(
        Text("all equal within tolerance" if first is None else f"the first that differs is {clean(first)}")
    )


def as_json(found: Masks | Weights) -> Iterator[str]:
    """The JSON of `diff`."""
    whole: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "equal": not found.cells,
        "a": found.a,
        "b": found.b,
        "cells": found.cells,
    }
    if isinstance(found, Masks):
        whole["regions"] = [_region(region) for region in found.regions]
    else:
        whole["regions"] = []
        whole["tensors"] = [
            {
                "a": name,
                "b": other,
                "equal": each.equal,
                "largest": each.largest if np.isfinite(each.largest) else str(each.largest),
                "index": list(each.place),
                "cells": each.cells,
                "tolerance": each.tolerance,
            }
            for name, other, each in found.pairs
        ]
    yield json_text(whole)
    yield "\n"


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


def _print_map(found: Masks, console: Console) -> None:
    """Where the first differing item differs: A or B alone, both, or neither of a pixel's cells."""
    a, b = found.masks
    item = found.regions[0].batch[0] if found.regions[0].batch else 0
    head = found.regions[0].heads[0] if found.regions[0].heads else 0
    wide = columns(console, GUTTER + 1, MAP_WIDTH)
    only_a = picture(a - b, MAP_HEIGHT, wide, item, head)[0] > 0
    only_b = picture(b - a, MAP_HEIGHT, wide, item, head)[0] > 0
    both = picture(a & b, MAP_HEIGHT, wide, item, head)[0] > 0
    glyphs = np.where(
        only_a & only_b, "X", np.where(only_a, "A", np.where(only_b, "B", np.where(both, "■", "·")))
    )
    firsts = [line * a.shape[2] // len(glyphs) for line in range(len(glyphs))]
    place = f"item {item}, head {head}: " if a.shape[0] * a.shape[1] > 1 else ""
    note = f"{place}A only A attends, B only B, ■ both, · neither, X both kinds in one character"
    console.print()
    print_map(console, firsts, glyphs, note, GUTTER, style="")
