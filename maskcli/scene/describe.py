"""What a saved tensor is: its values in a line, and for a mask its convention and its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array, for_any_numbers
from maskcli.errors import MaskcliError
from maskcli.masks.name import Name
from maskcli.masks.naming import name_of
from maskcli.masks.views import picture
from maskcli.measure.questions import row_chunks
from maskcli.measure.survey import Survey, survey
from maskcli.scene.saved_mask import Given, read_named, shape_of
from maskcli.tensors import Roled, Tensor, View, Zoom, place

# Distinct values are listed up to this many.
LISTED_VALUES = 4
# Row sums this close to 1 are told by their distance from it.
NEARLY_ONE = 0.01
MASK_ROLES = ("mask", "padding_mask")


@dataclass(frozen=True, eq=False)
class Described:
    """A tensor with its role, a line on its values, and, for masks, how it reads and what it is called."""

    roled: Roled
    summary: str
    given: Given | None = None
    name: Name | None = None

    @property
    def padding(self) -> tuple[tuple[int, int, int], ...]:
        """Padding tokens of each item: left, right, and in holes; empty when the mask shows none."""
        return self.name.padding if self.name is not None else ()


@for_any_numbers
def describe(
    roled: Roled,
    convention: str | None = None,
    past: int | None = None,
    labels: Mapping[str, Array] | None = None,
) -> Described:
    """Read a tensor once and say what it is; masks and padding masks are named as well.

    Names read `labels` [b, K] where they are called so.
    """
    tensor = roled.tensor
    try:
        summary = summarise(tensor, roled.role)
    except MaskcliError as error:
        return Described(roled, str(error).rstrip("."))
    shape = shape_of(roled) if roled.role in MASK_ROLES else None
    if shape is None or 0 in shape:
        return Described(roled, summary)
    given = read_named(roled, shape, convention, None, past)
    return Described(roled, summary, given, name_of(given.keep, past, labels))


def shares(each: Described, zoom: Zoom, tall: int, wide: int) -> View | None:
    """The share of cells of a mask at `zoom` that attend in each pixel; None when the tensor is no mask."""
    if each.given is None:
        return None
    leading, rows, keys = place(each.roled.tensor, zoom)
    keep, shape = each.given.keep, each.given.shape
    if len(each.roled.tensor.shape) <= 2 and shape[2] == 1:
        # A padding mask [B, K]: what stands in its rows are batch items.
        lines = [
            picture(keep.select(slice(item, item + 1), keys=slice(*keys)), 1, wide)[0]
            for item in range(*rows)
        ]
        return View(np.concatenate(lines), rows, keys, leading) if len(lines) <= tall else None
    batch, head = (*leading, 0, 0)[:2]
    part = keep.select(slice(batch, batch + 1), slice(head, head + 1), slice(*rows), slice(*keys))
    return View(picture(part, tall, wide)[0], rows, keys, leading)


def summarise(tensor: Tensor, role: str | None) -> str:
    """The values of a tensor in a line: range or distinct values, NaN, infinities, row sums of weights."""
    if 0 in tensor.shape:
        return "no elements"
    if tensor.dtype == "bool":
        return _truths(tensor)

    seen = survey(tensor, LISTED_VALUES, sums=role == "weights")
    infinite = seen.minus_inf + seen.plus_inf
    parts = [
        _range(seen) if seen.low <= seen.high else "",
        f"{seen.nan:,} NaN" if seen.nan else "",
        f"{infinite:,} infinite" if infinite else "",
        _row_sums(*seen.sums) if seen.sums else "",
    ]
    return ", ".join(part for part in parts if part)


def _range(seen: Survey) -> str:
    if seen.distinct is None:
        return f"{seen.low:.6g} to {seen.high:.6g}"
    words = (f"{value:g}" if isinstance(value, float) else str(value) for value in seen.distinct)
    return " and ".join(words)


def _row_sums(least: float, largest: float) -> str:
    off = max(abs(least - 1), abs(largest - 1))
    if off < NEARLY_ONE:
        return f"rows sum to 1 within {off:.1e}"
    return f"rows sum to {least:.4g} to {largest:.4g}"


def _truths(tensor: Tensor) -> str:
    """Which of False and True a boolean tensor holds; read only until both are seen."""
    seen: set[str] = set()
    for _, values in row_chunks(tensor):
        seen |= ({"True"} if values.any() else set()) | (set() if values.all() else {"False"})
        if len(seen) == 2:
            break
    return " and ".join(sorted(seen))
