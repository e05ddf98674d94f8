"""Where the queries of a tensor stand among its keys, and what is known of either side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.masks.layout import Layout
from maskcli.scene.by_weights import fills_only, last_weighed
from maskcli.scene.witnesses import Padding, Witnesses
from maskcli.tensors import Tensor

WEIGHTS = "the weights"


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a tensor stands: its axes [B, H, Q, K], the queries among the keys, and what either side is.

    Query q stands at key `past` + q; `told_by` names the witness of that, None for K - Q alone. `keys` and
    `queries` say which tokens are real, None when nothing tells; `misfit` is a padding mask of another length
    than the keys. `documents` int [b, K] numbers the packed texts. `origin` int [B] is the position of key 0
    counted from the first real token, where positions tell it and the padding does not.
    """

    shape: Shape
    past: int = 0
    told_by: str | None = None
    keys: Padding | None = None
    queries: Padding | None = None
    misfit: Padding | None = None
    documents: Array | None = None
    origin: Array | None = None

    @property
    def past_known(self) -> bool:
        """Whether a declaration or the input gave `past`; weights are no witness against themselves."""
        return self.told_by not in (None, WEIGHTS)

    @property
    def beginning_known(self) -> bool:
        """Whether something tells which key is the first real token of each item."""
        return self.keys is not None or self.past == 0 or self.origin is not None

    @property
    def layout(self) -> Layout:
        """The sizes, past, padding and documents that specs are built over."""
        batch, heads, queries, keys = self.shape
        real = self.keys.real if self.keys else None
        return Layout(batch, queries, keys, heads, self.past, real, self.documents, origin=self.origin)


class _Case(NamedTuple):
    """What the witnesses of the past are asked about: a tensor, what is said of it, its weights."""

    shape: Shape
    declared: int | None
    positions: Array | None
    said: Padding | None
    weights: Tensor | None

    @property
    def whole(self) -> Padding | None:
        """The padding, when it covers every key."""
        return self.said if self.said is not None and self.said.real.shape[1] == self.shape[3] else None


def place(witnesses: Witnesses, kind: str, shape: Shape, weights: Tensor | None = None) -> Placement:
    """Where a tensor [B, H, Q, K] of this kind of attention stands; the first witness of its past wins."""
    batch, _, queries, keys = shape
    said = witnesses.padding(kind)
    if kind == "cross":
        target = witnesses.padding("decoder")
        return Placement(
            shape,
            keys=said.fitting(batch, keys) if said else None,
            queries=target.fitting(batch, queries) if target else None,
            misfit=_misfit(said, keys),
        )

    if said is not None and witnesses.step is not None:
        said = said.at_step(witnesses.step, batch, keys)
    said = _over_the_cache(said, shape, weights)
    positions = witnesses.consecutive_positions(batch, queries)
    case = _Case(shape, witnesses.declared.past, positions, said, weights)
    past, told_by = _first_answer(case)

    real = said.fitting(batch, keys) if said else None
    inside = real is not None and past + queries <= keys
    return Placement(
        shape,
        past,
        told_by,
        keys=real,
        queries=Padding(real.real[:, past : past + queries], real.source) if real and inside else None,
        misfit=_misfit(said, keys),
        documents=witnesses.documents(batch, keys),
        origin=_origin(case, past) if real is None else None,
    )


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

    padding = case.whole.fitting(batch, keys) if case.whole else None
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
    "position_ids": _by_positions,
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
