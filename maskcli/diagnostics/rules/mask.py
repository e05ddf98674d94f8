"""Rules on whom a saved mask hides: MSK101, MSK102 and MSK108."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Contrary, Found, Where
from maskcli.diagnostics.rule import for_each, masks, rule
from maskcli.diagnostics.rules.hits import Hit, at_keys, at_queries, fold
from maskcli.masks.mask import Mask
from maskcli.masks.runs import runs_of
from maskcli.meant.facts import Declared
from maskcli.scene.scene import Saved, Scene
from maskcli.scene.tokens import Tokens


@rule(
    "MSK101",
    "empty-row",
    "error",
    needs=("mask",),
    explained_by=(
        "MSK107",
        "MSK108",
        "MSK102",
        "MSK301",
        "MSK205",
        "MSK206",
        "MSK201",
        "MSK106",
        "MSK109",
        "MSK110",
    ),
)
def empty_row(scene: Scene) -> Iterator[Found]:
    """The mask leaves a query no key at all.

    A softmax over nothing is NaN with -inf or False, and the plain mean of all values with a finite fill. On
    a padding query that is harmless as long as nobody reads its output; on a real token it breaks the result,
    and NaN spreads through the whole batch at the next layer.

    In code: left padding combined with a causal mask (the first rows see only padding), a sliding window that
    lies inside the padding, a sample that is padding throughout.

    Fix: keep the diagonal (`mask | eye`), or drop samples that are all padding, and zero the output of rows
    without keys.
    """
    real_hits, pad_hits = [], []
    for saved in scene.masks:
        name, empty = saved.given.tensor.name, saved.given.keep.keys_per_query == 0
        pads = _empty_padding(saved, empty)
        real_hits.append(Hit(name, empty & ~pads))
        pad_hits.append(Hit(name, pads))

    for group in fold(real_hits):
        yield group.found(
            f"the mask leaves {group.told('queries')} no key to attend to (real tokens)",
            "keep at least the diagonal for every real token, and zero the output of rows without keys",
            rows=group.rows,
        )
    for group in fold(pad_hits):
        yield group.found(
            f"the mask leaves {group.told('queries')} no key to attend to (padding tokens)",
            "harmless as long as nothing reads the output of padding tokens; with -inf these rows are NaN, "
            "so prefer a finite fill or keep the diagonal",
            severity="note",
            rows=group.rows,
        )


def _empty_padding(saved: Saved, empty: Array) -> Array:
    """Rows without a key [b, h, q] that are padding; none when all rows are empty: another mistake."""
    if empty.all():
        return np.zeros_like(empty)
    pads = saved.pad_rows
    if empty.shape[2] == 1:
        pads = np.all(pads, axis=2, keepdims=True)
    both: Array = empty & pads
    return both


@rule(
    "MSK102",
    "inverted-mask",
    "error",
    needs=(("mask", "padding_mask"), ("padding_mask", "pad_id", "convention")),
    explained_by=("MSK407",),
)
def inverted_mask(scene: Scene) -> Iterator[Found | Contrary]:
    """The mask says the opposite of what it should: it keeps the padding, or only the future.

    Every real token is hidden, and padding (or the future) is read: half of all libraries read True as
    "attend", the other half as "ignore", and a mask for one was handed to the other.

    In code: `mask = ids == pad_id` where attention_mask wants `ids != pad_id`; `torch.triu(ones, 1)` given to
    scaled_dot_product_attention.

    Fix: invert it where it is built, and say in its name what True means (`keep_mask`, `ignore_mask`).
    """
    for tokens in scene.tokens:
        yield from _inverted_ids(tokens, scene.declared)
    for saved in scene.masks:
        yield from _inverted_convention(saved)


def _inverted_ids(tokens: Tokens, declared: Declared) -> Iterator[Found | Contrary]:
    """A padding mask that is 1 exactly where the ids are padding, in every sample that has some."""
    real = tokens.real_by_ids(declared)
    if tokens.real is None or real is None:
        return
    pads = ~real
    padded = pads.any(axis=1)
    if not padded.any():
        return
    ends = [0, -1]
    inverted = padded & (tokens.real[:, ends] == pads[:, ends]).all(axis=1)
    if inverted[padded].all():
        inverted &= real.any(axis=1) & (tokens.real == pads).all(axis=1)
    if not inverted[padded].all():
        yield Contrary()
        return

    name = tokens.name("padding_mask")
    yield Found(
        (name, tokens.name("input_ids")),
        f"{name!r} is 1 exactly where the ids are the pad id {declared.pad_id}: it keeps the padding and "
        "hides every real token",
        "build it as ids != pad_id",
        at_keys(pads & inverted[:, None]),
        {"samples": int(inverted.sum())},
        # Of a text without padding the inverse hides all.
        explains=Where(),
        of_all=True,
    )


def _inverted_convention(saved: Saved) -> Iterator[Found]:
    """A mask whose declared or evident convention makes it keep only padding, or only the future."""
    given = saved.given
    if given.reason in ("shape", "assumed") or given.nan or not given.keep.attended:
        return
    what, where = "the padding", _keeps_only_padding(saved)
    if where is None and given.reason == "declared" and _keeps_only_future(given.keep):
        what, where = "the keys behind each query", Where()
    if where is None:
        return

    yield Found(
        (given.tensor.name,),
        f"read as {given.convention!r}, the mask keeps only {what}: it is the inverse of what "
        f"{given.convention!r} wants",
        "invert it (~mask, or 1 - mask) where it is built, or pass the convention it is in with --from",
        where,
        {"attended": given.keep.attended},
    )


@rule("MSK108", "query-axis-mask", "error", needs=("mask",))
@for_each(masks)
def query_axis_mask(saved: Saved, scene: Scene) -> Found | None:
    """Padding is masked along queries, not keys: whole rows are hidden, and real tokens see the padding.

    It hides no key from anybody: a padding mask belongs on the key axis, [B, 1, 1, K]. On the query axis it
    only empties the rows of padding tokens, which nobody reads.

    In code: `mask[:, None, :, None]` or `mask.unsqueeze(-1)` where `mask[:, None, None, :]` was meant.

    Fix: `mask[:, None, None, :]`.
    """
    rows = query_axis_rows(saved)
    if rows is None:
        return None
    where = at_queries(rows)
    return Found(
        (saved.given.tensor.name,),
        "the mask hides whole queries and no key: padding is masked along the query axis, so real tokens "
        "attend to it",
        "put the padding on the key axis: mask[:, None, None, :]",
        where,
        {"hidden_rows": int(rows.sum())},
        # The rows that it leaves open read the padding.
        explains=Where(where.batch),
    )


def query_axis_rows(saved: Saved) -> Array | None:
    """The rows [b, q] that a query-axis mask hides; None when the mask is another one."""
    keep = saved.given.keep
    if keep.stored[2] < 2 or saved.given.nan:
        return None
    counts = keep.keys_per_query
    empty: Array = np.all(counts == 0, axis=1)
    varies = empty.any(axis=1) & ~empty.all(axis=1)
    if not varies.any():
        return None
    full = np.all(counts == keep.shape[3], axis=1)
    return empty if (empty | full).all() or _is_causal_by_rows(saved) else None


def _is_causal_by_rows(saved: Saved) -> bool:
    """Whether a causal mask with padding hides exactly the rows of padding, and no key from the others."""
    keep, (queries, keys) = saved.given.keep, saved.given.keep.shape[2:]
    padded = saved.keys is not None and not saved.keys.real.all()
    if saved.keys is None or not padded or queries != keys or len(saved.keys.real) != keep.stored[0]:
        return False

    zero = np.zeros(1, np.int64)
    causal = Mask.from_intervals(keep.shape, zero, np.arange(queries).reshape(1, 1, -1) + 1)
    real_rows = Mask.from_intervals(keep.shape, zero, np.where(saved.keys.real[:, None], keys, 0))
    by_rows = causal & real_rows
    pads = Mask.from_dense(~saved.keys.real[:, None, None, :]).broadcast_to(keep.shape)
    return keep == by_rows and pads is not None and bool((by_rows & pads).attended)


def _keeps_only_padding(saved: Saved) -> Where | None:
    """The padding, where a mask keeps nothing else; a sample without padding is then left no key."""
    keep = saved.given.keep
    if saved.keys is None or saved.keys.real.all() or len(saved.keys.real) != keep.shape[0]:
        return None
    pads = ~saved.keys.real
    real = Mask.from_dense(saved.keys.real[:, None, None, :]).broadcast_to(keep.shape)
    if real is None or (keep & real).attended:
        return None
    padded = pads.any(axis=1)
    seen: Array = np.any(keep.seen, axis=1)
    return Where(keys=runs_of(np.any(pads, axis=0))) if (seen[padded] == pads[padded]).all() else None


def _keeps_only_future(keep: Mask) -> bool:
    """Whether a square mask keeps exactly what lies behind the diagonal, with the diagonal or without."""
    queries, keys = keep.shape[2:]
    if queries != keys or queries < 2:
        return False
    own = np.arange(queries).reshape(1, 1, -1)
    end = np.full(1, keys)
    return any(keep == Mask.from_intervals(keep.shape, first, end) for first in (own, own + 1))
