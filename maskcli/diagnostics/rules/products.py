"""Rules that compute attention again from saved queries, keys and values: MSK221 and MSK306."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.rule import NOT_WEIGHTS, rule
from maskcli.diagnostics.rules.common import Hit, fold, found
from maskcli.scene.scene import Attention, Scene
from maskcli.tensors import Tensor

# log W is a straight line over q.k when the two belong together; rounding leaves the correlation above FITS, and heads that
# do not belong together, or keys that were turned after they were saved, fall far below it.
FITS, UNFIT = 0.995, 0.9
# How far W V may lie from the saved output, as a share of the largest value that takes part.
PRODUCT = {"float64": 1e-3, "float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}
# Rows of fewer keys than this are a straight line whatever they are.
FEW_KEYS = 4


@rule("MSK221", "grouped-heads-order", "error", needs=("weights", "query", "key"), explained_by=NOT_WEIGHTS)
def grouped_heads_order(scene: Scene) -> Iterator[Found]:
    """Query heads share key heads in the wrong order: head h uses key head h % G instead of h // (H / G).

    With grouped-query attention, H / G neighbouring query heads share one key head. `repeat` instead of `repeat_interleave`
    deals them out in turn: shapes agree, nothing fails, and nearly every head looks through another's keys.

    In code: `key.repeat(1, groups, 1, 1)`, or `key.expand(...)` and a reshape with the axes the wrong way round.

    Fix: `key.repeat_interleave(groups, dim=1)`, or `enable_gqa=True` in scaled_dot_product_attention.
    """
    hits = []
    for attention in scene.attentions:
        order = _key_heads(attention)
        if order == "dealt":
            rows = np.broadcast_to(attention.real_rows, attention.shape[:3])
            hits.append(Hit(attention.name, rows, None))
    groups = {
        a.name: a.parts["key"].shape[1]
        for a in scene.attentions
        if "key" in a.parts and len(a.parts["key"].shape) == 4
    }
    for members, where, each in fold(hits):
        count = groups[members[0].tensor]
        yield found(
            members,
            where,
            each,
            f"log weights fit q.k of key head h % {count} and not of key head h // {_heads(scene, members[0].tensor) // count}: keys were "
            "repeated in the wrong order",
            "use key.repeat_interleave(groups, dim=1) (and the same for value), or enable_gqa=True",
            {"query_heads": _heads(scene, members[0].tensor), "key_heads": count},
        )


@rule("MSK306", "weights-not-used", "warning", needs=("weights", "value", "output"), explained_by=NOT_WEIGHTS)
def weights_not_used(scene: Scene) -> Iterator[Found | Undecided]:
    """The saved weights times the saved values do not give the saved output.

    The weights are not those that made the output: asking for weights often takes another code path than the fused kernel,
    with another mask, another type, or dropout on one side only. What is read off them says nothing about the model.

    In code: `need_weights=True`, `output_attentions=True` with a fallback to eager, weights computed again in a hook.

    Fix: save weights, values and output of one and the same call, or compute the weights from its query, key and mask.
    """
    hits = []
    for attention in scene.attentions:
        if not {"value", "output"} <= attention.parts.keys():
            continue
        rows = _unlike(attention)
        if rows is None:
            yield Undecided("output of the heads, [B, H, Q, D] before they are joined")
        elif rows.any():
            hits.append(Hit(attention.name, rows, None))
    for members, where, each in fold(hits):
        yield found(
            members,
            where,
            each,
            "the weights times value are not the saved output: these are not the weights that the model used",
            "save weights, value and output of the same call; fused kernels return no weights, and asking for them changes the path",
            {"rows": int(sum(hit.rows.sum() for hit in members))},
        )


def _heads(scene: Scene, name: str) -> int:
    return next(attention.shape[1] for attention in scene.attentions if attention.name == name)


def _key_heads(attention: Attention) -> str | None:
    """How query heads find their key head by the sampled rows: "shared" in runs, "dealt" in turn, None when neither fits."""
    query, key = attention.parts.get("query"), attention.parts.get("key")
    if query is None or key is None or len(query.shape) != 4 or len(key.shape) != 4:
        return None
    batch, heads, queries, keys = attention.shape
    groups = key.shape[1]
    if (
        query.shape[:3] != (batch, heads, queries)
        or key.shape[::2] != (batch, keys)
        or key.shape[3] != query.shape[3]
    ):
        return None
    if heads % groups or groups < 2 or groups == heads:
        return None
    orders = {
        "shared": [h // (heads // groups) for h in range(heads)],
        "dealt": [h % groups for h in range(heads)],
    }
    telling = [h for h in range(attention.sample.heads) if orders["shared"][h] != orders["dealt"][h]]
    fits = {
        name: [_correlation(attention, query, key, h, order[h]) for h in telling]
        for name, order in orders.items()
    }
    known = {name: np.array([fit for fit in each if fit is not None]) for name, each in fits.items()}
    if not all(each.size for each in known.values()):
        return None
    if (known["dealt"] > FITS).all() and np.median(known["shared"]) < UNFIT:
        return "dealt"
    return "shared" if (known["shared"] > FITS).all() else None


def _correlation(attention: Attention, query: Tensor, key: Tensor, head: int, key_head: int) -> float | None:
    """How well log W of a head follows q.k over the keys it weighs: the correlation within rows, over all sampled ones."""
    found = attention.sample
    real = found.of(attention.real_rows)
    left, right = [], []
    for item in range(found.items):
        keys = key.read((item, key_head)).astype(np.float64)
        for at, row in enumerate(found.queries.tolist()):
            values = found.values[item, head, at].astype(np.float64)
            seen = values > 0
            if real[item, head, at] and seen.sum() >= FEW_KEYS and np.isfinite(values).all():
                logs, products = (
                    np.log(values[seen]),
                    keys[seen] @ query.read((item, head, row)).astype(np.float64),
                )
                left.append(logs - logs.mean())
                right.append(products - products.mean())
    if not left:
        return None
    logs, products = np.concatenate(left), np.concatenate(right)
    scale = float(np.sqrt((logs**2).sum() * (products**2).sum()))
    return float((logs * products).sum() / scale) if scale > 0 else None


def _unlike(attention: Attention) -> Array | None:
    """Sampled real rows [B, H, Q] whose W V is not the output, when most are so; None when the output has no heads."""
    value, output = attention.parts["value"], attention.parts["output"]
    batch, heads, queries, keys = attention.shape
    rows = np.zeros(attention.shape[:3], bool)
    if len(value.shape) != 4 or value.shape[::2] != (batch, keys) or heads % value.shape[1]:
        return rows
    width = value.shape[3]
    layouts = [
        axes
        for axes, shape in (("hq", (batch, heads, queries, width)), ("qh", (batch, queries, heads, width)))
        if output.shape == shape
    ]
    if not layouts:
        return None
    found = attention.sample
    real = found.of(attention.real_rows) & np.isfinite(found.values).all(axis=3)
    tolerance = max(PRODUCT.get(tensor.dtype, 0.1) for tensor in (attention.tensor, value, output))
    best: Array | None = None
    for axes in layouts:
        off = np.zeros(real.shape, bool)
        for item, head in np.ndindex(found.items, found.heads):
            values = value.read((item, head // (heads // value.shape[1]))).astype(np.float64)
            if not np.isfinite(values).all():
                return rows
            made = found.values[item, head].astype(np.float64) @ values
            index = (item, head, slice(None)) if axes == "hq" else (item, slice(None), head)
            saved = output.read(index).astype(np.float64)[found.queries]
            off[item, head] = np.abs(made - saved).max(axis=1) > tolerance * max(np.abs(values).max(), 1e-30)
        off &= real
        best = off if best is None or off.sum() < best.sum() else best
    assert best is not None
    if real.any() and best.sum() > 0.5 * real.sum():
        rows[: found.items, : found.heads, found.queries] = best
    return rows
