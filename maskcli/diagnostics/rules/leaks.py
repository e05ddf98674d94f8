"""Rules on where weights fall although the mask forbids it: MSK201 to MSK204, MSK210, MSK211, MSK217, MSK219 and MSK220."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import LEAKS, NOT_WEIGHTS, rule
from maskcli.diagnostics.rules.common import (
    Hit,
    fold,
    found,
    ignored_keys,
    percent,
    spread,
    told,
    told_items,
    told_places,
)
from maskcli.diagnostics.verdicts.causes import Verdict
from maskcli.diagnostics.verdicts.judge import leaks, verdicts
from maskcli.masks.kinds import documents as same_document
from maskcli.masks.spec import kinds_in
from maskcli.scene.scene import Attention, Saved, Scene


@rule(
    "MSK201",
    "inverted-polarity",
    "error",
    needs=("weights", ("padding", "mask", "expectation")),
    explained_by=("MSK102", "MSK407"),
)
def inverted_polarity(scene: Scene) -> Iterator[Found]:
    """The weights obey the opposite of the mask: real tokens attend to what they should ignore.

    True means "attend" for torch's SDPA and "ignore" for nn.MultiheadAttention; handing one the other's mask turns it
    around. Every real token then reads only padding (or only the future), and the loss still falls a little. Samples
    without padding lose every key: their rows are NaN, zero, or the same for all keys.

    In code: `F.scaled_dot_product_attention(q, k, v, attn_mask=key_padding_mask)` with True on the padding, or a mask
    built as `ids == pad_id` where `ids != pad_id` was meant.

    Fix: invert the mask once, where it is built (`~mask`), and name it after what True means.
    """
    verdict_of = {a.name: v for a, v in verdicts(scene, "inverted")}
    hits = [
        Hit(name, v.rows, ignored_keys(v.ignored, v.rows) if v.ignored else None, v.share, v.label)
        for name, v in verdict_of.items()
    ]
    for members, where, each in fold(hits):
        told_here = [verdict_of[hit.tensor] for hit in members]
        low, high = (pick(v.violation for v in told_here) for pick in (min, max))
        yield found(
            members,
            where,
            each,
            f"queries put {percent(low, high)} of their weight on keys they should ignore "
            f"({told_places(where, each)}); {members[0].note} is applied inverted",
            "invert the mask where it is built: True is attend for scaled_dot_product_attention and ignore for "
            "nn.MultiheadAttention",
            {"violation": high, "violation_if_inverted": max(v.inverse_violation for v in told_here)},
        )


@rule(
    "MSK202",
    "padding-attended",
    "error",
    needs=("weights", "padding"),
    explained_by=(*LEAKS, "MSK108", "MSK407"),
)
def padding_attended(scene: Scene) -> Iterator[Found]:
    """Real tokens give padding a share of their attention, as if nothing masked it.

    Padding then changes every hidden state, so results depend on how long the longest text of the batch is. It shows as
    batch size changing the output, or as quality that drops on short texts.

    In code: the model was called without `attention_mask`, or the mask never reached the attention (a custom forward, a
    sdpa path with `attn_mask=None`).

    Fix: pass `attention_mask=inputs["attention_mask"]` to the model, and check that it reaches the softmax.
    """
    hits = [
        Hit(a.name, v.rows, ~a.keys.real, v.share, a.keys.source)
        for a, v in verdicts(scene, "padding")
        if a.keys
    ]
    for members, where, each in fold(hits):
        low, high = spread(members)
        yield found(
            members,
            where,
            each,
            f"real queries put {percent(low, high)} of their weight on padding: {told_places(where, each)}, "
            f"which {members[0].note} says to ignore",
            "pass attention_mask to the model and check that it reaches the softmax",
            {"padding_mass_lowest_layer": low, "padding_mass_highest_layer": high},
        )


@rule("MSK203", "future-attended", "error", needs=("weights", "causal expectation"), explained_by=LEAKS)
def future_attended(scene: Scene) -> Iterator[Found]:
    """Tokens attend to tokens that come after them, although attention was meant to be causal.

    In training the answer leaks into the question: the loss falls fast and generation is poor, because at generation time
    there is no future to look at.

    In code: `is_causal` left out, a causal mask that was built and not passed, or a model configured as an encoder.

    Fix: pass `is_causal=True` or a causal `attn_mask` in every layer.
    """
    hits = [
        Hit(a.name, v.rows, ignored_keys(a.causal, v.rows), v.share, a.future_expected or "")
        for a, v in verdicts(scene, "future")
    ]
    for members, where, each in fold(hits):
        low, high = spread(members)
        yield found(
            members,
            where,
            each,
            f"real queries put {percent(low, high)} of their weight on keys behind them; "
            f"{members[0].note} says attention is causal",
            "pass is_causal=True, or a causal attn_mask, to every attention call",
            {"future_mass_lowest_layer": low, "future_mass_highest_layer": high},
        )


@rule(
    "MSK204",
    "mask-not-applied",
    "error",
    needs=("weights", ("mask", "expectation")),
    explained_by=(*LEAKS, "MSK110"),
)
def mask_not_applied(scene: Scene) -> Iterator[Found]:
    """The weights are not 0 where the mask forbids them: another mask was used, or none.

    The mask in the file is not the one the softmax saw. What the weights do obey is named when a common mask explains it.

    In code: a mask argument that the attention implementation ignores, a mask built for another layer, a 4-D mask of a
    type that the library drops without a word.

    Fix: follow the mask to the softmax; compare `scores + mask` with the scores that enter it.
    """
    hits = [
        Hit(
            a.name,
            v.rows,
            ignored_keys(v.ignored, v.rows) if v.ignored else None,
            v.share,
            f"{_forbidding(a)}\n{v.label}",
        )
        for a, v in verdicts(scene, "not-applied")
    ]
    for members, where, each in fold(hits):
        what, label = members[0].note.split("\n")
        low, high = spread(members)
        explained = "it should be exactly 0" if label == "exact" else f"what they do obey is {label}"
        yield found(
            members,
            where,
            each,
            f"real queries put {percent(low, high)} of their weight on cells that {what} forbids "
            f"({told(where.keys, 'key', 'keys')} of {told_items(where.batch)}); {explained}",
            "follow the mask to the softmax: the attention that made these weights did not use it",
            {"violation_lowest_layer": low, "violation_highest_layer": high},
        )


@rule(
    "MSK210",
    "soft-masking",
    "error",
    needs=("weights", ("padding", "mask", "expectation")),
    explained_by=(*NOT_WEIGHTS, "MSK103", "MSK104", "MSK107"),
)
def soft_masking(scene: Scene) -> Iterator[Found]:
    """The mask only softens: forbidden keys keep a small, constant or evenly shifted part of their weight.

    A mask has to take a key's weight away whole. Added 0s and 1s only favour the allowed keys by a factor of e, a product with
    the scores gives every forbidden key the score 0, and a small fill leaves what exp(fill) leaves. The model reads padding
    or the future all the same, a little less.

    In code: `scores + mask` with a 0/1 mask, `scores * mask` before the softmax, `masked_fill(mask == 0, -10)`.

    Fix: `scores.masked_fill(mask == 0, float("-inf"))`, or a boolean mask.
    """
    told_kinds = {
        "shift": "log weights minus scores show that {size:.3g} was added to forbidden scores",
        "constant": "every forbidden key of a row weighs exactly the same ({size:.3g} on average): its score was multiplied by 0",
        "small": "a forbidden key weighs {size:.2g} of what an allowed one does: the fill was too weak",
    }
    by_name = {attention.name: verdict for attention, verdict in verdicts(scene, "soft")}
    for members, where, each in fold(_hits(scene, "soft", lambda verdict: verdict.label)):
        low, high = spread(members)
        sizes = [by_name[hit.tensor].size for hit in members]
        evidence = {"violation_lowest_layer": low, "violation_highest_layer": high}
        name = {"shift": "implied_bias", "constant": "constant_weight", "small": "ratio"}[members[0].note]
        yield found(
            members,
            where,
            each,
            f"real queries put {percent(low, high)} of their weight on keys they should ignore ({told_places(where, each)}); "
            + told_kinds[members[0].note].format(size=float(np.mean(sizes))),
            'mask with masked_fill(mask == 0, float("-inf")) or a boolean mask; do not add or multiply 0s and 1s',
            {**evidence, name: float(np.mean(sizes))},
        )


@rule("MSK211", "another-samples-mask", "error", needs=("weights", "padding"), explained_by=NOT_WEIGHTS)
def another_samples_mask(scene: Scene) -> Iterator[Found]:
    """Samples were masked with the padding of other samples of the batch.

    The mask and the scores are laid out in different orders, so that a text loses words where another one is short, and reads
    its own padding instead. With one length in the batch nothing shows.

    In code: `mask.repeat(heads, 1, 1)` where scores are `[B*H, Q, K]` with the batch outermost (`repeat_interleave` is
    meant), a `view` that swaps batch and heads, a mask that was not reordered with its batch (beam search).

    Fix: `mask.repeat_interleave(heads, dim=0)`, or keep the mask as `[B, 1, 1, K]` and let it broadcast.
    """
    for members, where, each in fold(_hits(scene, "another", lambda verdict: verdict.label)):
        low, high = spread(members)
        yield found(
            members,
            where,
            each,
            f"real queries put {percent(low, high)} of their weight on their own padding ({told_places(where, each)}), and none on "
            f"the padding of another sample: masks are in another order, {members[0].note}",
            "repeat_interleave the mask over the heads, or let a [B, 1, 1, K] mask broadcast",
            {"violation_lowest_layer": low, "violation_highest_layer": high, "order": members[0].note},
        )


@rule(
    "MSK217",
    "document-leak",
    "error",
    needs=(("weights", "mask"), "documents"),
    explained_by=(*LEAKS, "MSK405"),
)
def document_leak(scene: Scene) -> Iterator[Found]:
    """Attention crosses the border between packed documents.

    Texts that were packed into one row read each other. Some train like that on purpose; where documents are meant to be apart,
    every text but the first begins with strangers in its context.

    In code: packing without position ids or cu_seqlens, an all-ones attention_mask beside restarting position ids, an
    attention implementation that knows no block-diagonal mask.

    Fix: pass the document borders (position ids without an attention_mask, `cu_seqlens`, a block-diagonal mask), and say
    `--expect "causal & documents"` to have it checked.
    """
    meant: list[Hit] = []
    unsaid: list[Hit] = []
    for attention, verdict in verdicts(scene, "documents"):
        meant.append(Hit(attention.name, verdict.rows, _strangers(attention, verdict.rows), verdict.share))
    for attention in scene.attentions:
        if attention.same_document is None or _documents_expected(attention):
            continue
        rows = leaks(attention, "documents")
        if rows.any():
            unsaid.append(
                Hit(attention.name, rows, _strangers(attention, rows), attention.measured.mass["documents"])
            )
    yield from _masks_over_documents(scene)
    for hits, severity in ((meant, None), (unsaid, "note")):
        for members, where, each in fold(hits):
            low, high = spread(members)
            yield found(
                members,
                where,
                each,
                f"real queries put {percent(low, high)} of their weight on other packed documents ({told_places(where, each)})"
                + (
                    ""
                    if severity is None
                    else "; declare documents in --expect if they are meant to be apart"
                ),
                "pass position ids without an attention_mask, cu_seqlens, or a block-diagonal mask to the attention",
                {"mass_lowest_layer": low, "mass_highest_layer": high},
                severity,
            )


@rule("MSK219", "empty-cache-slots", "error", needs=("weights", "key"), explained_by=NOT_WEIGHTS)
def empty_cache_slots(scene: Scene) -> Iterator[Found]:
    """Queries attend to the empty slots of a key/value cache.

    A cache of fixed size holds zeros behind the current length. A zero key has the score 0, not minus infinity, so that every
    empty slot takes a share, and each answer depends on how large the cache is.

    In code: a static cache with `is_causal=True` or without a mask, a mask as long as the text instead of the cache.

    Fix: mask slots behind the current length: `arange(cache_length) <= position`.
    """
    size = {attention.name: int(verdict.size) for attention, verdict in verdicts(scene, "slots")}
    for members, where, each in fold(_hits(scene, "slots", lambda verdict: "")):
        low, high = spread(members)
        yield found(
            members,
            where,
            each,
            f"queries put {percent(low, high)} of their weight on keys that are all zeros, the same on each: the cache is filled up to "
            f"key {size[members[0].tensor]}, and what stands behind is empty",
            "mask the empty slots: arange(cache_length) <= position of the query",
            {"filled": size[members[0].tensor], "mass_lowest_layer": low, "mass_highest_layer": high},
        )


@rule(
    "MSK220",
    "cross-mask-swapped",
    "error",
    needs=("cross weights", "source and target padding"),
    explained_by=NOT_WEIGHTS,
)
def cross_mask_swapped(scene: Scene) -> Iterator[Found]:
    """Cross-attention does not use the padding of the source.

    Its keys are the source's tokens, so the source's padding belongs on them. With the target's mask, or none, the decoder
    reads padding, and loses real words where the target is shorter.

    In code: `decoder(..., memory_key_padding_mask=tgt_key_padding_mask)`, or memory_key_padding_mask left out.

    Fix: pass the encoder's attention_mask as the mask of cross-attention (`encoder_attention_mask`,
    `memory_key_padding_mask`).
    """
    for members, where, each in fold(_hits(scene, "swapped", lambda verdict: verdict.label)):
        low, high = spread(members)
        yield found(
            members,
            where,
            each,
            f"the decoder puts {percent(low, high)} of its cross-attention on the source's padding ({told_places(where, each)})"
            + (f"; what the weights do obey is {members[0].note}" if members[0].note else ""),
            "pass the source's padding mask to cross-attention (encoder_attention_mask, memory_key_padding_mask)",
            {"violation_lowest_layer": low, "violation_highest_layer": high},
        )


def _hits(scene: Scene, kind: str, note: Callable[[Verdict], str]) -> list[Hit]:
    """The maps with a verdict of one kind, with the keys that flagged rows should have ignored."""
    return [
        Hit(a.name, v.rows, ignored_keys(v.ignored, v.rows) if v.ignored else None, v.share, note(v))
        for a, v in verdicts(scene, kind)
    ]


def _documents_expected(each: Attention | Saved) -> bool:
    return each.declared is not None and "documents" in kinds_in(each.declared.spec)


def _masks_over_documents(scene: Scene) -> Iterator[Found]:
    """Saved masks, of no saved map, that let packed documents see each other."""
    for saved in scene.masks:
        keep, documents = saved.given.keep, saved.documents
        apart = (
            documents is not None and saved.attention is None and saved.past + keep.shape[2] <= keep.shape[3]
        )
        if (
            not apart
            or documents is None
            or len(documents) not in (1, keep.shape[0])
            or (documents == documents[:, :1]).all()
        ):
            continue
        across = keep - same_document(saved.layout)
        rows = across.keys_per_query > 0
        if saved.given.nan or not rows.any():
            continue
        seen = np.broadcast_to(np.any(across.seen, axis=1), (keep.shape[0], keep.shape[3]))
        for members, where, each in fold(
            [Hit(saved.given.tensor.name, np.broadcast_to(rows, keep.shape[:3]), seen)]
        ):
            yield found(
                members,
                where,
                each,
                f"the mask lets queries see other packed documents ({told_places(where, each)})",
                "use a block-diagonal mask (causal & documents), or position ids without an attention_mask",
                {"cells": across.attended},
                None if _documents_expected(saved) else "note",
            )


def _strangers(attention: Attention, rows: Array) -> Array | None:
    """Keys of other documents that flagged rows could see, before or behind them."""
    if attention.same_document is None:
        return None
    hidden = (
        attention.same_document | ~attention.causal if attention.future_expected else attention.same_document
    )
    return ignored_keys(hidden, rows)


def _forbidding(attention: Attention) -> str:
    """What says that the violated cells are to be ignored."""
    if attention.expected is not None and attention.declared is not None:
        return f"{attention.declared.source} {attention.spec!r}"
    return f"the mask {attention.given.tensor.name!r}" if attention.given else "the padding mask"
