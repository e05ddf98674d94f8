"""What a saved tensor is: its values in a line, and for a mask its convention and its name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.errors import MaskcliError
from maskcli.masks.naming import Name, name_of
from maskcli.masks.views import picture
from maskcli.measure.questions import row_chunks
from maskcli.scene.saved_mask import Given, read_named
from maskcli.tensors import Roled, Tensor, View, Zoom, place

# Distinct values are listed up to this many.
LISTED_VALUES = 8
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


def describe(roled: Roled, convention: str | None = None, past: int | None = None) -> Described:
    """Read a tensor once and say what it is; masks and padding masks are named as well."""
    tensor = roled.tensor
    try:
        summary = summarise(tensor, roled.role)
    except MaskcliError as error:
        return Described(roled, str(error).rstrip("."))
    shape = mask_shape(tensor.shape, roled.role) if roled.role in MASK_ROLES else None
    if shape is None or 0 in shape:
        return Described(roled, summary)
    given = read_named(roled, shape, convention, None, past)
    return Described(roled, summary, given, name_of(given.keep, past))


def shares(each: Described, zoom: Zoom, tall: int, wide: int) -> View | None:
    """The part of a mask at `zoom` as the share of cells that attend in each pixel; None when the tensor is no mask."""
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


def mask_shape(shape: tuple[int, ...], role: str | None) -> Shape | None:
    """[b, h, q, K] of a saved mask: a padding mask is [B, K] or [K], a mask [Q, K], [B, Q, K] or [B, H, Q, K]."""
    if role == "padding_mask" and len(shape) <= 2 and shape:
        return (shape[0] if len(shape) == 2 else 1, 1, 1, shape[-1])
    if len(shape) == 2:
        return 1, 1, shape[0], shape[1]
    if len(shape) == 3:
        return shape[0], 1, shape[1], shape[2]
    return (shape[0], shape[1], shape[2], shape[3]) if len(shape) == 4 else None


def summarise(tensor: Tensor, role: str | None) -> str:
    """The values of a tensor in a line: range, NaN and infinities, few distinct values, row sums of weights."""
    if 0 in tensor.shape:
        return "no elements"
    if tensor.dtype == "bool":
        return _truths(tensor)
    low, high, nan, inf = np.inf, -np.inf, 0, 0
    sums: list[float] = [np.inf, -np.inf]
    distinct: set[float] = set()
    for _, values in row_chunks(tensor):
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            broken = not finite.all()
            nan += int(np.isnan(values).sum()) if broken else 0
            inf += int(np.isinf(values).sum()) if broken else 0
            if role == "weights" and not broken:
                totals = values.sum(axis=1, dtype=np.float64)
                sums = [min(sums[0], float(totals.min())), max(sums[1], float(totals.max()))]
            values = values[finite] if broken else values
        if values.size:
            low, high = min(low, values.min().item()), max(high, values.max().item())
            if len(distinct) <= LISTED_VALUES:
                distinct |= set(_few(values))
    parts = [_range(low, high, distinct)] if low <= high else []
    parts += [f"{nan:,} NaN"] if nan else []
    parts += [f"{inf:,} infinite"] if inf else []
    if role == "weights" and sums[0] <= sums[1]:
        off = max(abs(sums[0] - 1), abs(sums[1] - 1))
        parts.append(
            f"rows sum to 1 within {off:.1e}" if off < 0.01 else f"rows sum to {sums[0]:.4g} to {sums[1]:.4g}"
        )
    return ", ".join(parts)


def _truths(tensor: Tensor) -> str:
    """Which of False and True a boolean tensor holds; read only until both are seen."""
    seen: set[str] = set()
    for _, values in row_chunks(tensor):
        seen |= ({"True"} if values.any() else set()) | (set() if values.all() else {"False"})
        if len(seen) == 2:
            break
    return " and ".join(sorted(seen))


def _few(values: Array) -> list[float]:
    """Distinct values of a chunk, as soon as there are too many to list cut off."""
    found: list[float] = []
    rest = values.ravel()
    while rest.size and len(found) <= LISTED_VALUES:
        found.append(rest[0].item())
        rest = rest[rest != rest[0]]
    return found


def _range(low: float, high: float, distinct: set[float]) -> str:
    if len(distinct) <= min(LISTED_VALUES, 4):
        return " and ".join(
            f"{value:g}" if isinstance(value, float) else str(value) for value in sorted(distinct)
        )
    return f"{low:.6g} to {high:.6g}"
