"""Where the queries of a tensor stand among its keys, and what is known of either side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.masks.layout import Layout
from maskcli.meant.places import MOST
from maskcli.scene.by_weights import fills_only, last_weighed
from maskcli.scene.standing import Scattered, Stand, Told, scattered, stand
from maskcli.scene.witnesses import Padding, Witnesses
from maskcli.tensors import Tensor

POSITIONS, WEIGHTS = "position_ids", "the weights"


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a tensor stands: its axes [B, H, Q, K], the queries among the keys, and what either side is.

    Query q stands at key `past` + q; `told_by` names the witness of that, None for K - Q alone. `queries_at`
    int [b, Q] and `keys_at` int [b, K] are positions one by one, where they do not simply follow each other:
    -1 is a slot without a token, b 1 or B. `keys` and `queries` say which tokens are real, None when nothing
    tells; `misfit` is a padding mask of another length than the keys. `documents` int [b, K] numbers the
    packed texts. `origin` int [B] is the position of key 0 counted from the first real token, where positions
    tell it and the padding does not. `scattered` says why the places of the keys are not known, where the
    text is longer than they are: what a cache has kept is taken for the last ones, in order. `tensors` reads
    those that a spec names.
    """

    shape: Shape
    past: int = 0
    told_by: str | None = None
    keys: Padding | None = None
    queries: Padding | None = None
    misfit: Padding | None = None
    documents: Array | None = None
    origin: Array | None = None
    queries_at: Array | None = None
    keys_at: Array | None = None
    scattered: Scattered | None = None
    tensors: Callable[[str], Array] | None = None

    @property
    def past_known(self) -> bool:
        """Whether a declaration or the input gave `past`; weights are no witness against themselves."""
        return self.told_by not in (None, WEIGHTS)

    @property
    def beginning_known(self) -> bool:
        """Whether something tells which key is the first real token of each item."""
        told = self.keys is not None or self.origin is not None or self.keys_at is not None
        return told or self.past == 0

    @property
    def layout(self) -> Layout:
        """The sizes, past, padding and documents that specs are built over."""
        batch, heads, queries, keys = self.shape
        return Layout(
            batch,
            queries,
            keys,
            heads,
            self.past,
            self.keys.real if self.keys else None,
            self.documents,
            origin=self.origin,
            queries_at=self.queries_at,
            keys_at=self.keys_at,
            tensors=self.tensors,
        )

    @property
    def own(self) -> Array:
        """The index of each query's own key, int [b, Q]; -1 where no key stands."""
        return self.layout.own

    def distances(self, rows: Array) -> Array:
        """How far keys stand before some queries, int [b, n, K], negative behind them and for empty slots."""
        queries = self.layout.positions[:, 0, rows]
        if self.keys_at is None:
            return queries[..., None] - np.arange(self.shape[3])
        keys = self.keys_at[:, None]
        return np.where(keys < 0, -MOST, queries[..., None] - keys)

    def of_last_keys(self) -> Placement:
        """The same with the last keys of a longer text, whose padding mask then says which are real."""
        keys, said = self.shape[3], self.misfit
        if said is None or said.real.shape[1] <= keys or len(said.real) not in (1, self.shape[0]):
            return self
        last = Padding(said.real[:, -keys:], said.source).fitting(self.shape[0], keys)
        placement = replace(self, keys=last, misfit=None)
        return replace(placement, queries=_real_queries(placement))

    def fitting(self, shape: Shape) -> Placement:
        """The same for a saved mask [b, h, q, K] of this map, whose axes may be stored once."""
        batch, _, queries, keys = shape
        queries_at = _rows_of(self.queries_at, batch, queries)
        real = self.keys.fitting(batch, keys) if self.keys else None
        return replace(
            self,
            shape=shape,
            keys=real,
            queries=self.queries.fitting(batch, queries) if self.queries else None,
            documents=_rows_of(self.documents, batch, keys),
            origin=self.origin if keys == self.shape[3] and real is None else None,
            queries_at=queries_at,
            keys_at=None if queries_at is None else _rows_of(self.keys_at, batch, keys),
        )


def _rows_of(rows: Array | None, batch: int, length: int) -> Array | None:
    """Facts of tokens [b, L], where they are those of so many samples, or of one for all, and so long."""
    return rows if rows is not None and rows.shape[1] == length and len(rows) in (1, batch) else None


class _Case(NamedTuple):
    """What the witnesses of the past are asked about: a tensor, what is said of it, its weights."""

    shape: Shape
    declared: int | None
    positions: Array | None
    said: Padding | None
    weights: Tensor | None
    slots: bool

    @property
    def whole(self) -> Padding | None:
        """The padding, when it covers every key."""
        return self.said if self.said is not None and self.said.real.shape[1] == self.shape[3] else None


def place(witnesses: Witnesses, kind: str, shape: Shape, weights: Tensor | None = None) -> Placement:
    """Where a tensor [B, H, Q, K] of this kind of attention stands; the first witness of its past wins."""
    said = witnesses.padding(kind)
    if kind == "cross":
        return _across(witnesses, said, shape)

    batch, _, queries, keys = shape
    if said is not None and witnesses.step is not None:
        said = said.at_step(witnesses.step, batch, keys)
    said = _over_the_cache(said, shape, weights)
    positions = witnesses.consecutive_positions(batch, queries)
    case = _Case(shape, witnesses.declared.past, positions, said, weights, witnesses.slots)
    over_keys = case.whole.fitting(batch, keys) if case.whole else None
    stood = stand(witnesses, Told(shape, over_keys, weights, witnesses.slots))
    past, told_by = _first_answer(case) if stood is None else _of_standing(stood)

    real = said.fitting(batch, keys) if said else None
    packed, misfit = witnesses.documents(batch, keys), _misfit(said, keys)
    documents = packed.rows if packed else None
    placement = Placement(shape, past, told_by, real, None, misfit, documents, tensors=witnesses.named)
    placement = _in_order(placement, case, witnesses) if stood is None else _as_told(placement, stood)
    return replace(placement, queries=_real_queries(placement))


def _in_order(placement: Placement, case: _Case, witnesses: Witnesses) -> Placement:
    """Keys from the first on, or the last ones of a text that is longer than they are."""
    origin = _origin(case, placement.past) if placement.keys is None else None
    return replace(placement, origin=origin, scattered=scattered(witnesses, case.shape))


def _as_told(placement: Placement, stood: Stand) -> Placement:
    """Queries and keys one by one; lengths of the cache tell which of its slots are filled."""
    keys = placement.keys
    if keys is None and stood.filled is not None:
        keys = Padding(np.arange(placement.shape[3]) < stood.filled[:, None], stood.told_by)
    if keys is None and stood.keys is not None and (stood.keys < 0).any():
        keys = Padding(stood.keys >= 0, stood.told_by).fitting(placement.shape[0], placement.shape[3])
    return replace(placement, keys=keys, queries_at=stood.queries, keys_at=stood.keys)


def _across(witnesses: Witnesses, said: Padding | None, shape: Shape) -> Placement:
    """Queries of a target over the keys of a source: neither stands in the other's text."""
    batch, _, queries, keys = shape
    target = witnesses.padding("decoder")
    return Placement(
        shape,
        keys=said.fitting(batch, keys) if said else None,
        queries=target.fitting(batch, queries) if target else None,
        misfit=_misfit(said, keys),
        tensors=witnesses.named,
    )


def _of_standing(stood: Stand) -> tuple[int, str | None]:
    """Keys before the first query of any item, where the queries of each follow each other."""
    follow = stood.keys is None and bool((np.diff(stood.queries, axis=1) == 1).all())
    return (int(stood.queries[:, 0].min()) if follow else 0), stood.told_by


def _real_queries(placement: Placement) -> Padding | None:
    """Which queries are real, by their own keys; None where some have none, or nothing tells."""
    real, own = placement.keys, placement.own
    if real is None or (own < 0).any():
        return None
    own = np.broadcast_to(own, (len(real.real), own.shape[1]))
    return Padding(np.take_along_axis(real.real, own, axis=1), real.source)


def _first_answer(case: _Case) -> tuple[int, str | None]:
    for name, ask in WITNESSES.items():
        past = ask(case)
        if past is not None:
            return past, name

    queries, keys = case.shape[2:]
    only_first = case.whole is not None and queries < keys and case.whole.real.any()
    # The padding of a cache shows nothing behind the first Q keys: this is the first step, and the rest is
    # empty slots.
    return (0 if only_first else max(keys - queries, 0)), None


def _declared(case: _Case) -> int | None:
    return case.declared


def _by_positions(case: _Case) -> int | None:
    """The first query's position and the left padding that it skips, alike for all items."""
    batch, _, queries, keys = case.shape
    if case.positions is None or not np.isfinite(case.positions[:, 0]).all():
        return None

    padding = case.whole.fitting(batch, keys) if case.whole and not case.slots else None
    left = padding.real.argmax(axis=1) if padding else np.zeros(1, np.int64)
    pasts = np.unique(case.positions[:, 0].astype(np.int64) + left)
    if len(pasts) > 1 or not 0 <= pasts[0] <= keys - queries:
        return None

    past = int(pasts[0])
    end = past + queries
    # Positions that end before the keys do speak of a cache with empty slots, unless the weights say
    # otherwise.
    empty_behind = end == keys or case.weights is None or fills_only(case.weights, case.shape, end)
    return past if empty_behind else None


def _by_padding(case: _Case) -> int | None:
    """Up to the last kept key, of a padding mask over a cache that shows more than the first Q keys."""
    queries, keys = case.shape[2:]
    if case.whole is None or queries >= keys or not case.whole.real.any():
        return None
    last = int(np.flatnonzero(np.any(case.whole.real, axis=0))[-1])
    return last + 1 - queries if last >= queries else None


def _by_weights(case: _Case) -> int | None:
    """Without padding, what lies behind the last key that anybody weighs are empty slots of a cache."""
    queries, keys = case.shape[2:]
    if case.weights is None or case.said is not None or queries >= keys:
        return None
    return max(last_weighed(case.weights, case.shape) + 1 - queries, 0)


# Who is asked how many keys come before the first query, in this order.
WITNESSES: dict[str, Callable[[_Case], int | None]] = {
    "--past": _declared,
    POSITIONS: _by_positions,
    "the padding": _by_padding,
    WEIGHTS: _by_weights,
}


def _over_the_cache(said: Padding | None, shape: Shape, weights: Tensor | None) -> Padding | None:
    """Padding of the filled part of a static cache as one of the whole, where weights show the rest empty."""
    if said is None or weights is None or len(said.real) not in (1, shape[0]):
        return said
    length = said.real.shape[1]
    behind = shape[3] - length
    if behind <= 0 or length < shape[2] or not fills_only(weights, shape, length):
        return said
    return Padding(np.pad(said.real, ((0, 0), (0, behind))), said.source)


def _misfit(said: Padding | None, keys: int) -> Padding | None:
    return said if said is not None and said.real.shape[1] != keys else None


def _origin(case: _Case, past: int) -> Array | None:
    """The position of key 0 counted from the first real token, int [B], by the queries' position ids."""
    if case.positions is None or past == 0:
        return None
    return np.broadcast_to(case.positions[:, 0].astype(np.int64) - past, case.shape[:1])
