"""Layout: what a kind of mask may know about the input: sizes, positions, padding, documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.masks.gather import gather, scatter
from maskcli.masks.mask import Mask


@dataclass(frozen=True)
class Layout:
    """What a kind may know about the input.

    `real` bool [B, K] says which keys are real tokens, `documents` int [B, K] which packed document each key
    belongs to; None when nothing tells. `cross` says that keys come from another sequence than queries.
    `origin` int [B] is the position of key 0 counted from the first real token, for a cache that no longer
    holds that token; None: `real` tells.

    Query q stands at position q + `past` and key k at position k, unless they are told one by one:
    `queries_at` int [b, Q] and `keys_at` int [b, K], -1 for a slot without a token; b is 1 or B. `tensors`
    reads a tensor that a spec names, as rows [b, L].
    """

    batch: int
    queries: int
    keys: int
    heads: int = 1
    past: int = 0
    real: Array | None = None
    documents: Array | None = None
    cross: bool = False
    origin: Array | None = None
    queries_at: Array | None = None
    keys_at: Array | None = None
    tensors: Callable[[str], Array] | None = None

    @property
    def shape(self) -> Shape:
        """[B, H, Q, K]."""
        return self.batch, self.heads, self.queries, self.keys

    @property
    def positions(self) -> Array:
        """The position of every query, int64 [1, 1, Q], or [B, 1, Q] where items differ."""
        if self.queries_at is not None:
            return self.queries_at[:, None].astype(np.int64)
        return np.arange(self.past, self.past + self.queries).reshape(1, 1, -1)

    @property
    def inside(self) -> bool:
        """Whether every query stands where a key does."""
        return bool(((self.own >= 0) | (self.positions[:, 0] < 0)).all())

    @property
    def own(self) -> Array:
        """The index of each query's own key, int64 [b, Q]; -1 where no key stands."""
        queries = self.positions[:, 0]
        if self.keys_at is None:
            return np.where(queries < self.keys, queries, -1)
        items = max(len(self.keys_at), len(queries))
        keys = np.broadcast_to(self.keys_at, (items, self.keys))
        queries = np.broadcast_to(queries, (items, self.queries))
        order = np.argsort(keys, axis=1, kind="stable")
        found = np.empty(queries.shape, np.int64)
        for item in range(items):
            ranked = keys[item, order[item]]
            rank = np.minimum(np.searchsorted(ranked, queries[item]), self.keys - 1)
            found[item] = np.where(ranked[rank] == queries[item], order[item, rank], -1)
        return found

    def moved(self, step: int) -> Layout:
        """The same with every query so many positions further."""
        if self.queries_at is None:
            return replace(self, past=self.past + step)
        return replace(self, queries_at=self.queries_at + step)

    @property
    def by_position(self) -> Layout:
        """The same queries over one key for every position, up to the last that is told."""
        assert self.keys_at is not None
        at = self.keys_at
        last = max(int(at.max(initial=-1)), int(self.positions.max(initial=-1)))
        real, texts = self.real, self.documents
        if real is not None:
            # Where padding and a token share a position, the token counts.
            real = ~scatter(~real, at, last + 1, False) | scatter(real, at, last + 1, False)
        if texts is not None:
            texts = scatter(texts, at, last + 1, -1)
        tensors = self._tensors_by_position(last + 1) if self.tensors is not None else None
        return replace(self, keys=last + 1, keys_at=None, real=real, documents=texts, tensors=tensors)

    def _tensors_by_position(self, length: int) -> Callable[[str], Array]:
        """The tensors of `tensors`: those that are told of keys are told of positions."""

        def placed(name: str) -> Array:
            assert self.tensors is not None
            assert self.keys_at is not None
            rows = self.tensors(name)
            of_keys = rows.shape[1] == self.keys
            return scatter(rows, self.keys_at, length, -1) if of_keys else rows

        return placed


def at_positions(build: Callable[..., Mask]) -> Callable[..., Mask]:
    """A kind that speaks of positions, over keys that stand anywhere."""

    @wraps(build)
    def built(layout: Layout, *numbers: Any) -> Mask:
        if layout.keys_at is None:
            return build(layout, *numbers)
        return gather(build(layout.by_position, *numbers), layout.keys_at, layout.shape)

    return built
