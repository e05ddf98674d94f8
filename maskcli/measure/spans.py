"""How masks cut the keys of some rows into spans, so that one sum over each span answers for all of the masks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.mask import Mask

# Spans narrower than an equal share of the keys among this many are joined: each costs calls, however few keys it has.
MAX_SPANS = 32


class Mixed(NamedTuple):
    """Keys `start` to `stop` that masks ignore in some cells only: names of equal masks, and float32 [rows, stop - start],
    1 where the cell is ignored and 0 elsewhere (one row when all rows are alike)."""

    names: tuple[str, ...]
    start: int
    stop: int
    cells: Array


class Span(NamedTuple):
    """Keys `start` to `stop`, the names of the masks that ignore all of them in every row, and of those that ignore some."""

    start: int
    stop: int
    outside: tuple[str, ...]
    mixed: tuple[Mixed, ...]


def spans(masks: Mapping[str, Mask], keys: int, batch: int, head: int, rows: tuple[int, int]) -> list[Span]:
    """Spans that cover all keys in order, for these rows of one batch item and head."""
    ignored = {name: mask.ignored(rows, batch, head) for name, mask in masks.items()}
    borders = _apart(
        {
            0,
            keys,
            *(border for parts in ignored.values() for start, stop, _ in parts for border in (start, stop)),
        }
    )
    found: list[Span] = []
    for start, stop in pairwise(borders):
        outside = []
        mixed: dict[bytes, tuple[list[str], Array]] = {}
        for name, parts in ignored.items():
            touching = [part for part in parts if part[0] < stop and start < part[1]]
            if any(low <= start and stop <= high and who is None for low, high, who in touching):
                outside.append(name)
            elif touching:
                low, high, who = touching[0]
                if who is None or (low, high) != (start, stop):
                    who = ~masks[name].dense(
                        batch, head, rows if masks[name].stored[2] > 1 else (0, 1), (start, stop)
                    )
                mixed.setdefault(who.tobytes(), ([], who))[0].append(name)
        some = tuple(
            Mixed(tuple(names), start, stop, who.astype(np.float32)) for names, who in mixed.values()
        )
        if found and found[-1].outside == tuple(outside):
            # One call for both is cheaper.
            first = found.pop()
            start, some = first.start, first.mixed + some
        found.append(Span(start, stop, tuple(outside), some))
    return found


def _apart(borders: set[int]) -> list[int]:
    """Borders in order; when there are many, only those that leave every span wide enough to be worth its calls."""
    ordered = sorted(borders)
    if len(ordered) <= MAX_SPANS + 1:
        return ordered
    least = -(-ordered[-1] // MAX_SPANS)
    kept = [0]
    for border in ordered[1:-1]:
        if border - kept[-1] >= least and ordered[-1] - border >= least:
            kept.append(border)
    return [*kept, ordered[-1]]
