"""The mask kinds: one small function each, from the layout of an input and the kind's numbers to a Mask.

p is the key position of query q: p = q + past.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.errors import MaskcliError
from maskcli.masks.mask import MAX_RUNS, Mask, dense_runs


@dataclass(frozen=True)
class Layout:
    """What a kind may know about the input.

    `real` bool [B, K] says which keys are real tokens, `documents` int [B, K] which packed document each key belongs to;
    None when nothing tells. `cross` says that keys come from another sequence than queries. `origin` int [B] is the position
    of key 0 counted from the first real token, for a cache that no longer holds that token; None: `real` tells.
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

    @property
    def shape(self) -> Shape:
        """[B, H, Q, K]."""
        return self.batch, self.heads, self.queries, self.keys

    @property
    def positions(self) -> Array:
        """The key position of every query, int64 [1, 1, Q]."""
        return (np.arange(self.queries) + self.past).reshape(1, 1, -1)


class Kind(NamedTuple):
    """A row of the registry: what follows the colon, which facts it needs, which axes it varies along, and how to build it."""

    numbers: tuple[str, ...]
    lowest: int
    needs: str | None
    axes: str
    build: Callable[..., Mask]
    meaning: str


def full(layout: Layout) -> Mask:
    """Always."""
    return Mask.full(layout.shape)


def causal(layout: Layout) -> Mask:
    """k <= p."""
    return Mask.from_intervals(layout.shape, np.zeros(1, np.int64), layout.positions + 1)


def causal_top_left(layout: Layout) -> Mask:
    """k <= q: torch SDPA's is_causal, whatever the past."""
    return Mask.from_intervals(
        layout.shape, np.zeros(1, np.int64), np.arange(layout.queries).reshape(1, 1, -1) + 1
    )


def padding(layout: Layout) -> Mask:
    """Key k is a real token."""
    assert layout.real is not None
    real = layout.real[:1] if (layout.real == layout.real[:1]).all() else layout.real
    counts, starts, stops = dense_runs(real)
    return Mask.from_runs(layout.shape, (len(real), 1, 1), counts, starts, stops)


def combined(layout: Layout) -> Mask:
    """Causal & padding."""
    return causal(layout) & padding(layout)


def prefix(layout: Layout, size: int) -> Mask:
    """k < N."""
    return Mask.from_intervals(layout.shape, np.zeros((1, 1, 1), np.int64), np.full((1, 1, 1), size))


def prefix_lm(layout: Layout, size: int) -> Mask:
    """k < N or k <= p."""
    return Mask.from_intervals(layout.shape, np.zeros(1, np.int64), np.maximum(layout.positions + 1, size))


def window(layout: Layout, reach: int) -> Mask:
    """abs(p - k) <= R."""
    return Mask.from_intervals(layout.shape, layout.positions - reach, layout.positions + reach + 1)


def sliding(layout: Layout, size: int) -> Mask:
    """0 <= p - k < W: W keys, itself included (transformers' masking_utils, `sliding_window`)."""
    return Mask.from_intervals(layout.shape, layout.positions - size + 1, layout.positions + 1)


def blocks(layout: Layout, size: int) -> Mask:
    """p // B == k // B."""
    first = layout.positions // size * size
    return Mask.from_intervals(layout.shape, first, first + size)


def chunked(layout: Layout, size: int) -> Mask:
    """k <= p, and p and k in the same chunk, counted from the first real token (transformers' Llama 4)."""
    left = np.zeros((1, 1, 1), np.int64)
    if layout.origin is not None:
        left = -layout.origin.reshape(-1, 1, 1)
    elif layout.real is not None:
        real = np.broadcast_to(layout.real, (layout.batch, layout.keys))
        if real.size and not real[:, 0].all():
            left = real.argmax(axis=1).reshape(-1, 1, 1)
    first = (layout.positions - left) // size * size + left
    return Mask.from_intervals(layout.shape, first, layout.positions + 1)


def documents(layout: Layout, *lengths: int) -> Mask:
    """The same packed document; with lengths, those, and what is left over is one more document."""
    if lengths:
        if sum(lengths) > layout.keys:
            raise MaskcliError(
                f"documents:{','.join(map(str, lengths))} covers {sum(lengths)} tokens, but there are only {layout.keys} "
                f"keys; pass lengths that sum to at most {layout.keys}"
            )
        rest = layout.keys - sum(lengths)
        ids = np.repeat(np.arange(len(lengths) + 1), [*lengths, rest])[None]
    else:
        assert layout.documents is not None
        ids = layout.documents
    if layout.queries + layout.past > layout.keys:
        raise MaskcliError(
            f"the last query stands at position {layout.queries + layout.past - 1}, behind the last of {layout.keys} keys, "
            "so its document is unknown; pass a smaller past"
        )
    return _same_label(layout, ids)


def dilated(layout: Layout, reach: int, step: int) -> Mask:
    """abs(p - k) <= R and (p - k) % D == 0."""
    if step == 1:
        return window(layout, reach)
    position = layout.positions.ravel()
    # How many steps fit before and behind each query; both can be negative when it stands outside of the keys.
    before = np.minimum(reach // step, position // step)
    behind = np.minimum(reach // step, (layout.keys - 1 - position) // step)
    counts = np.maximum(before + behind + 1, 0)
    total = int(counts.sum())
    if total > MAX_RUNS:
        raise MaskcliError(
            f"dilated:{reach},{step} over {layout.queries:,} queries needs {total:,} runs of one key, more than the limit of "
            f"{MAX_RUNS:,}; ask for fewer tokens or a smaller reach"
        )
    starts = np.empty(total, np.int32)
    at = 0
    for first, count in zip((position - before * step).tolist(), counts.tolist(), strict=True):
        starts[at : at + count] = np.arange(first, first + count * step, step)
        at += count
    return Mask.from_runs(layout.shape, (1, 1, layout.queries), counts, starts, starts + 1)


def global_(layout: Layout, size: int) -> Mask:
    """k < N or p < N (Longformer's global tokens)."""
    return Mask.from_intervals(
        layout.shape,
        np.zeros(1, np.int64),
        np.where(layout.positions < size, layout.keys, min(size, layout.keys)),
    )


def _same_label(layout: Layout, ids: Array) -> Mask:
    """Keys whose label [b, K] equals that of the query's position."""
    items, keys = ids.shape
    # One table row for each label of each item: the runs of keys that carry it. Queries then take their label's row.
    change = np.ones((items, keys), bool)
    change[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(change)
    stops = np.append(starts[1:], items * keys)
    item = starts // keys
    labels, table_row = np.unique(np.stack([item, ids.ravel()[starts]], axis=1), axis=0, return_inverse=True)
    table_row = table_row.ravel()
    order = np.argsort(table_row, kind="stable")
    table = Mask.from_runs(
        (1, 1, len(labels), keys),
        (1, 1, len(labels)),
        np.bincount(table_row, minlength=len(labels)),
        (starts - item * keys)[order],
        (stops - item * keys)[order],
    )
    of_key = np.repeat(table_row, stops - starts).reshape(items, keys)
    return table.take(layout.shape, of_key[:, None, layout.past : layout.past + layout.queries])


# Every kind of the spec language, in the order in which help lists them.
KINDS: dict[str, Kind] = {
    "full": Kind((), 0, None, "", full, "every key"),
    "causal": Kind((), 0, None, "q", causal, "keys up to itself: k <= p"),
    "causal-top-left": Kind(
        (), 0, None, "q", causal_top_left, "k <= q, ignoring any past (torch SDPA is_causal)"
    ),
    "padding": Kind((), 0, "padding", "b", padding, "keys that are real tokens"),
    "combined": Kind((), 0, "padding", "bq", combined, "causal & padding"),
    "cross": Kind((), 0, "source", "b", padding, "real tokens of the source"),
    "prefix": Kind(("N",), 0, None, "", prefix, "the first N keys"),
    "prefix-lm": Kind(("N",), 0, None, "q", prefix_lm, "the first N keys, and keys up to itself"),
    "window": Kind(("R",), 0, None, "q", window, "at most R keys away, on both sides"),
    "sliding": Kind(("W",), 1, None, "q", sliding, "the last W keys, itself included"),
    "blocks": Kind(("B",), 1, None, "q", blocks, "the same block of B keys"),
    "chunked": Kind(
        ("C",), 1, None, "bq", chunked, "up to itself in the same chunk of C, from the first real token"
    ),
    "documents": Kind(("...",), 0, "documents", "bq", documents, "the same packed document"),
    "dilated": Kind(("R", "D"), 1, None, "q", dilated, "at most R away, every D-th key"),
    "global": Kind(("N",), 0, None, "q", global_, "the first N keys, and every key for the first N queries"),
}
