"""Rules on where NaN and overflow come from: MSK301 to MSK305."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Where
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.hits import Hit, at_keys, fold, places
from maskcli.diagnostics.words import listed, told_places
from maskcli.measure.questions import bad_cells, first_bad
from maskcli.scene.scene import Attention, Scene, once
from maskcli.tensors import Tensor
from maskcli.tensors.axes import state_shape
from maskcli.tensors.orders import saved_index
from maskcli.tensors.roles import Roled

# The largest finite float16.
HALF_MAX = 65504.0
SCALE_FIRST = "scale q before the product, or compute the scores in float32 or bfloat16"
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

    Soon the whole sample is NaN: a softmax over nothing but -inf is 0/0, and though that starts in rows
    nobody may ever read (padding), the next layer reads them as keys, and 0 * NaN is NaN.

    In code: left padding with a causal mask filled with -inf, a sample of padding only, bool masks with an
    eager softmax.

    Fix: a finite fill (`torch.finfo(dtype).min`) or one kept key a row, then zero the output of those rows.
    `nan_to_num` behind the softmax only hides it: the gradients are still NaN.
    """
    first = _unsourced_nan(scene)
    if first is None or not _lacks_keys(first):
        return
    because = "are NaN as a whole while all others are finite"
    if first.attention.meant is not None:
        because = "have no key left by the mask"
    inherited = f"; {listed(first.later)} inherit it" if first.later else ""
    for group in fold([Hit(first.attention.name, first.rows)]):
        yield group.found(
            f"{group.told('queries')} {because}: a softmax over nothing is NaN{inherited}",
            "use a finite fill (torch.finfo(dtype).min) or keep one key a row, then zero the output of "
            "those rows; nan_to_num behind the softmax still gives NaN gradients",
            nan_rows=group.rows,
            nan_cells=first.cells,
        )


class _Nan(NamedTuple):
    """The first map with NaN: how many each row holds, int [B, H, Q], and the maps with NaN after it."""

    attention: Attention
    counts: Array
    later: list[str]

    @property
    def rows(self) -> Array:
        """Rows that hold some."""
        rows: Array = self.counts > 0
        return rows

    @property
    def whole(self) -> Array:
        """Rows that hold nothing else."""
        whole: Array = self.counts == self.attention.shape[3]
        return whole

    @property
    def cells(self) -> int:
        """How many there are."""
        return int(self.counts.sum())


def _unsourced_nan(scene: Scene) -> _Nan | None:
    """The NaN of the earliest layer that has some, unless an earlier tensor explains it."""
    order = {roled.tensor.name: place for place, roled in enumerate(scene.tensors)}
    maps = [attention for attention in scene.attentions if attention.nan_counts is not None]
    maps.sort(key=lambda attention: (attention.roled.layer or 0, order[attention.name]))
    if not maps or maps[0].nan_counts is None or _has_source(maps[0]):
        return None
    return _Nan(maps[0], maps[0].nan_counts, [attention.name for attention in maps[1:]])


def _has_source(attention: Attention) -> bool:
    """Whether an earlier tensor of this layer, or the mask, holds the NaN already, or scores overflowed."""
    if attention.given is not None and attention.given.nan is not None:
        return True
    for role, bad in (("query", _not_finite), ("key", _not_finite), ("scores", _nan_or_inf)):
        part = attention.parts.get(role)
        if part is not None and first_bad(part, bad) is not None:
            return True
    return overflowed(attention)[1]


def _lacks_keys(nan: _Nan) -> bool:
    """Whether all NaN is in whole rows, which the mask leaves no key where anything says what the mask is."""
    attention = nan.attention
    if (nan.whole != nan.rows).any():
        return False
    if attention.meant is None:
        return not nan.whole.all()
    masks = [mask for mask in (attention.keep, attention.expected) if mask is not None] or [attention.meant]
    if attention.padding is not None:
        # A causal model needs no saved mask to leave a left-padded query without keys.
        masks.append(attention.causal & attention.padding)
    empty = np.zeros(nan.rows.shape, bool)
    for mask in masks:
        empty |= mask.keys_per_query == 0
    if attention.queries is not None:
        # Nor does a window that lies inside the padding behind a text.
        empty |= ~attention.queries.real[:, None]
    return bool((nan.rows <= empty).all())


@rule("MSK302", "nan-from-input", "error", needs=(("scores", "query", "key"),), explained_by=("MSK303",))
def nan_from_input(scene: Scene) -> Iterator[Found]:
    """NaN came in from an earlier tensor: scores, query or key already hold NaN or infinity.

    The softmax only passes it on: look at what made that tensor; the mask is not to blame.

    In code: a NaN in the embeddings or the weights after a diverged step, a layer norm over zeros, an
    infinity in fp16.

    Fix: go to the first tensor named here and to the operation that produced it.
    """
    roled, what, at = next(_bad_inputs(scene), (None, "", ()))
    if roled is None or roled.role is None:
        return
    name, saved = roled.tensor.name, list(saved_index(roled.tensor, at))
    yield Found(
        (name,),
        f"{name!r} holds {what}, first at index {saved}: NaN comes in here, before the mask",
        f"look at what computes {name!r}; the softmax only passes it on",
        _place(roled.tensor, at, roled.role),
        {"index": str(saved)},
    )


def _bad_inputs(scene: Scene) -> Iterator[tuple[Roled, str, tuple[int, ...]]]:
    """Inputs of attention that hold what makes NaN, what that is, and the first such cell."""
    for role, bad, what in (
        ("query", _not_finite, "NaN or infinity"),
        ("key", _not_finite, "NaN or infinity"),
        ("scores", np.isnan, "NaN"),
    ):
        for roled in _by_layer(scene, role):
            # A key that is bad where nobody looks is MSK304's case.
            if role != "key" or _bad_ignored(scene, roled) is None:
                at = first_bad(roled.tensor, bad)
                if at is not None:
                    yield roled, what, at


@rule("MSK303", "score-overflow", "error", needs=(("scores", "query"),))
def score_overflow(scene: Scene) -> Iterator[Found]:
    """Scores overflowed to +inf: the row becomes NaN. This is not a mask bug.

    A dot product of large queries and keys passes 65504, where float16 ends, and exp(inf - inf) is NaN.

    In code: `q @ k.transpose(-1, -2)` in float16 before the division by sqrt(d).

    Fix: scale q before the product, compute scores in float32 or bfloat16, or normalise q and k.
    """
    for roled in _by_layer(scene, "scores"):
        at = first_bad(roled.tensor, lambda values: values == np.inf)
        if at is not None:
            saved = saved_index(roled.tensor, at)
            yield Found(
                (roled.tensor.name,),
                f"{roled.tensor.name!r} holds +inf, first at index {list(saved)}: the scores overflowed, and "
                "their rows become NaN (not a mask bug)",
                SCALE_FIRST,
                _place(roled.tensor, at, "scores"),
                {"index": str(list(saved))},
            )
            return

    for attention in scene.attentions:
        rows, follows, largest = overflowed(attention)
        severity, effect = "note", ", though no NaN follows"
        if follows:
            severity, effect = "error", ": these rows are NaN because the scores overflowed (not a mask bug)"
        for group in fold([Hit(attention.name, rows)]):
            query, key = attention.parts["query"].name, attention.parts["key"].name
            yield group.found(
                f"q.k of {query!r} and {key!r} reaches {largest:.4g}, beyond float16's 65504{effect}",
                SCALE_FIRST,
                severity=severity,
                largest_score=largest,
            )


@rule("MSK304", "nan-through-value", "error", needs=(("value", "key"), ("padding", "mask")))
def nan_through_value(scene: Scene) -> Iterator[Found]:
    """Values or keys hold NaN at ignored positions, and 0 * NaN is NaN.

    Uninitialised cache slots and padding that an earlier layer turned to NaN reach every output this way: a
    weight of exactly 0 does not protect, as the weighted sum multiplies it with the value.

    In code: `torch.empty` for a key/value cache, NaN in padded positions.

    Fix: allocate caches with zeros, and zero the values of ignored keys.
    """
    for roled in (*_by_layer(scene, "value"), *_by_layer(scene, "key")):
        bad = _bad_ignored(scene, roled)
        if bad is None:
            continue
        name, where, spots = roled.tensor.name, at_keys(bad), places(np.any(bad, axis=1)[:, None, None], bad)
        yield Found(
            (name,),
            f"{name!r} holds NaN or infinity at ignored keys ({told_places(where, spots)}): their weight of "
            "0 does not stop it, 0 * NaN is NaN",
            "allocate the cache with zeros, or zero the values of ignored keys",
            where,
            {"positions": int(bad.sum())},
            places=spots,
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

    From here it spreads through all that follows. The first place and the pattern (whole rows, whole columns,
    a block, single cells) narrow the search: whole rows point to the mask or an overflow, columns to a key,
    single cells to memory.

    In code: it cannot be said from this file alone.

    Fix: save the mask, the scores, query and key of this layer too and run the check again.
    """
    nan = _unsourced_nan(scene)
    if nan is None or _lacks_keys(nan):
        return
    pattern = "parts of rows"
    if (nan.whole == nan.rows).all():
        pattern = "all rows" if nan.whole.all() else "whole rows"
    tensor = nan.attention.tensor
    at = list(saved_index(tensor, first_bad(tensor, np.isnan) or ()))
    after = f", and {listed(nan.later)} come after it" if nan.later else ""
    for group in fold([Hit(nan.attention.name, nan.rows)]):
        yield group.found(
            f"{nan.attention.name!r} holds NaN in {pattern} ({nan.cells:,} cells), first at index {at}; "
            f"nothing in the file explains it{after}",
            "save the mask, scores, query and key of this layer as well and diagnose again",
            nan_cells=nan.cells,
            pattern=pattern,
        )


def _by_layer(scene: Scene, role: str) -> list[Roled]:
    """The tensors of a role, earliest layer first."""
    tensors = [roled for roled in scene.tensors if roled.role == role]
    return sorted(tensors, key=lambda roled: roled.layer or 0)


def _not_finite(values: Array) -> Array:
    bad: Array = ~np.isfinite(values)
    return bad


def _nan_or_inf(values: Array) -> Array:
    bad: Array = np.isnan(values) | (values == np.inf)
    return bad


def _place(tensor: Tensor, at: tuple[int, ...], role: str) -> Where:
    """Where a cell of a query or key [B, H, L, D] or of scores [B, H, Q, K] lies."""
    if len(tensor.shape) != 4:
        return Where((at[0],) if len(at) > 2 else None)
    run, last = ((at[2], at[2] + 1),), ((at[3], at[3] + 1),)
    queries, keys = {"query": (run, None), "key": (None, run), "scores": (run, last)}[role]
    return Where((at[0],), (at[1],), queries, keys)


def _bad_ignored(scene: Scene, roled: Roled) -> Array | None:
    """Positions [B, L] of keys or values [B, H, L, D] or [B, L, D] with NaN or infinity in any head.

    None when there are none, or when some of them are not ignored by all.
    """
    shape = state_shape(roled.tensor.shape)
    if shape is None:
        return None
    flags = bad_cells(roled.tensor, _not_finite).reshape(shape[:3])
    positions: Array = np.any(flags, axis=1)
    if not positions.any():
        return None
    ignored = _ignored_keys(scene, roled, positions.shape)
    return positions if ignored is not None and (positions <= ignored).all() else None


def _ignored_keys(scene: Scene, roled: Roled, shape: tuple[int, ...]) -> Array | None:
    """Keys [B, L] that no real query of this layer may attend to: by its map, a saved mask, or padding."""
    for attention in scene.attentions:
        of_layer = attention.roled.layer in (roled.layer, None) and attention.roled.kind == roled.kind
        if of_layer and attention.shape[::3] == shape and attention.meant is not None:
            return ~np.broadcast_to(np.any(attention.meant.seen, axis=1), shape)
    for saved in scene.masks:
        batch, _, _, keys = saved.given.shape
        if keys == shape[1] and batch in (1, shape[0]):
            return ~np.broadcast_to(np.any(saved.given.keep.seen, axis=1), shape)
    return _padding(scene, shape)


def _padding(scene: Scene, shape: tuple[int, ...]) -> Array | None:
    """Padding [B, L] by a padding mask of this shape."""
    for tokens in scene.tokens:
        if tokens.real is not None and tokens.real.shape == shape:
            return ~tokens.real
    for padding in scene.tensors:
        if padding.role == "padding_mask" and padding.tensor.shape == shape:
            ignored: Array = padding.tensor.read() == 0
            return ignored
    return None


@once
def overflowed(attention: Attention) -> tuple[Array, bool, float]:
    """Rows [B, H, Q] whose q.k passes float16's range (those among them that are NaN, when some are), whether
    NaN follows, and the largest product. No rows when query and key were not saved as float16 [B, H, L, D].
    """
    none = np.zeros(attention.shape[:3], bool)
    query, key = attention.parts.get("query"), attention.parts.get("key")
    if query is None or key is None or not _can_overflow(query, key, none.shape):
        return none, False, 0.0
    rows, largest = _products(query, key)
    broken = none
    if attention.nan_counts is not None:
        broken = rows & (attention.nan_counts > 0)
    return (broken, True, largest) if broken.any() else (rows, False, largest)


def _can_overflow(query: Tensor, key: Tensor, rows: tuple[int, ...]) -> bool:
    """Whether a float16 query [B, H, Q, D] stands in the rows of a map, and a key [B, G, K, D] fits it."""
    if query.dtype != "float16" or len(query.shape) != 4 or len(key.shape) != 4:
        return False
    alike = key.shape[0] == query.shape[0] and key.shape[3] == query.shape[3]
    return alike and query.shape[:3] == rows and query.shape[1] % key.shape[1] == 0


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
