"""What rules share: putting flagged rows into words and places, and folding equal findings over layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Where, items_of
from maskcli.masks.mask import Mask, Runs, runs_of
from maskcli.masks.words import items_in_words, runs_in_words

# Names beyond this many are counted, not listed.
LISTED = 4
# At least this share of rows must be as they should before the others are called the odd ones.
MOSTLY = 0.5
# Fewer rows than this say nothing about all the others.
FEW = 4


class Hit(NamedTuple):
    """One tensor with flagged rows [B, H, Q], the keys they concern [B, K] (None: all), a number for each row, and a note.

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


def place(rows: Array, keys: Array | None) -> Where:
    """The smallest place that covers all flagged rows and their keys."""
    items = np.any(rows, axis=(1, 2))
    concerned = None if keys is None else runs_of(np.any(keys[items], axis=0))
    return Where(
        items_of(items), items_of(np.any(rows, axis=(0, 2))), runs_of(np.any(rows, axis=(0, 1))), concerned
    )


def places(rows: Array, keys: Array | None) -> tuple[Where, ...]:
    """One place for each set of batch items whose queries and keys are the same; empty when one place says it all."""
    groups: dict[tuple[Runs, Runs | None], list[int]] = {}
    for item in np.flatnonzero(np.any(rows, axis=(1, 2))):
        concerned = None if keys is None else runs_of(keys[item])
        groups.setdefault((runs_of(np.any(rows[item], axis=0)), concerned), []).append(int(item))
    if len(groups) < 2:
        return ()
    return tuple(
        Where(tuple(items), None, queries, concerned) for (queries, concerned), items in groups.items()
    )


def ignored_keys(mask: Mask, rows: Array) -> Array:
    """Keys that at least one flagged row [B, H, Q] has to ignore under `mask`, bool [B, K]."""
    flagged = np.any(rows, axis=1)[:, None]
    chosen = Mask.from_intervals(mask.shape, np.zeros(1, np.int64), np.where(flagged, mask.shape[3], 0))
    seen = (~mask & chosen).seen.any(axis=1)
    return np.broadcast_to(seen, (mask.shape[0], mask.shape[3]))


def spread(hits: Sequence[Hit]) -> tuple[float, float]:
    """The lowest and highest mean share, each over the flagged rows of one tensor."""
    means = [float(hit.share[hit.rows].mean()) for hit in hits if hit.share is not None]
    return min(means), max(means)


def percent(low: float, high: float) -> str:
    """A range of shares in words: "15 to 47 %"."""
    first, last = _digits(low), _digits(high)
    return f"{last} %" if first == last else f"{first} to {last} %"


def _digits(share: float) -> str:
    return f"{share * 100:.0f}" if share >= 0.095 else f"{share * 100:.2g}"


def listed(names: Sequence[str]) -> str:
    """Tensor names in words: the first few, then how many more."""
    if len(names) <= LISTED:
        return ", ".join(names)
    return f"{names[0]} to {names[-1]} ({len(names)} tensors)"


def told(runs: Runs | None, one: str, many: str) -> str:
    """Runs in words: "key 4", "keys 12..16 and 20..26" (stop not included), or "all keys"."""
    return runs_in_words(runs, one, many, rest=" and {} more runs") if runs else f"all {many}"


def told_items(batch: tuple[int, ...] | None) -> str:
    """Batch items in words."""
    if batch is None:
        return "every sample"
    return items_in_words(batch, rest=" and {} more")


def told_places(where: Where, each: tuple[Where, ...], what: str = "keys") -> str:
    """Which keys (or queries, or tokens) of which samples: "keys 12..26 of sample 0, 8..26 of sample 1"."""
    one = {"keys": "key", "queries": "query", "tokens": "token"}[what]
    spots = each or (where,)
    parts = [
        f"{told(spot.keys if what == 'keys' else spot.queries, one, what)} of {told_items(spot.batch)}"
        for spot in spots[:LISTED]
    ]
    more = f" and {len(spots) - LISTED} more groups of samples" if len(spots) > LISTED else ""
    return ", ".join(parts) + more


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
