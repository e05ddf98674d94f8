"""Rules that compute attention again from saved queries, keys and values: MSK221 and MSK306."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Rows
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.rule import NOT_WEIGHTS, rule
from maskcli.diagnostics.rules.hits import Hit, fold, fold_by
from maskcli.diagnostics.verdicts.verdict import TINY
from maskcli.measure.sample import SMALL, Sample
from maskcli.scene.layouts import JOINED
from maskcli.scene.scene import Attention, Scene
from maskcli.tensors import Tensor
from maskcli.tensors.orders import permuted, saved_axes
from maskcli.tensors.tolerances import tolerances

# log W is a straight line over q.k when the two belong together; rounding leaves the correlation above FITS,
# and heads that do not belong together, or keys that were turned after they were saved, fall far below it.
FITS, UNFIT = 0.995, 0.9
# Rows of fewer keys than this are a straight line whatever they are.
FEW_KEYS = 4
# More of the sampled rows than this must differ before the weights are said to be others.
MOST = 0.5


@rule("MSK221", "grouped-heads-order", "error", needs=("weights", "query", "key"), explained_by=NOT_WEIGHTS)
def grouped_heads_order(scene: Scene) -> Iterator[Found]:
    """Query heads share key heads in the wrong order: head h uses key head h % G instead of h // (H / G).

    Nearly every head looks through another's keys, while shapes agree and nothing fails. With grouped-query
    attention, H / G neighbouring query heads share one key head, and `repeat` instead of `repeat_interleave`
    deals them out in turn.

    In code: `key.repeat(1, groups, 1, 1)`, or `key.expand(...)` and a reshape with the axes the wrong way
    round.

    Fix: `key.repeat_interleave(groups, dim=1)`, or `enable_gqa=True` in scaled_dot_product_attention.
    """
    hits = (
        (Hit(attention.name, attention.real), (attention.shape[1], attention.parts["key"].shape[1]))
        for attention in scene.attentions
        if _is_dealt(attention)
    )
    for group in fold_by(hits, alike=lambda _: None):
        heads, count = group.extra
        yield group.found(
            f"log weights fit q.k of key head h % {count} and not of key head h // {heads // count}: keys "
            "were repeated in the wrong order",
            "use key.repeat_interleave(groups, dim=1) (and the same for value), or enable_gqa=True",
            query_heads=heads,
            key_heads=count,
        )


@rule("MSK306", "weights-not-used", "warning", needs=("weights", "value", "output"), explained_by=NOT_WEIGHTS)
def weights_not_used(scene: Scene) -> Iterator[Found | Undecided]:
    """The saved weights times the saved values do not give the saved output.

    What is read off these weights says nothing about the model: asking for weights often takes another code
    path than the fused kernel, with another mask, another type, or dropout on one side only.

    In code: `need_weights=True`, `output_attentions=True` with a fallback to eager, weights computed again in
    a hook.

    Fix: save weights, values and output of one and the same call, or compute the weights from its query, key
    and mask.
    """
    hits = []
    for attention in scene.attentions:
        if not {"value", "output"} <= attention.parts.keys() or not _has_values(attention):
            continue
        layouts = _layouts(attention)
        unlike = _unlike(attention, layouts) if layouts else None
        if unlike is None:
            yield Undecided("output of the heads, [B, H, Q, D] before they are projected")
        else:
            hits.append(Hit(attention.name, unlike))
    for group in fold(hits):
        yield group.found(
            "the weights times value are not the saved output: these are not the weights that the model used",
            "save weights, value and output of the same call; fused kernels return no weights, and asking "
            "for them changes the path",
            rows=group.rows,
        )


def _is_dealt(attention: Attention) -> bool:
    """Whether query heads, by the sampled rows, share key heads in turn, h % G, not in runs, h // (H / G)."""
    query, key, heads = attention.parts.get("query"), attention.parts.get("key"), attention.shape[1]
    if query is None or key is None or not fit_the_map(attention, query, key):
        return False
    groups = key.shape[1]
    if groups in (0, 1, heads) or heads % groups:
        return False
    in_runs, in_turn = [], []
    for head in range(attention.sample.heads):
        run, turn = head // (heads // groups), head % groups
        if run != turn:
            in_runs += _correlation(attention, query, key, head, run)
            in_turn += _correlation(attention, query, key, head, turn)
    if not in_runs or not in_turn:
        return False
    return min(in_turn) > FITS and bool(np.median(in_runs) < UNFIT)


def fit_the_map(attention: Attention, query: Tensor, key: Tensor) -> bool:
    """Whether queries [B, H, Q, D] and keys [B, G, K, D] are those of a map."""
    batch, heads, queries, keys = attention.shape
    if len(query.shape) != 4 or len(key.shape) != 4 or query.shape[3] != key.shape[3]:
        return False
    return query.shape[:3] == (batch, heads, queries) and key.shape[::2] == (batch, keys)


def _correlation(attention: Attention, query: Tensor, key: Tensor, head: int, key_head: int) -> list[float]:
    """How well log W of a head follows q.k over the keys it weighs: the correlation within sampled rows.

    One number; none where no row has keys enough, or all its weights are equal.
    """
    sample = attention.sample
    real = sample.of(attention.real_rows)
    lines, all_products = [], []
    for item in range(sample.items):
        keys = key.read((item, key_head)).astype(np.float64)
        for at, row in enumerate(sample.queries.tolist()):
            values = sample.values[item, head, at].astype(np.float64)
            weighed = values > 0
            if not real[item, head, at] or weighed.sum() < FEW_KEYS or not np.isfinite(values).all():
                continue
            logs = np.log(values[weighed])
            products = keys[weighed] @ query.read((item, head, row)).astype(np.float64)
            lines.append(logs - logs.mean())
            all_products.append(products - products.mean())
    if not lines:
        return []
    logs, products = np.concatenate(lines), np.concatenate(all_products)
    scale = float(np.sqrt((logs**2).sum() * (products**2).sum()))
    return [float((logs * products).sum() / scale)] if scale > 0 else []


def _has_values(attention: Attention) -> bool:
    """Whether the values [B, G, K, D] are those of a map, for groups of its heads."""
    shape, (batch, heads, _, keys) = attention.parts["value"].shape, attention.shape
    if len(shape) != 4 or 0 in shape:
        return False
    return shape[::2] == (batch, keys) and heads % shape[1] == 0


class _Pair(NamedTuple):
    """Values [B, G, K, D] and an output [B, H, Q, D] as they may be laid out."""

    value: Tensor
    output: Tensor


def _layouts(attention: Attention) -> list[_Pair]:
    """How values and output may be laid out by their shapes: of as many heads as tokens, in two ways."""
    batch, heads, queries, _ = attention.shape
    value, output = attention.parts["value"], attention.parts["output"]
    if output.shape != (batch, heads, queries, value.shape[3]):
        return []
    values, outputs = [value], [output]
    if value.shape[1] == value.shape[2]:
        values.append(permuted(value, (0, 2, 1, 3), "[B, K, H, D]"))
    if heads == queries:
        outputs.append(permuted(output, (0, 2, 1, 3), "[B, Q, H, D]"))
    return [_Pair(*each) for each in product(values, outputs)]


def _unlike(attention: Attention, layouts: list[_Pair]) -> Rows | None:
    """Sampled real rows [B, H, Q] whose W V is not the output as laid out to fit best, when most are so.

    None where the output was saved with its heads joined and holds what no mean of the values is: it was
    projected.
    """
    sample, value, output = attention.sample, *layouts[0]
    rows = np.zeros(attention.shape[:3], bool)
    tolerance = max(tolerances(tensor.dtype).products for tensor in (attention.tensor, value, output))
    off = np.zeros((len(layouts), *sample.values.shape[:3]), bool)
    outside = False
    for (items, heads), (at, pair) in product(_parts(sample, value), enumerate(layouts)):
        values = _of_heads(pair.value, attention.shape[1], items, heads)
        if not np.isfinite(values).all():
            return rows
        limit = tolerance * np.maximum(np.abs(values).max(axis=(2, 3), keepdims=True), TINY)
        made = sample.values[items, heads].astype(np.float64) @ values
        saved = pair.output.read((items, heads)).astype(np.float64)[:, :, sample.queries]
        off[at, items, heads] = (np.abs(made - saved) > limit).any(axis=3)
        low = np.minimum(values.min(axis=2, keepdims=True), 0) - limit
        high = np.maximum(values.max(axis=2, keepdims=True), 0) + limit
        outside |= bool(((saved < low) | (saved > high)).any())
    if outside and saved_axes(output) == JOINED and off[0].any():
        return None
    real = sample.of(attention.real_rows) & np.isfinite(sample.values).all(axis=3)
    best = min(off & real, key=lambda unlike: int(unlike.sum()))
    if best.sum() > MOST * real.sum():
        rows[: sample.items, : sample.heads, sample.queries] = best
    return rows


def _parts(sample: Sample, value: Tensor) -> list[tuple[slice, slice]]:
    """The items and heads that are computed at once: all where values are few, else head by head."""
    if math.prod(value.shape) <= SMALL:
        return [(slice(sample.items), slice(sample.heads))]
    each = np.ndindex(sample.items, sample.heads)
    return [(slice(item, item + 1), slice(head, head + 1)) for item, head in each]


def _of_heads(value: Tensor, heads: int, items: slice, some: slice) -> Array:
    """The values [b, h, K, D] float64 of some of so many heads that share value heads in runs."""
    shared = heads // value.shape[1]
    of_head = np.arange(heads)[some] // shared
    first = int(of_head[0])
    values = value.read((items, slice(first, int(of_head[-1]) + 1))).astype(np.float64)
    return values if shared == 1 else values[:, of_head - first]
