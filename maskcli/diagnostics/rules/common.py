"""What rules share: putting flagged rows into words and places, and folding equal findings over layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from maskcli.arrays import Array
from maskcli.diagnostics import words
from maskcli.diagnostics.finding import Found, Where
from maskcli.diagnostics.rules.hits import ignored_keys, place, places
from maskcli.diagnostics.words import LISTED, listed, percent, told_items, told_places
from maskcli.masks.mask import Runs

__all__ = ["LISTED", "ignored_keys", "listed", "percent", "place", "places", "told_items", "told_places"]

# At least this share of rows must be as they should before the others are called the odd ones.
MOSTLY = 0.5
# Fewer rows than this say nothing about all the others.
FEW = 4


class Hit(NamedTuple):
    """One tensor with flagged rows [B, H, Q], the keys they concern [B, K] (None: all), a number for each
    row, and a note.

    Only hits with equal notes fold into one finding.
    """

    tensor: str
    rows: Array
    keys: Array | None
    share: Array | None = None
    note: str = ""


def fold(hits: Iterable[Hit]) -> list[tuple[list[Hit], Where, tuple[Where, ...]]]:
    """Hits of equal place and note together: the hits, the place of all of them, and the places item by item when they differ."""
    groups: dict[tuple[Where, tuple[Where, ...], str], list[Hit]] = {}
    for hit in hits:
        groups.setdefault((place(hit.rows, hit.keys), places(hit.rows, hit.keys), hit.note), []).append(hit)
    return [(members, where, each) for (where, each, _), members in groups.items()]


def spread(hits: Sequence[Hit]) -> tuple[float, float]:
    """The lowest and highest mean share, each over the flagged rows of one tensor."""
    means = [float(hit.share[hit.rows].mean()) for hit in hits if hit.share is not None]
    return min(means), max(means)


def told(runs: Runs | None, one: str, many: str) -> str:
    """Runs in words."""
    return words.told(runs, many)


def found(
    hits: Sequence[Hit],
    where: Where,
    each: tuple[Where, ...],
    message: str,
    fix: str,
    evidence: dict[str, float | int | str],
    severity: str | None = None,
) -> Found:
    """A Found for folded hits."""
    return Found(tuple(hit.tensor for hit in hits), message, fix, where, evidence, severity, each)
