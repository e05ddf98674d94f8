"""The mask kinds: one small function each, from the layout of an input and the kind's numbers to a Mask.

p is the key position of query q: p = q + past.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maskcli.arrays import Array, dense_runs
from maskcli.errors import MaskcliError
from maskcli.masks import conditions, patterns
from maskcli.masks.conditions import Condition
from maskcli.masks.labels import same, same_label, spans
from maskcli.masks.layout import Layout, at_positions
from maskcli.masks.mask import Mask
from maskcli.masks.runs import MAX_RUNS

if TYPE_CHECKING:
    from maskcli.masks.edges import Edges

# The numbers behind a kind's colon.
Numbers = tuple[int, ...]


class Fit(NamedTuple):
    """How naming finds a kind in a mask.

    Kinds are tried, and written in a name, by `rank`. Those for whose edges `when` holds contain the mask
    with the `numbers` that these give, as tightly as they can. `usual`: the nearest name is also sought with
    the numbers that most rows show. `under_causal`: and with causal beside it. Numbers that are a `guess` may
    not contain the mask.
    """

    rank: int
    numbers: Callable[[Edges], list[Numbers]]
    when: Callable[[Edges], bool] = lambda _: True
    usual: bool = False
    under_causal: bool = False
    guess: bool = False


class Kind(NamedTuple):
    """All there is to a kind of mask: a new one is a row of KINDS and nothing else.

    `build` makes the mask from a layout and `numbers`, each at least `lowest`, which are called so in specs
    and in `flex`; the last `optional` of them, at least `lowest_optional`, may be left out. It varies along
    `axes`, of "b" and "q". `flex` is the condition of a FlexAttention mask_mod over q_idx, kv_idx and {p},
    the query's key position, or makes it from the layout and the numbers, with the tensors that it reads.
    `needs` is a fact about the input. `fit` finds it in a mask; one that `grows` is also sought inside of
    masks, with the largest number. `reads` says what is behind the colon but numbers: "sizes", one for each
    sample, listed or in a tensor; "labels", a tensor, which comes before the numbers; "ranges", START:STOP,
    whose numbers are the borders. `forbids` is the word of masks/reasons.py for the cells that it forbids; a
    kind that is others joined by & names these as `joins`.
    """

    build: Callable[..., Mask]
    numbers: tuple[str, ...]
    axes: str
    flex: str | Callable[..., Condition]
    fit: Fit | None = None
    lowest: int = 0
    needs: str | None = None
    grows: bool = False
    optional: int = 0
    lowest_optional: int = 0
    reads: str = ""
    forbids: str = "other"
    joins: tuple[str, ...] = ()


@at_positions
def full(layout: Layout) -> Mask:
    """Always."""
    return Mask.full(layout.shape)


@at_positions
def causal(layout: Layout) -> Mask:
    """k <= p."""
    return Mask.from_intervals(layout.shape, 0, layout.positions + 1)


def causal_top_left(layout: Layout) -> Mask:
    """k <= q: torch SDPA's is_causal, whatever the past."""
    return Mask.from_intervals(layout.shape, 0, np.arange(1, layout.queries + 1).reshape(1, 1, -1))


def padding(layout: Layout) -> Mask:
    """Key k is a real token."""
    assert layout.real is not None
    real = layout.real[:1] if (layout.real == layout.real[:1]).all() else layout.real
    counts, starts, stops = dense_runs(real)
    return Mask.from_runs(layout.shape, (len(real), 1, 1), counts, starts, stops)


def combined(layout: Layout) -> Mask:
    """Causal & padding."""
    return causal(layout) & padding(layout)


@at_positions
def prefix(layout: Layout, *sizes: int) -> Mask:
    """k < N."""
    return Mask.from_intervals(layout.shape, 0, _by_item(sizes))


@at_positions
def prefix_lm(layout: Layout, *sizes: int) -> Mask:
    """k < N or k <= p."""
    return Mask.from_intervals(layout.shape, 0, np.maximum(layout.positions + 1, _by_item(sizes)))


def _by_item(sizes: Numbers) -> Array:
    """A number, or one for each sample, int64 [b, 1, 1]."""
    return np.array(sizes, np.int64).reshape(-1, 1, 1)


@at_positions
def window(layout: Layout, left: int, right: int | None = None) -> Mask:
    """abs(p - k) <= R; with two numbers, -L <= k - p <= R, and -1 is no limit (as in flash-attn)."""
    right = left if right is None else right
    starts = layout.positions - left if left >= 0 else np.zeros((1, 1, 1), np.int64)
    stops = layout.positions + right + 1 if right >= 0 else np.full((1, 1, 1), layout.keys)
    return Mask.from_intervals(layout.shape, starts, stops)


@at_positions
def sliding(layout: Layout, size: int) -> Mask:
    """0 <= p - k < W: W keys, itself included (transformers' masking_utils, `sliding_window`)."""
    return Mask.from_intervals(layout.shape, layout.positions - size + 1, layout.positions + 1)


@at_positions
def blocks(layout: Layout, size: int) -> Mask:
    """p // B == k // B."""
    first = layout.positions // size * size
    return Mask.from_intervals(layout.shape, first, first + size)


@at_positions
def chunked(layout: Layout, size: int, before: int | None = None) -> Mask:
    """k <= p, and p and k in the same chunk, counted from the first real token (transformers' Llama 4).

    With L, the whole chunk and L keys before it, counted from key 0 (transformers' Nemotron ASR, NeMo).
    """
    if before is not None:
        begins = layout.positions // size * size
        return Mask.from_intervals(layout.shape, begins - before, begins + size)
    left = np.zeros((1, 1, 1), np.int64)
    if layout.origin is not None:
        left = -layout.origin.reshape(-1, 1, 1)
    elif layout.real is not None:
        real = np.broadcast_to(layout.real, (layout.batch, layout.keys))
        if real.size and not real[:, 0].all():
            left = real.argmax(axis=1).reshape(-1, 1, 1)
    first = (layout.positions - left) // size * size + left
    return Mask.from_intervals(layout.shape, first, layout.positions + 1)


@at_positions
def documents(layout: Layout, *lengths: int) -> Mask:
    """The same packed document; with lengths, those, and what is left over is one more document."""
    ids = document_ids(layout, *lengths)
    if not layout.inside:
        raise MaskcliError(
            f"the last query stands at position {layout.positions.max()}, behind the last of "
            f"{layout.keys} keys, so its document is unknown; pass a smaller past"
        )
    alike = same_label(layout, ids)
    if layout.queries_at is None and layout.past >= 0:
        return alike
    # A query that holds no token is in no document.
    nowhere = layout.positions < 0
    return alike & Mask.from_intervals(layout.shape, 0, np.where(nowhere, 0, layout.keys))


def document_ids(layout: Layout, *lengths: int) -> Array:
    """The document of each key, int [b, K]: those of the input, or of these lengths and what is left over."""
    if not lengths:
        assert layout.documents is not None
        return layout.documents
    if sum(lengths) > layout.keys and layout.queries_at is None:
        raise MaskcliError(
            f"documents:{','.join(map(str, lengths))} covers {sum(lengths)} tokens, but there are only "
            f"{layout.keys} keys; pass lengths that sum to at most {layout.keys}"
        )
    rest = max(layout.keys - sum(lengths), 0)
    return np.repeat(np.arange(len(lengths) + 1), [*lengths, rest])[None, : layout.keys]


@at_positions
def dilated(layout: Layout, reach: int, step: int) -> Mask:
    """abs(p - k) <= R and (p - k) % D == 0."""
    if step == 1:
        return window(layout, reach)
    position = layout.positions.ravel()
    items = len(layout.positions)
    # How many steps fit before and behind each query; both can be negative when it stands outside of the
    # keys.
    before = np.minimum(reach // step, position // step)
    behind = np.minimum(reach // step, (layout.keys - 1 - position) // step)
    counts = np.maximum(before + behind + 1, 0)
    total = int(counts.sum())
    if total > MAX_RUNS:
        raise MaskcliError(
            f"dilated:{reach},{step} over {layout.queries:,} queries needs {total:,} runs of one key, more "
            f"than the limit of {MAX_RUNS:,}; ask for fewer tokens or a smaller reach"
        )
    starts = np.empty(total, np.int32)
    at = 0
    for first, count in zip((position - before * step).tolist(), counts.tolist(), strict=True):
        starts[at : at + count] = np.arange(first, first + count * step, step)
        at += count
    return Mask.from_runs(layout.shape, (items, 1, layout.queries), counts, starts, starts + 1)


@at_positions
def global_(layout: Layout, *sizes: int) -> Mask:
    """k < N or p < N (Longformer's global tokens)."""
    size = _by_item(sizes)
    return Mask.from_intervals(layout.shape, 0, np.where(layout.positions < size, layout.keys, size))


def _looks_back(edges: Edges) -> bool:
    return edges.ahead <= 0


def _looks_ahead(edges: Edges) -> bool:
    return edges.ahead > 0


def _reach(edges: Edges) -> int:
    return max(edges.ahead, edges.behind, 0)


# Every kind of the spec language, in the order in which it is listed.
KINDS: dict[str, Kind] = {
    "full": Kind(full, (), "", "kv_idx >= 0"),
    "causal": Kind(
        causal, (), "q", "kv_idx <= {p}", Fit(1, lambda _: [()], _looks_back, usual=True), forbids="future"
    ),
    "causal-top-left": Kind(
        causal_top_left,
        (),
        "q",
        "kv_idx <= q_idx",
        Fit(3, lambda _: [()], lambda edges: edges.layout.past > 0 and edges.top_left <= 0, usual=True),
        forbids="future",
    ),
    "padding": Kind(padding, (), "b", conditions.real, needs="padding", forbids="padding"),
    "combined": Kind(combined, (), "bq", conditions.combined, needs="padding", joins=("causal", "padding")),
    "cross": Kind(padding, (), "b", conditions.real, needs="source", forbids="padding"),
    "prefix": Kind(
        prefix,
        ("N",),
        "",
        conditions.prefix,
        Fit(6, lambda edges: [(edges.last,)], _looks_ahead, usual=True),
        grows=True,
        reads="sizes",
    ),
    "prefix-lm": Kind(
        prefix_lm,
        ("N",),
        "q",
        conditions.prefix_lm,
        Fit(5, lambda edges: edges.prefix_lm(), _looks_ahead),
        reads="sizes",
        forbids="future",
    ),
    "window": Kind(
        window,
        ("L", "R"),
        "q",
        conditions.window,
        Fit(4, lambda edges: edges.window(), _looks_ahead, usual=True, under_causal=True),
        lowest=-1,
        optional=1,
        lowest_optional=-1,
        forbids="window",
    ),
    "sliding": Kind(
        sliding,
        ("W",),
        "q",
        "(kv_idx <= {p}) & ({p} - kv_idx < {W})",
        Fit(2, lambda edges: [(max(edges.behind + 1, 1),)], _looks_back, usual=True),
        lowest=1,
        forbids="window",
    ),
    "blocks": Kind(
        blocks,
        ("B",),
        "q",
        "{p} // {B} == kv_idx // {B}",
        Fit(7, lambda edges: edges.blocks(), under_causal=True),
        lowest=1,
        forbids="window",
    ),
    "chunked": Kind(
        chunked,
        ("C", "L"),
        "bq",
        conditions.chunked,
        Fit(8, lambda edges: edges.whole_chunks() if _looks_ahead(edges) else edges.chunks()),
        lowest=1,
        optional=1,
        forbids="window",
    ),
    "documents": Kind(
        documents,
        ("...",),
        "bq",
        conditions.documents,
        Fit(9, lambda edges: edges.documents(), under_causal=True),
        needs="documents",
        forbids="document",
    ),
    "dilated": Kind(
        dilated,
        ("R", "D"),
        "q",
        "(({p} - kv_idx).abs() <= {R}) & (({p} - kv_idx) % {D} == 0)",
        Fit(10, lambda edges: [(_reach(edges), edges.step)], lambda edges: edges.step > 1),
        lowest=1,
        forbids="window",
    ),
    "global": Kind(global_, ("N",), "q", conditions.global_, grows=True, reads="sizes", forbids="window"),
    "same": Kind(same, ("...",), "bq", conditions.same, reads="labels"),
    "spans": Kind(spans, ("...",), "bq", conditions.spans, reads="labels"),
    "keys": Kind(patterns.keys, ("...",), "", conditions.keys, reads="ranges"),
    "rows": Kind(
        patterns.rows, ("...",), "q", conditions.rows, Fit(13, lambda edges: edges.rows()), reads="ranges"
    ),
    "tree": Kind(
        patterns.tree,
        ("...",),
        "q",
        conditions.tree,
        Fit(12, lambda edges: edges.tree(), _looks_back, guess=True),
        lowest=-1,
    ),
    "block-diffusion": Kind(
        patterns.block_diffusion,
        ("B", "N"),
        "q",
        conditions.block_diffusion,
        Fit(11, lambda edges: edges.block_diffusion(), _looks_ahead, guess=True),
        lowest=1,
        optional=1,
        lowest_optional=1,
    ),
}
