"""Rules on how a mask lies over the attention matrix: MSK112 and MSK113."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import NOT_WEIGHTS, for_each, masks, rule
from maskcli.diagnostics.verdicts.judge import verdicts
from maskcli.diagnostics.verdicts.verdict import LEAK, Kind
from maskcli.diagnostics.words import listed
from maskcli.masks.kinds import causal
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import kinds_in
from maskcli.measure.passes import measure
from maskcli.scene.scene import LOCAL, Attention, Saved, Scene

# Cells of a mask of the wrong length that are laid out to be compared; larger ones are not.
MOST_CELLS = 2**26


@rule(
    "MSK112",
    "ambiguous-broadcast",
    "warning",
    needs=("mask", ("weights", "input_ids")),
    explained_by=("MSK211",),
)
@for_each(masks)
def ambiguous_broadcast(saved: Saved, scene: Scene) -> Found | None:
    """The mask fits two axes of the scores, and nothing says which one was meant.

    `[B, K]` broadcasts as `[Q, K]` when the batch is as large as the text is long: row b then masks query b
    of every sample. It works, or fails, by the luck of the batch size. Masks over batch times heads have two
    orders, too.

    In code: `attn_mask=padding_mask` of shape `[B, K]` in scaled_dot_product_attention, `mask.repeat(heads,
    1, 1)`.

    Fix: give every mask its four axes: `mask[:, None, None, :]` for padding, `mask[None, None]` for causal.
    """
    sizes = _sizes(scene, saved)
    if sizes is None or saved.given.nan:
        return None
    doubt = _two_axes(saved, sizes) or _batch_or_heads(saved, sizes) or _heads_outermost(scene, saved, sizes)
    if doubt is None:
        return None
    tensor = saved.given.tensor
    return Found(
        (tensor.name,),
        f"the mask {tensor.name!r} {doubt}",
        "give the mask its four axes: mask[:, None, None, :] for padding, mask[None, None] for (query, key)",
        evidence={"shape": str(list(tensor.shape))},
    )


def _two_axes(saved: Saved, sizes: tuple[int, int, int]) -> str | None:
    """How a mask [N, K] fits samples as well as queries; None when it does not, or is settled."""
    shape, (batch, heads, queries) = saved.given.tensor.shape, sizes
    if len(shape) != 2 or batch < 2 or not shape[0] == batch == queries:
        return None
    differs = saved.given.keep.compact().stored[2] > 1
    if not differs or _is_staircase(saved.given.keep) or _settled(saved, _as_batch(saved, heads)):
        return None
    form = f"[{batch}, {shape[1]}]"
    return f"{form} fits both [B, K] and [Q, K], for there are {batch} samples of {queries} queries"


def _batch_or_heads(saved: Saved, sizes: tuple[int, int, int]) -> str | None:
    """How a mask [N, Q, K] fits samples as well as heads; None when it does not, or is settled."""
    shape, (batch, heads, _) = saved.given.tensor.shape, sizes
    if len(shape) != 3 or batch < 2 or not shape[0] == batch == heads:
        return None
    if _settled(saved, _as_heads(saved, batch)):
        return None
    return (
        f"[{batch}, {shape[1]}, {shape[2]}] fits both the batch and the heads, for there are {batch} of each"
    )


def _heads_outermost(scene: Scene, saved: Saved, sizes: tuple[int, int, int]) -> str | None:
    """What a mask [B*H, Q, K] is whose block n hides the padding of sample n % B, not n // H; else None."""
    shape, (batch, heads, _) = saved.given.tensor.shape, sizes
    blocks = batch * heads
    if len(shape) != 3 or min(batch, heads) < 2 or shape[0] != blocks:
        return None
    accused = any(attention is saved.attention for attention, _ in verdicts(scene, Kind.OTHER_SAMPLE))
    if saved.keys is None or len(saved.keys.real) != batch or accused:
        return None
    seen = saved.given.keep.seen
    seen = np.any(seen, axis=1) if saved.given.shape[1] == 1 else seen.reshape(blocks, -1)
    if len(seen) != blocks:
        return None
    block = np.arange(blocks)
    in_turn, in_runs = (seen & ~saved.keys.real[order] for order in (block % batch, block // heads))
    if in_turn.any() or not in_runs.any():
        return None
    return (
        f"its {shape[0]} blocks repeat the padding of the {batch} samples in turn: the heads are outermost, "
        "where torch wants the batch outermost"
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

    Wrong keys are hidden, and libraries cut or broadcast such a mask without a word. With a cache or virtual
    prompt tokens in front there are more keys than tokens: a mask has to count them, once.

    In code: `attention_mask` of the new tokens only beside `past_key_values`, prefix tuning without a longer
    mask.

    Fix: make the mask as long as all keys: `cat([ones(B, past), attention_mask], dim=-1)`.
    """
    disobeyed: dict[tuple[str, int, str], list[Attention]] = {}
    longest = max((attention.shape[3] for attention in scene.attentions), default=0)
    for attention in scene.attentions:
        for name, dense in _of_other_length(attention):
            length = dense.shape[3]
            if length > longest and _counts_twice(attention, length):
                why = "the keys in the cache are counted twice"
            elif _disobeys(attention, dense):
                why = "laid on either end, it is not what the weights obey"
            else:
                continue
            disobeyed.setdefault((name, length, why), []).append(attention)

    for (name, length, why), maps in disobeyed.items():
        names = [attention.name for attention in maps]
        keys = ", ".join(map(str, sorted({attention.shape[3] for attention in maps})))
        yield Found(
            (name, *names),
            f"{name!r} covers {length} keys, {listed(names)} have {keys}; {why}",
            "make the mask as long as all keys: cat([ones(B, past), attention_mask], dim=-1)",
            evidence={"mask_length": length, "keys": keys},
        )


def _counts_twice(attention: Attention, length: int) -> bool:
    """Whether a mask at a decode step is as long as the keys and the cache, or twice the keys.

    A sliding layer's cache is shorter than its mask as well: where one is declared, or positions or steps say
    that the text is longer than the keys, nothing is counted twice.
    """
    queries, keys = attention.shape[2:]
    cached = keys - queries
    if cached < queries or attention.roled.kind == "cross" or length not in (2 * keys, keys + cached):
        return False
    local = attention.declared is not None and bool(kinds_in(attention.declared.spec) & LOCAL)
    growing = attention.roled.step is not None
    return not local and not growing and attention.placement.scattered is None


def _disobeys(attention: Attention, dense: Array) -> bool:
    """Whether the weights disagree with a mask of another length, laid on either end."""
    laid = (Mask.from_dense(over) for over in _alignments(dense, attention.shape[3]))
    masks = (mask.broadcast_to(attention.shape) for mask in laid)
    agree = {_agrees(attention, mask) for mask in masks if mask is not None}
    return False in agree and True not in agree


def _sizes(scene: Scene, saved: Saved) -> tuple[int, int, int] | None:
    """Samples, heads and queries of the scores that a mask belongs to, from its map or else from the ids."""
    if saved.attention is not None:
        return saved.attention.shape[:3]
    for tokens in scene.tokens:
        rows = tokens.ids if tokens.ids is not None else tokens.real
        if rows is not None and rows.shape[1] == saved.given.shape[3]:
            return rows.shape[0], 0, rows.shape[1]
    return None


def _is_staircase(keep: Mask) -> bool:
    """Whether each row sees itself and nothing behind it: a mask over queries, whatever the batch size."""
    queries, keys = keep.shape[2:]
    past = keys - queries
    if past < 0 or (keep - causal(Layout(1, queries, keys, 1, past))).attended:
        return False
    return all(keep.dense(rows=(q, q + 1))[0, q + past] for q in range(queries))


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
    """Whether the weights obey one of the two readings and not the other, or neither."""
    attention = saved.attention
    if attention is None or attention.keep is None or other.shape != attention.shape:
        return False
    mine, others = _agrees(attention, attention.keep), _agrees(attention, other)
    return mine != others or mine is False


def _of_other_length(attention: Attention) -> Iterator[tuple[str, Array]]:
    """Masks of another length than the keys, by name: bool [b, h, q, L], each axis 1 or the map's."""
    shape, misfit, given = attention.shape, attention.placement.misfit, attention.given
    if misfit is not None and len(misfit.real) in (1, shape[0]):
        yield misfit.source, misfit.real[:, None, None, :]
    if given is None or given.shape[3] == shape[3] or given.keep.cells > MOST_CELLS:
        return
    keep = given.keep
    if all(size in (1, whole) for size, whole in zip(keep.shape[:3], shape[:3], strict=True)):
        batch, heads = keep.shape[:2]
        yield given.tensor.name, np.stack([[keep.dense(b, h) for h in range(heads)] for b in range(batch)])


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
    batch, _, queries, keys = attention.shape
    rows = np.broadcast_to(mask.keys_per_query > 0, attention.shape[:3]) & ~attention.looks_empty
    positions = np.arange(queries) + attention.past
    if positions[-1] < keys:
        own = np.any(mask.seen, axis=1)[:, positions]
        rows = rows & np.broadcast_to(own[:, None], (batch, 1, queries))
    mass = measure(attention.tensor, attention.shape, {"mask": mask}).mass["mask"][rows]
    return float(np.nanmean(mass)) < LEAK if mass.size else None
