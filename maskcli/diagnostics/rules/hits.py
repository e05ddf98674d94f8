"""What findings are made of: flagged rows and tokens, folded over the tensors that share them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Flags, Found, Where, items_of
from maskcli.diagnostics.words import filled, listed_words, lowest, percent, told_items, told_places
from maskcli.masks.mask import Mask
from maskcli.masks.runs import runs_of

Extra = TypeVar("Extra")


class Hit(NamedTuple):
    """One tensor: its flagged rows [B, H, Q], the keys they concern [B, K] (None: all), a number a row."""

    tensor: str
    rows: Array
    keys: Array | None = None
    share: Array | None = None


@dataclass(frozen=True, eq=False)
class Group(Generic[Extra]):
    """Hits of one place; `extras` is what the rule knows of each, `places` says it by samples that differ."""

    hits: tuple[Hit, ...]
    extras: tuple[Extra, ...]
    where: Where
    places: tuple[Where, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors."""
        return tuple(hit.tensor for hit in self.hits)

    @property
    def extra(self) -> Extra:
        """What the rule knows of the first tensor, and of all where hits were folded by it."""
        return self.extras[0]

    @property
    def rows(self) -> int:
        """How many rows are flagged in all."""
        return sum(int(hit.rows.sum()) for hit in self.hits)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and highest mean share, each over the flagged rows of one tensor."""
        means = [float(hit.share[hit.rows].mean()) for hit in self.hits if hit.share is not None]
        return min(means), max(means)

    @property
    def percent(self) -> str:
        """The spread in words: "15 to 47 %"."""
        return percent(*self.spread)

    def layers(self, name: str) -> dict[str, Any]:
        """The spread as evidence: `name`_lowest_layer and `name`_highest_layer."""
        low, high = self.spread
        return {f"{name}_lowest_layer": low, f"{name}_highest_layer": high}

    def told(self, many: str = "keys") -> str:
        """The place in words: "keys 12..26 of sample 0, keys 8..26 of sample 1"; "queries", "tokens"."""
        return told_places(self.where, self.places, many)

    def found(
        self, message: str, fix: str, *, severity: str | None = None, **evidence: float | int | str
    ) -> Found:
        """The finding."""
        return Found(self.tensors, message, fix, self.where, evidence, severity, self.places)


def fold(hits: Iterable[Hit]) -> list[Group[None]]:
    """Hits of equal place together; those without a flagged row are left out."""
    return fold_by((hit, None) for hit in hits)


def fold_by(
    hits: Iterable[tuple[Hit, Extra]], alike: Callable[[Extra], Hashable] | None = None
) -> list[Group[Extra]]:
    """Hits of equal place and equal extra together; with `alike`, of extras for which that is equal.

    Hits without a flagged row are left out.
    """
    groups: dict[tuple[Where, tuple[Where, ...], Hashable], list[tuple[Hit, Extra]]] = {}
    for hit, extra in hits:
        if hit.rows.any():
            key: Hashable = extra if alike is None else alike(extra)
            at = place(hit.rows, hit.keys), places(hit.rows, hit.keys), key
            groups.setdefault(at, []).append((hit, extra))
    return [
        Group(tuple(hit for hit, _ in members), tuple(extra for _, extra in members), where, spots)
        for (where, spots, _), members in groups.items()
    ]


def place(rows: Array, keys: Array | None) -> Where:
    """The smallest place that covers all flagged rows and their keys."""
    items = np.any(rows, axis=(1, 2))
    concerned = None if keys is None else runs_of(np.any(keys[items], axis=0))
    heads, queries = items_of(np.any(rows, axis=(0, 2))), runs_of(np.any(rows, axis=(0, 1)))
    return Where(items_of(items), heads, queries, concerned)


def places(rows: Array, keys: Array | None) -> tuple[Where, ...]:
    """One place for each set of batch items with the same queries and keys; empty when one says it all."""
    queries = np.any(rows, axis=1)
    flags = (
        queries if keys is None else np.concatenate([queries, keys & queries.any(axis=1)[:, None]], axis=1)
    )
    groups = _alike(flags)
    if len(groups) < 2:
        return ()
    firsts = [items[0] for items in groups]
    return tuple(
        Where(items, None, runs_of(queries[first]), None if keys is None else runs_of(keys[first]))
        for items, first in zip(groups, firsts, strict=True)
    )


def found_keys(
    tensors: tuple[str, ...],
    flags: Array,
    message: str,
    fix: str,
    severity: str | None = None,
    of_set: str = "",
    **numbers: float | int | str | Array,
) -> Found:
    """A Found for flagged keys [B, K]; the last {} of the message becomes their place, row by row.

    `numbers` are its evidence, arrays those of which the message lists a few.
    """
    where, kept = at_keys(flags), Flags(flags, "keys")
    return Found(
        tensors, message, fix, where, severity=severity, of_set=of_set, flags=kept, **_apart(numbers)
    )


def _apart(numbers: dict[str, float | int | str | Array]) -> dict[str, Any]:
    """Evidence, and values of which a few are listed."""
    evidence = {name: number for name, number in numbers.items() if not isinstance(number, np.ndarray)}
    listed = {name: lowest(number) for name, number in numbers.items() if isinstance(number, np.ndarray)}
    return {"evidence": evidence, "values": listed}


def in_words(found: Found) -> Found:
    """A Found of one batch with its numbers and its places in message and fix."""
    words = {**found.evidence, **listed_words(found.values), "items": told_items(found.where.batch)}
    spots, place = found.places, None
    if found.flags is not None:
        cells, many = found.flags
        spots = key_places(cells) if many == "keys" else query_places(cells)
        place = told_places(found.where, spots, many)
    message, fix = filled(found.message, words, place), filled(found.fix, words)
    return replace(found, message=message, fix=fix, places=spots)


def key_places(flags: Array) -> tuple[Where, ...]:
    """One place for each set of batch items with the same flagged keys [B, K]; empty when one says it all."""
    groups = _alike(flags)
    return tuple(Where(items, keys=runs_of(flags[items[0]])) for items in groups) if len(groups) > 1 else ()


def query_places(flags: Array) -> tuple[Where, ...]:
    """One place for each set of batch items with the same flagged queries [B, Q]; empty when one says it
    all.
    """
    return places(flags[:, None], None)


def _alike(flags: Array) -> list[tuple[int, ...]]:
    """The rows of flags [B, n] that hold some, those that are equal together, in the order of the first."""
    items = np.flatnonzero(flags.any(axis=1))
    packed = np.packbits(flags[items], axis=1)
    _, first, group = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    members = np.split(items[order], np.cumsum(np.bincount(group.ravel()))[:-1])
    return [tuple(members[each].tolist()) for each in np.argsort(first)] if items.size else []


def found_at(
    tensors: tuple[str, ...],
    flags: Array,
    message: str,
    fix: str,
    severity: str | None = None,
    of_set: str = "",
    **numbers: float | int | str | Array,
) -> Found:
    """A Found for flagged tokens [B, L]; the last {} of the message becomes their place.

    `numbers` are its evidence, arrays those of which the message lists a few:

        found_at((name,), wrong, "{count} labels (id {ids}) lie on padding: {}", fix, count=n, ids=ids[wrong])
    """
    where, kept = at_queries(flags), Flags(flags, "tokens")
    return Found(
        tensors, message, fix, where, severity=severity, of_set=of_set, flags=kept, **_apart(numbers)
    )


def at_keys(flags: Array) -> Where:
    """The place of flagged keys [B, K]."""
    return Where(items_of(np.any(flags, axis=1)), keys=runs_of(np.any(flags, axis=0)))


def at_queries(flags: Array) -> Where:
    """The place of flagged queries [B, Q]."""
    return Where(items_of(np.any(flags, axis=1)), queries=runs_of(np.any(flags, axis=0)))


def ignored_keys(mask: Mask, rows: Array) -> Array:
    """Keys that at least one flagged row [B, H, Q] has to ignore under `mask`, bool [B, K]."""
    flagged = np.any(rows, axis=1)[:, None]
    chosen = Mask.from_intervals(mask.shape, np.zeros(1, np.int64), np.where(flagged, mask.shape[3], 0))
    seen = (~mask & chosen).seen.any(axis=1)
    return np.broadcast_to(seen, (mask.shape[0], mask.shape[3]))
