"""Rules on where NaN and overflow come from: MSK301 to MSK305."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Where
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.common import Hit, fold, found, listed, told_places
from maskcli.masks.kinds import Layout, padding
from maskcli.measure.questions import bad_cells, first_bad
from maskcli.scene.scene import Attention, Scene, once
from maskcli.tensors import Tensor
from maskcli.tensors.roles import Roled

# The largest finite float16.
HALF_MAX = 65504.0
# Query rows multiplied with all keys in one go when looking for overflow.
TILE = 256


@rule(
    "MSK301",
    "nan-from-empty-row",
    "error",
    needs=("weights",),
    explained_by=("MSK201", "MSK106", "MSK109", "MSK214"),
)
def nan_from_empty_row(scene: Scene) -> Iterator[Found]:
    """Whole rows of the weights are NaN, and the mask left those rows no key.

    A softmax over nothing but -inf is 0/0. The NaN starts in rows nobody may ever read (padding), but the
    next layer reads them as keys, and 0 * NaN is NaN: soon the whole sample is.

    In code: left padding with a causal mask filled with -inf, a sample of padding only, bool masks with an
    eager softmax.

    Fix: a finite fill (`torch.finfo(dtype).min`) or one kept key a row, then zero the output of those rows.
    `nan_to_num` behind the softmax only hides it: the gradients are still NaN.
    """
    first = _first_nan(scene)
    if first is None or _sources(scene, first):
        return
    counts = first.nan_counts
    assert counts is not None
    rows = counts > 0
    whole = counts == first.shape[3]
    if not (whole == rows).all() or (whole.all() and first.keep is None and first.meant is None):
        return
    meant = [mask for mask in (first.keep, first.expected) if mask is not None] or [
        m for m in (first.meant,) if m is not None
    ]
    empty = np.zeros(rows.shape, bool)
    for mask in meant:
        empty = empty | (mask.keys_per_query == 0)
    if first.padding is not None:
        # A causal model needs no saved mask to leave a left-padded query without keys.
        empty = empty | ((first.causal & first.padding).keys_per_query == 0)
    if first.queries is not None:
        # Nor does a window that lies inside the padding behind a text.
        empty = empty | ~first.queries.real[:, None]
    known = bool(meant) or first.padding is not None
    if known and not (rows <= np.broadcast_to(empty, rows.shape)).all():
        return
    later = [a.name for a in _with_nan(scene) if a is not first]
    for members, where, each in fold([Hit(first.name, rows, None)]):
        because = (
            "have no key left by the mask" if known else "are NaN as a whole while all others are finite"
        )
        yield found(
            members,
            where,
            each,
            f"{told_places(where, each, 'queries')} {because}: a softmax over nothing is NaN"
            + (f"; {listed(later)} inherit it" if later else ""),
            "use a finite fill (torch.finfo(dtype).min) or keep one key a row, then zero the output of those rows; "
            "nan_to_num behind the softmax still gives NaN gradients",
            {"nan_rows": int(rows.sum()), "nan_cells": int(counts.sum())},
        )


@rule("MSK302", "nan-from-input", "error", needs=(("scores", "query", "key"),), explained_by=("MSK303",))
def nan_from_input(scene: Scene) -> Iterator[Found]:
    """NaN came in from an earlier tensor: scores, query or key already hold NaN or infinity.

    The softmax only passes it on. Look at what made that tensor; the mask is not to blame.

    In code: a NaN in the embeddings or the weights after a diverged step, a layer norm over zeros, an
    infinity in fp16.

    Fix: go to the first tensor named here and to the operation that produced it.
    """
    for role, bad, what in (
        ("query", _not_finite, "NaN or infinity"),
        ("key", _not_finite, "NaN or infinity"),
        ("scores", np.isnan, "NaN"),
    ):
        for roled in _by_layer(scene, role):
            if role == "key" and _ignored_only(scene, roled):
                continue
            at = first_bad(roled.tensor, bad)
            if at is not None:
                yield Found(
                    (roled.tensor.name,),
                    f"{roled.tensor.name!r} holds {what}, first at index {list(at)}: NaN comes in here, before the mask",
                    f"look at what computes {roled.tensor.name!r}; the softmax only passes it on",
                    _place(roled.tensor, at, role),
                    {"index": str(list(at))},
                )
                return


@rule("MSK303", "score-overflow", "error", needs=(("scores", "query"),))
def score_overflow(scene: Scene) -> Iterator[Found]:
    """Scores overflowed to +inf: the row becomes NaN. This is not a mask bug.

    float16 ends at 65504. A dot product of large queries and keys passes it, and exp(inf - inf) is NaN.

    In code: `q @ k.transpose(-1, -2)` in float16 before the division by sqrt(d).

    Fix: scale q before the product, compute scores in float32 or bfloat16, or normalise q and k.
    """
    for roled in _by_layer(scene, "scores"):
        at = first_bad(roled.tensor, lambda values: values == np.inf)
        if at is not None:
            yield Found(
                (roled.tensor.name,),
                f"{roled.tensor.name!r} holds +inf, first at index {list(at)}: the scores overflowed, and their rows become NaN "
                "(not a mask bug)",
                "scale q before the product, or compute the scores in float32 or bfloat16",
                _place(roled.tensor, at, "scores"),
                {"index": str(list(at))},
            )
            return
    for attention in scene.attentions:
        rows, follows, largest = overflowed(attention)
        for members, where, each in fold([Hit(attention.name, rows, None)]) if rows.any() else ():
            yield found(
                members,
                where,
                each,
                f"q.k of {attention.parts['query'].name!r} and {attention.parts['key'].name!r} reaches {largest:.4g}, beyond float16's 65504"
                + (
                    ": these rows are NaN because the scores overflowed (not a mask bug)"
                    if follows
                    else ", though no NaN follows"
                ),
                "scale q before the product, or compute the scores in float32 or bfloat16",
                {"largest_score": largest},
                None if follows else "note",
            )


@rule("MSK304", "nan-through-value", "error", needs=(("value", "key"), ("padding", "mask")))
def nan_through_value(scene: Scene) -> Iterator[Found]:
    """Values or keys hold NaN at ignored positions, and 0 * NaN is NaN.

    A weight of exactly 0 does not protect: the weighted sum multiplies it with the value. Uninitialised cache
    slots and padding that an earlier layer turned to NaN reach every output this way.

    In code: `torch.empty` for a key/value cache, NaN in padded positions.

    Fix: allocate caches with zeros, and zero the values of ignored keys.
    """
    for role in ("value", "key"):
        for roled in _by_layer(scene, role):
            positions = _bad_positions(roled.tensor)
            if positions is None or not positions.any():
                continue
            ignored = _ignored_keys(scene, roled, positions.shape)
            if ignored is None or not (positions <= ignored).all():
                continue
            for members, where, each in fold(
                [Hit(roled.tensor.name, np.any(positions, axis=1)[:, None, None], positions)]
            ):
                yield found(
                    members,
                    where._replace(queries=None, heads=None),
                    each,
                    f"{roled.tensor.name!r} holds NaN or infinity at ignored keys ({told_places(where, each)}): "
                    "their weight of 0 does not stop it, 0 * NaN is NaN",
                    "allocate the cache with zeros, or zero the values of ignored keys",
                    {"positions": int(positions.sum())},
                )
                return


@rule(
    "MSK305",
    "unexplained-nan",
    "error",
    needs=("weights",),
    explained_by=("MSK201", "MSK106", "MSK109", "MSK302", "MSK303", "MSK214"),
)
def unexplained_nan(scene: Scene) -> Iterator[Found]:
    """The weights hold NaN that nothing in the file explains.

    The first place and the pattern (whole rows, whole columns, a block, single cells) narrow the search:
    whole rows point to the mask or an overflow, columns to a key, single cells to memory.

    In code: it cannot be said from this file alone.

    Fix: save the mask, the scores, query and key of this layer too and run the check again.
    """
    first = _first_nan(scene)
    if first is None or _sources(scene, first) or any(True for _ in nan_from_empty_row.check(scene)):
        return
    counts = first.nan_counts
    assert counts is not None
    rows = counts > 0
    whole = counts == first.shape[3]
    pattern = "all rows" if whole.all() else "whole rows" if (whole == rows).all() else "parts of rows"
    at = first_bad(first.tensor, np.isnan)
    later = [a.name for a in _with_nan(scene) if a is not first]
    for members, where, each in fold([Hit(first.name, rows, None)]):
        yield found(
            members,
            where,
            each,
            f"{first.name!r} holds NaN in {pattern} ({int(counts.sum()):,} cells), first at index {list(at or ())}; nothing in the "
            "file explains it" + (f", and {listed(later)} come after it" if later else ""),
            "save the mask, scores, query and key of this layer as well and diagnose again",
            {"nan_cells": int(counts.sum()), "pattern": pattern},
        )


def _with_nan(scene: Scene) -> list[Attention]:
    """Maps with NaN, earliest layer first."""
    found_here = [a for a in scene.attentions if a.nan_counts is not None]
    order = {roled.tensor.name: place for place, roled in enumerate(scene.tensors)}
    return sorted(
        found_here, key=lambda a: (a.roled.layer if a.roled.layer is not None else 0, order[a.name])
    )


def _first_nan(scene: Scene) -> Attention | None:
    found_here = _with_nan(scene)
    return found_here[0] if found_here else None


def _sources(scene: Scene, attention: Attention) -> bool:
    """Whether an earlier tensor of this layer already holds the NaN, the mask does, or its scores overflowed."""
    if attention.given is not None and attention.given.nan is not None:
        return True
    if any(first_bad(part, _not_finite) for role in ("query", "key") if (part := attention.parts.get(role))):
        return True
    scores = attention.parts.get("scores")
    if scores is not None and first_bad(scores, lambda values: np.isnan(values) | (values == np.inf)):
        return True
    return overflowed(attention)[1]


def _by_layer(scene: Scene, role: str) -> list[Roled]:
    found_here = [
        (r.layer if r.layer is not None else 0, place, r)
        for place, r in enumerate(scene.tensors)
        if r.role == role
    ]
    return [roled for _, _, roled in sorted(found_here, key=lambda item: item[:2])]


def _not_finite(values: Array) -> Array:
    bad: Array = ~np.isfinite(values)
    return bad


def _place(tensor: Tensor, at: tuple[int, ...], role: str) -> Where:
    """Where a cell of a query or key [B, H, L, D] or of scores [B, H, Q, K] lies."""
    if len(tensor.shape) != 4:
        return Where((at[0],) if len(at) > 2 else None)
    run, last = ((at[2], at[2] + 1),), ((at[3], at[3] + 1),)
    queries, keys = {"query": (run, None), "key": (None, run), "scores": (run, last)}[role]
    return Where((at[0],), (at[1],), queries, keys)


def _bad_positions(tensor: Tensor) -> Array | None:
    """Positions of [B, H, L, D] (or [B, L, D]) that hold NaN or infinity in any head, bool [B, L]."""
    if len(tensor.shape) not in (3, 4):
        return None
    flags = bad_cells(tensor, _not_finite)
    positions: Array = np.any(flags, axis=1) if flags.ndim == 3 else flags
    return positions


def _ignored_keys(scene: Scene, roled: Roled, shape: tuple[int, ...]) -> Array | None:
    """Keys that no real query of any map of this layer may attend to, bool [B, L]."""
    for attention in scene.attentions:
        if attention.roled.layer not in (roled.layer, None) or attention.roled.kind != roled.kind:
            continue
        if attention.shape[::3] != shape or attention.meant is None:
            continue
        return ~np.broadcast_to(np.any(attention.meant.seen, axis=1), shape)
    for saved in scene.masks:
        if saved.given.keep.shape[3] == shape[1] and saved.given.keep.shape[0] in (1, shape[0]):
            return ~np.broadcast_to(np.any(saved.given.keep.seen, axis=1), shape)
    for tokens in scene.tokens:
        if tokens.real is not None and tokens.real.shape == shape:
            return ~tokens.real
    return _from_padding(scene, shape)


def _from_padding(scene: Scene, shape: tuple[int, ...]) -> Array | None:
    for roled in scene.tensors:
        if roled.role == "padding_mask" and roled.tensor.shape == shape:
            layout = Layout(shape[0], 1, shape[1], real=roled.tensor.read() != 0)
            return ~padding(layout).seen[:, 0]
    return None


def _ignored_only(scene: Scene, roled: Roled) -> bool:
    """Whether a key tensor is bad at ignored positions only, which is MSK304's case."""
    positions = _bad_positions(roled.tensor)
    if positions is None or not positions.any():
        return False
    ignored = _ignored_keys(scene, roled, positions.shape)
    return ignored is not None and bool((positions <= ignored).all())


@once
def overflowed(attention: Attention) -> tuple[Array, bool, float]:
    """Rows [B, H, Q] whose q.k passes float16's range (those among them that are NaN, when some are), whether
    NaN follows, and the largest product. No rows when query and key were not saved as float16 [B, H, L, D].
    """
    none = np.zeros(attention.shape[:3], bool)
    query, key = attention.parts.get("query"), attention.parts.get("key")
    if (
        query is None
        or key is None
        or query.dtype != "float16"
        or len(query.shape) != 4
        or len(key.shape) != 4
    ):
        return none, False, 0.0
    if (
        query.shape[:3] != none.shape
        or key.shape[0] != query.shape[0]
        or key.shape[3] != query.shape[3]
        or query.shape[1] % key.shape[1]
    ):
        return none, False, 0.0
    rows, largest = _products(query, key)
    counts = attention.nan_counts
    broken = rows & (counts > 0) if counts is not None else none
    return (broken if broken.any() else rows), bool(broken.any()), largest


def _products(query: Tensor, key: Tensor) -> tuple[Array, float]:
    """Rows [B, H, Q] whose dot product with some key passes float16's range, and the largest product."""
    batch, heads, queries, _ = query.shape
    rows = np.zeros((batch, heads, queries), bool)
    largest = 0.0
    group = heads // key.shape[1]
    for b in range(batch):
        for h in range(heads):
            keys = key.read((b, h // group)).astype(np.float32)
            for start in range(0, queries, TILE):
                products = query.read((b, h, slice(start, start + TILE))).astype(np.float32) @ keys.T
                top = np.abs(np.nan_to_num(products, nan=0.0, posinf=0.0, neginf=0.0)).max(axis=1)
                rows[b, h, start : start + TILE] = top > HALF_MAX
                largest = max(largest, float(top.max(initial=0.0)))
    return rows, largest
