"""Rules on how a mask lies over the attention matrix: MSK112 and MSK113."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import NOT_WEIGHTS, rule
from maskcli.diagnostics.rules.common import listed
from maskcli.diagnostics.verdicts.judge import verdicts
from maskcli.diagnostics.verdicts.verdict import LEAK, Kind
from maskcli.masks.kinds import Layout, causal
from maskcli.masks.mask import Mask
from maskcli.measure.passes import measure
from maskcli.scene.scene import Attention, Saved, Scene

# Cells of a mask of the wrong length that are laid out to be compared; larger ones are not.
MOST_CELLS = 2**26


@rule(
    "MSK112",
    "ambiguous-broadcast",
    "warning",
    needs=("mask", ("weights", "input_ids")),
    explained_by=("MSK211",),
)
def ambiguous_broadcast(scene: Scene) -> Iterator[Found]:
    """The mask fits two axes of the scores, and nothing says which one was meant.

    `[B, K]` broadcasts as `[Q, K]` when the batch is as large as the text is long: row b then masks query b
    of every sample. It works, or fails, by the luck of the batch size. Masks over batch times heads have two
    orders, too.

    In code: `attn_mask=padding_mask` of shape `[B, K]` in scaled_dot_product_attention, `mask.repeat(heads,
    1, 1)`.

    Fix: give every mask its four axes: `mask[:, None, None, :]` for padding, `mask[None, None]` for causal.
    """
    for saved in scene.masks:
        shape = saved.given.tensor.shape
        sizes = _sizes(scene, saved)
        if sizes is None or saved.given.nan:
            continue
        batch, heads, queries = sizes
        told = None
        if len(shape) == 2 and shape[0] == batch == queries and batch > 1 and _differs_by_row(saved):
            told = f"[{batch}, {shape[1]}] fits both [B, K] and [Q, K], for there are {batch} samples of {queries} queries"
            other = _as_batch(saved, heads)
            if _staircase(saved) or _settled(saved, other):
                continue
        elif len(shape) == 3 and shape[0] == batch == heads and batch > 1:
            told = f"[{batch}, {shape[1]}, {shape[2]}] fits both the batch and the heads, for there are {batch} of each"
            if _settled(saved, _as_heads(saved, batch)):
                continue
        elif (
            len(shape) == 3
            and shape[0] == batch * heads
            and batch > 1
            and heads > 1
            and _head_major(scene, saved, batch, heads)
        ):
            told = (
                f"its {shape[0]} blocks repeat the padding of the {batch} samples in turn: the heads are outermost, where torch wants "
                "the batch outermost"
            )
        if told:
            yield Found(
                (saved.given.tensor.name,),
                f"the mask {saved.given.tensor.name!r} {told}",
                "give the mask its four axes: mask[:, None, None, :] for padding, mask[None, None] for (query, key)",
                evidence={"shape": str(list(shape))},
            )


@rule(
    "MSK113",
    "mask-length",
    "error",
    needs=("weights", ("padding_mask", "mask")),
    explained_by=(*NOT_WEIGHTS, "MSK219"),
)
def mask_length(scene: Scene) -> Iterator[Found]:
    """The mask covers another number of keys than the weights have, and agrees with them on neither end.

    With a cache or virtual prompt tokens in front there are more keys than tokens. A mask that does not count
    them, or counts them twice, hides the wrong keys; libraries cut or broadcast it without a word.

    In code: `attention_mask` of the new tokens only beside `past_key_values`, prefix tuning without a longer
    mask.

    Fix: make the mask as long as all keys: `cat([ones(B, past), attention_mask], dim=-1)`.
    """
    found: dict[tuple[str, int], list[Attention]] = {}
    for attention in scene.attentions:
        for name, length, candidates in _laid_over(attention):
            said = [_agrees(attention, mask) for mask in candidates]
            if False in said and True not in said:
                found.setdefault((name, length), []).append(attention)
    for (name, length), maps in found.items():
        keys = ", ".join(map(str, sorted({attention.shape[3] for attention in maps})))
        yield Found(
            (name, *(attention.name for attention in maps)),
            f"{name!r} covers {length} keys, {listed([a.name for a in maps])} have {keys}; laid on either end, it is not what the weights obey",
            "make the mask as long as all keys: cat([ones(B, past), attention_mask], dim=-1)",
            evidence={"mask_length": length, "keys": keys},
        )


def _sizes(scene: Scene, saved: Saved) -> tuple[int, int, int] | None:
    """Samples, heads and queries of the scores that a mask belongs to, from its map or else from the ids."""
    if saved.attention is not None:
        return saved.attention.shape[:3]
    for tokens in scene.tokens:
        rows = tokens.ids if tokens.ids is not None else tokens.real
        if rows is not None and rows.shape[1] == saved.given.shape[3]:
            return rows.shape[0], 0, rows.shape[1]
    return None


def _differs_by_row(saved: Saved) -> bool:
    return saved.given.keep.compact().stored[2] > 1


def _staircase(saved: Saved) -> bool:
    """Whether each row sees itself and nothing behind it: that is a mask over queries, whatever the batch size."""
    keep = saved.given.keep
    queries, keys = keep.shape[2:]
    inside = (
        (keep - causal(Layout(1, queries, keys, 1, keys - queries))).attended == 0
        if keys >= queries
        else False
    )
    return inside and all(keep.dense(rows=(q, q + 1))[0, q + keys - queries] for q in range(queries))


def _as_batch(saved: Saved, heads: int) -> Mask:
    """A mask [N, K] read as one row for each sample."""
    keep = saved.given.keep
    rows, keys = keep.shape[2:]
    return Mask((rows, max(heads, 1), rows, keys), (rows, 1, 1), keep.pointer, keep.starts, keep.stops)


def _as_heads(saved: Saved, batch: int) -> Mask:
    """A mask [N, Q, K], which is read as one for each sample, as one for each head."""
    keep = saved.given.keep
    heads, _, queries, keys = keep.shape
    return Mask((batch, heads, queries, keys), (1, heads, queries), keep.pointer, keep.starts, keep.stops)


def _settled(saved: Saved, other: Mask) -> bool:
    """Whether the weights obey one of the two readings and not the other."""
    attention = saved.attention
    if attention is None or attention.keep is None or other.shape != attention.shape:
        return False
    return _agrees(attention, attention.keep) != _agrees(attention, other)


def _head_major(scene: Scene, saved: Saved, batch: int, heads: int) -> bool:
    """Whether block n of a mask [B*H, Q, K] hides the padding of sample n % B and not that of n // H."""
    if (
        saved.keys is None
        or len(saved.keys.real) != batch
        or any(a is saved.attention for a, _ in verdicts(scene, Kind.OTHER_SAMPLE))
    ):
        return False
    seen = (
        np.any(saved.given.keep.seen, axis=1)
        if saved.given.shape[1] == 1
        else saved.given.keep.seen.reshape(batch * heads, -1)
    )
    if len(seen) != batch * heads:
        return False
    pads = ~saved.keys.real
    block = np.arange(batch * heads)
    in_turn, in_runs = (seen & pads[order] for order in (block % batch, block // heads))
    return not in_turn.any() and bool(in_runs.any())


def _laid_over(attention: Attention) -> Iterator[tuple[str, int, list[Mask]]]:
    """Masks of another length than the keys: the name, the length, and every way of laying them over the keys."""
    shape = attention.shape
    if attention.placement.misfit is not None and len(attention.placement.misfit.real) in (1, shape[0]):
        rows = attention.placement.misfit.real[:, None, None, :]
        yield (
            attention.placement.misfit.source,
            rows.shape[3],
            [mask for mask in map(_over(shape), _alignments(rows, shape[3])) if mask is not None],
        )
    if (
        attention.given is not None
        and attention.given.shape[3] != shape[3]
        and attention.given.shape[2] in (1, shape[2])
    ):
        keep = attention.given.keep
        if keep.shape[0] in (1, shape[0]) and keep.shape[1] in (1, shape[1]) and keep.cells <= MOST_CELLS:
            dense = np.stack([[keep.dense(b, h) for h in range(keep.shape[1])] for b in range(keep.shape[0])])
            yield (
                attention.given.tensor.name,
                dense.shape[3],
                [mask for mask in map(_over(shape), _alignments(dense, shape[3])) if mask is not None],
            )


def _over(shape: tuple[int, int, int, int]) -> Callable[[Array], Mask | None]:
    return lambda dense: Mask.from_dense(dense).broadcast_to(shape)


def _alignments(dense: Array, keys: int) -> Iterator[Array]:
    """A mask [b, h, q, L] as [b, h, q, K]: its first or last keys, or with keys added in front or behind."""
    length = dense.shape[3]
    if length > keys:
        yield dense[..., :keys]
        yield dense[..., length - keys :]
        return
    more = (*dense.shape[:3], keys - length)
    for kept in (True, False):
        added = np.full(more, kept)
        yield np.concatenate([dense, added], axis=3)
        yield np.concatenate([added, dense], axis=3)


def _agrees(attention: Attention, mask: Mask) -> bool | None:
    """Whether rows that a mask leaves some keys put nothing outside of them; rows it shows to be padding do
    not count, and where they all are nothing is known (None).
    """
    rows = np.broadcast_to(mask.keys_per_query > 0, attention.shape[:3]) & ~attention.looks_empty
    positions = np.arange(attention.shape[2]) + attention.past
    if positions[-1] < attention.shape[3]:
        own = np.broadcast_to(
            np.any(mask.seen, axis=1)[:, positions][:, None], (attention.shape[0], 1, attention.shape[2])
        )
        rows = rows & own
    mass = measure(attention.tensor, attention.shape, {"mask": mask}).mass["mask"][rows]
    return float(np.nanmean(mass)) < LEAK if mass.size else None
