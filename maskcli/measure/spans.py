"""How masks cut the keys of some rows into spans, so that one sum over each span answers for all masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.masks import views
from maskcli.masks.mask import Mask

# Spans narrower than an equal share of the keys among this many are joined: each costs calls, however few
# keys it has.
MAX_SPANS = 32


class Mixed(NamedTuple):
    """Keys `start` to `stop` that masks ignore in some cells only.

    Names of equal masks, and float32 [rows, stop - start], 1 where the cell is ignored and 0 elsewhere (one
    row when all rows are alike).
    """

    names: tuple[str, ...]
    start: int
    stop: int
    cells: Array


class Span(NamedTuple):
    """Keys `start` to `stop`, the masks that ignore all of them in every row, and those that ignore some."""

    start: int
    stop: int
    outside: tuple[str, ...]
    mixed: tuple[Mixed, ...]


def spans(masks: Mapping[str, Mask], keys: int, batch: int, head: int, rows: tuple[int, int]) -> list[Span]:
    """Spans that cover all keys in order, for these rows of one batch item and head."""
    ignored = {name: views.ignored(mask, rows, batch, head) for name, mask in masks.items()}
    borders = {0, keys}
    for parts in ignored.values():
        for start, stop, _ in parts:
            borders.update((start, stop))

    def cells(name: str, start: int, stop: int) -> Array:
        held = rows if masks[name].stored[2] > 1 else (0, 1)
        return ~masks[name].dense(batch, head, held, (start, stop))

    cut: list[Span] = []
    for start, stop in pairwise(_apart(borders)):
        span = _span(ignored, start, stop, cells)
        if cut and cut[-1].outside == span.outside:
            # One call for both is cheaper.
            before = cut.pop()
            span = Span(before.start, stop, span.outside, before.mixed + span.mixed)
        cut.append(span)
    return cut


def _span(
    ignored: Mapping[str, list[views.Ignored]], start: int, stop: int, cells: Callable[[str, int, int], Array]
) -> Span:
    """One span: `cells` reads what a mask ignores of it where that is not known yet."""
    outside = []
    mixed: dict[bytes, tuple[list[str], Array]] = {}
    for name, parts in ignored.items():
        touching = [part for part in parts if part[0] < stop and start < part[1]]
        if _cover(touching, start, stop):
            outside.append(name)
        elif touching:
            low, high, who = touching[0]
            if who is None or (low, high) != (start, stop):
                who = cells(name, start, stop)
            mixed.setdefault(who.tobytes(), ([], who))[0].append(name)
    parts_of = (Mixed(tuple(names), start, stop, who.astype(np.float32)) for names, who in mixed.values())
    return Span(start, stop, tuple(outside), tuple(parts_of))


def _cover(parts: list[views.Ignored], start: int, stop: int) -> bool:
    """Whether every row ignores all keys from `start` to `stop`."""
    return any(who is None and low <= start and stop <= high for low, high, who in parts)


def _apart(borders: set[int]) -> list[int]:
    """Borders in order; of many, only those that leave every span wide enough to be worth its calls."""
    ordered = sorted(borders)
    if len(ordered) <= MAX_SPANS + 1:
        return ordered
    least = -(-ordered[-1] // MAX_SPANS)
    kept = [0]
    for border in ordered[1:-1]:
        if border - kept[-1] >= least and ordered[-1] - border >= least:
            kept.append(border)
    return [*kept, ordered[-1]]
