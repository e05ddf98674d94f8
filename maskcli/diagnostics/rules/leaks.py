"""Rules on where weights fall against the mask: MSK201 to 204, MSK210, MSK211, MSK217, MSK219 and MSK220."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import LEAKS, NOT_WEIGHTS, rule
from maskcli.diagnostics.rules.hits import Hit, fold, fold_by, ignored_keys
from maskcli.diagnostics.verdicts.judge import verdicts
from maskcli.diagnostics.verdicts.leaks import leaks
from maskcli.diagnostics.verdicts.verdict import EXACTLY, Inverted, Kind, Softened, Verdict
from maskcli.diagnostics.words import percent, told, told_items
from maskcli.masks.kinds import documents as same_document
from maskcli.masks.spec import kinds_in
from maskcli.scene.scene import Attention, Saved, Scene
from maskcli.scene.tokens import several

Extra = TypeVar("Extra")

# What a soft mask did, by the number that tells.
SOFTENED = {
    "implied_bias": "log weights minus scores show that {:.3g} was added to forbidden scores",
    "constant_weight": "every forbidden key of a row weighs exactly the same ({:.3g} on average), as "
    "one score in place of theirs makes them: a fill that is too small (-5, -10), a product with a mask of 0 "
    "and 1, or keys that are all zero (empty slots of a cache)",
    "fill": "scores are as large as the fill of {:.6g}, which does not silence a key beside them",
    "ratio": "a fill of about {fill:.3g} cannot silence a key: exp({fill:.3g}) = {:.2g} of its weight stays",
}

WEAK = 'use float("-inf"), or torch.finfo(dtype).min where a row can be fully masked'
SOFT = 'mask with masked_fill(mask == 0, float("-inf")) or a boolean mask; do not add or multiply 0s and 1s'


@rule(
    "MSK201",
    "inverted-polarity",
    "error",
    needs=("weights", ("padding", "mask", "expectation")),
    explained_by=("MSK102", "MSK407"),
)
def inverted_polarity(scene: Scene) -> Iterator[Found]:
    """The weights obey the opposite of the mask: real tokens attend to what they should ignore.

    Every real token then reads only padding (or only the future), and the loss still falls a little. True
    means "attend" for torch's SDPA and "ignore" for nn.MultiheadAttention; handing one the other's mask turns
    it around. Samples without padding lose every key: their rows are NaN, zero, or the same for all keys.

    In code: `F.scaled_dot_product_attention(q, k, v, attn_mask=key_padding_mask)` with True on the padding,
    or a mask built as `ids == pad_id` where `ids != pad_id` was meant.

    Fix: invert the mask once, where it is built (`~mask`), and name it after what True means.
    """
    for group in fold_by(_hits(scene, Kind.INVERTED, Inverted), alike=lambda inverted: inverted.what):
        low, high = (pick(inverted.violation for inverted in group.extras) for pick in (min, max))
        yield group.found(
            f"queries put {percent(low, high)} of their weight on keys they should ignore "
            f"({group.told()}); {group.extra.what} is applied inverted",
            "invert the mask where it is built: True is attend for scaled_dot_product_attention and ignore "
            "for nn.MultiheadAttention",
            violation=high,
            violation_if_inverted=max(inverted.inverse_violation for inverted in group.extras),
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

    Padding then changes every hidden state, so results depend on how long the longest text of the batch is.
    It shows as batch size changing the output, or as quality that drops on short texts.

    In code: the model was called without `attention_mask`, or the mask never reached the attention (a custom
    forward, a sdpa path with `attn_mask=None`).

    Fix: pass `attention_mask=inputs["attention_mask"]` to the model, and check that it reaches the softmax.
    """
    hits = ((hit_of(a, v), (a.keys.source, _shown_by(a))) for a, v in verdicts(scene, Kind.PADDING) if a.keys)
    for group in fold_by(hits, alike=_by_source):
        source, mask = group.extra
        fix = "pass attention_mask to the model and check that it reaches the softmax"
        if mask:
            fix = f"hide the padding in {mask!r} too: & attention_mask[:, None, None, :]"
        yield group.found(
            f"real queries put {group.percent} of their weight on padding: {group.told()}, "
            f"which {source} says to ignore{_and_shows(mask)}",
            fix,
            **group.layers("padding_mass"),
        )


@rule("MSK203", "future-attended", "error", needs=("weights", "causal expectation"), explained_by=LEAKS)
def future_attended(scene: Scene) -> Iterator[Found]:
    """Tokens attend to tokens that come after them, although attention was meant to be causal.

    In training the answer leaks into the question: the loss falls fast and generation is poor, because at
    generation time there is no future to look at.

    In code: `is_causal` left out, a causal mask that was built and not passed, or a model configured as an
    encoder.

    Fix: pass `is_causal=True` or a causal `attn_mask` in every layer.
    """
    hits = ((hit_of(a, v), (a.future_expected, _shown_by(a))) for a, v in verdicts(scene, Kind.FUTURE))
    for group in fold_by(hits, alike=_by_source):
        source, mask = group.extra
        fix = "pass is_causal=True, or a causal attn_mask, to every attention call"
        if mask:
            fix = f"hide what is behind each query in {mask!r} (torch.tril): the weights obey it"
        yield group.found(
            f"real queries put {group.percent} of their weight on keys behind them; "
            f"{source} says attention is causal{_and_shows(mask)}",
            fix,
            **group.layers("future_mass"),
        )


@rule(
    "MSK204",
    "mask-not-applied",
    "error",
    needs=("weights", ("mask", "expectation")),
    explained_by=(*LEAKS, "MSK110", "MSK114"),
)
def mask_not_applied(scene: Scene) -> Iterator[Found]:
    """The weights are not 0 where the mask forbids them: another mask was used, or none.

    What was to be hidden is read: the mask in the file is not the one the softmax saw. What the weights do
    obey is named when a common mask explains it.

    In code: a mask argument that the attention implementation ignores, a mask built for another layer, a 4-D
    mask of a type that the library drops without a word.

    Fix: follow the mask to the softmax; compare `scores + mask` with the scores that enter it.
    """
    hits = (((hit_of(a, v), (_forbids(a, v), v.extra))) for a, v in verdicts(scene, Kind.NOT_APPLIED))
    for group in fold_by(hits):
        forbidding, obeyed = group.extra
        explained, fix = (
            f"what they do obey is {obeyed}",
            "follow the mask to the softmax: another one, or none, entered it",
        )
        if obeyed == EXACTLY:
            explained = f"it should be {EXACTLY}"
            fix = "mask with -inf or booleans, which leave nothing of a weight"
        place = f"{told(group.where.keys, 'keys')} of {told_items(group.where.batch)}"
        yield group.found(
            f"real queries put {group.percent} of their weight on cells that {forbidding} forbids "
            f"({place}); {explained}",
            fix,
            **group.layers("violation"),
        )


@rule(
    "MSK210",
    "soft-masking",
    "error",
    needs=("weights", ("padding", "mask", "expectation")),
    explained_by=(*NOT_WEIGHTS, "MSK102", "MSK103", "MSK104", "MSK107"),
)
def soft_masking(scene: Scene) -> Iterator[Found]:
    """The mask only softens: forbidden keys keep a small, constant or evenly shifted part of their weight.

    The model reads padding or the future all the same, a little less: a mask has to take a key's weight away
    whole. Added 0s and 1s only favour the allowed keys by a factor of e, a product with the scores gives
    every forbidden key the score 0, and a small fill leaves what exp(fill) leaves.

    In code: `scores + mask` with a 0/1 mask, `scores * mask` before the softmax, `masked_fill(mask == 0,
    -10)`.

    Fix: `scores.masked_fill(mask == 0, float("-inf"))`, or a boolean mask.
    """
    for group in fold_by(_hits(scene, Kind.SOFT, Softened), alike=lambda softened: softened.measure):
        size = float(np.mean([softened.size for softened in group.extras]))
        yield group.found(
            f"real queries put {group.percent} of their weight on keys they should ignore ({group.told()}); "
            + SOFTENED[group.extra.measure].format(size, fill=np.log(size) if size > 0 else 0.0),
            WEAK if group.extra.measure in ("ratio", "fill") else SOFT,
            **{**group.layers("violation"), group.extra.measure: size},
        )


@rule("MSK211", "another-samples-mask", "error", needs=("weights", "padding"), explained_by=NOT_WEIGHTS)
def another_samples_mask(scene: Scene) -> Iterator[Found]:
    """Samples were masked with the padding of other samples of the batch.

    A text loses words where another one is short, and reads its own padding instead, as the mask and the
    scores are laid out in different orders. With one length in the batch nothing shows.

    In code: `mask.repeat(heads, 1, 1)` where scores are `[B*H, Q, K]` with the batch outermost
    (`repeat_interleave` is meant), a `view` that swaps batch and heads, a mask that was not reordered with
    its batch (beam search).

    Fix: `mask.repeat_interleave(heads, dim=0)`, or keep the mask as `[B, 1, 1, K]` and let it broadcast.
    """
    for group in fold_by(_hits(scene, Kind.OTHER_SAMPLE, str)):
        yield group.found(
            f"real queries put {group.percent} of their weight on their own padding ({group.told()}), and "
            f"none on the padding of another sample: masks are in another order, {group.extra}",
            "repeat_interleave the mask over the heads, or let a [B, 1, 1, K] mask broadcast",
            **group.layers("violation"),
            order=group.extra,
        )


@rule(
    "MSK217",
    "document-leak",
    "error",
    needs=(("weights", "mask"), "documents"),
    explained_by=(*LEAKS, "MSK114", "MSK405"),
)
def document_leak(scene: Scene) -> Iterator[Found]:
    """Attention crosses the border between packed documents.

    Where documents are meant to be apart, every text but the first begins with strangers in its context. Some
    pack texts into one row and let them read each other on purpose.

    In code: packing without position ids or cu_seqlens, an all-ones attention_mask beside restarting position
    ids, an attention implementation that knows no block-diagonal mask.

    Fix: pass the document borders (position ids without an attention_mask, `cu_seqlens`, a block-diagonal
    mask), and say `--expect "causal & documents"` to have it checked.
    """
    yield from _masks_over_documents(scene)
    meant = [_across(a, v.rows, v.share) for a, v in verdicts(scene, Kind.DOCUMENTS)]
    unsaid = [
        _across(attention, leaks(attention, "documents"), attention.measured.mass["documents"])
        for attention in scene.attentions
        if attention.same_document is not None and not _apart(attention)
    ]
    advice = "; declare documents in --expect if they are meant to be apart"
    for hits, severity, more in ((meant, None, ""), (unsaid, "note", advice)):
        for group in fold(hits):
            yield group.found(
                f"real queries put {group.percent} of their weight on other packed documents "
                f"({group.told()}){more}",
                "pass position ids without an attention_mask, cu_seqlens, or a block-diagonal mask to the "
                "attention",
                severity=severity,
                **group.layers("mass"),
            )


@rule("MSK219", "empty-cache-slots", "error", needs=("weights", "key"), explained_by=NOT_WEIGHTS)
def empty_cache_slots(scene: Scene) -> Iterator[Found]:
    """Queries attend to the empty slots of a key/value cache.

    Every empty slot takes a share, and each answer depends on how large the cache is: a cache of fixed size
    holds zeros behind the current length, and a zero key has the score 0, not minus infinity.

    In code: a static cache with `is_causal=True` or without a mask, a mask as long as the text instead of the
    cache.

    Fix: mask slots behind the current length: `arange(cache_length) <= position`.
    """
    for group in fold_by(_hits(scene, Kind.EMPTY_SLOTS, int)):
        yield group.found(
            f"queries put {group.percent} of their weight on keys that are all zeros, the same on each: the "
            f"cache is filled up to key {group.extra}, and what stands behind is empty",
            "mask the empty slots: arange(cache_length) <= position of the query",
            filled=group.extra,
            **group.layers("mass"),
        )


@rule(
    "MSK220",
    "cross-mask-swapped",
    "error",
    needs=("cross weights", "source and target padding"),
    explained_by=(*NOT_WEIGHTS, "MSK108"),
)
def cross_mask_swapped(scene: Scene) -> Iterator[Found]:
    """Cross-attention does not use the padding of the source.

    The decoder reads padding, and loses real words where the target is shorter: its keys are the source's
    tokens, so the source's padding belongs on them, not the target's or none.

    In code: `decoder(..., memory_key_padding_mask=tgt_key_padding_mask)`, or memory_key_padding_mask left
    out.

    Fix: pass the encoder's attention_mask as the mask of cross-attention (`encoder_attention_mask`,
    `memory_key_padding_mask`).
    """
    for group in fold_by(_hits(scene, Kind.OTHER_SIDE, bool)):
        obeyed = "; what the weights do obey is the target's padding" if group.extra else ""
        yield group.found(
            f"the decoder puts {group.percent} of its cross-attention on the source's padding "
            f"({group.told()}){obeyed}",
            "pass the source's padding mask to cross-attention (encoder_attention_mask, "
            "memory_key_padding_mask)",
            **group.layers("violation"),
        )


def hit_of(attention: Attention, verdict: Verdict) -> Hit:
    """A map with a verdict, and the keys that flagged rows should have ignored."""
    keys = None if verdict.ignored is None else ignored_keys(verdict.ignored, verdict.rows)
    return Hit(attention.name, verdict.rows, keys, verdict.share)


def _shown_by(attention: Attention) -> str | None:
    """The saved mask that weights obey, so that what they leak it shows; None without one."""
    given = attention.given
    if given is None or attention.keep is None or leaks(attention, "keep").any():
        return None
    return given.tensor.name


def _by_source(extra: tuple[str | None, str | None]) -> tuple[str | None, bool]:
    """Maps of one source are told together, whatever the mask of each layer is called."""
    source, mask = extra
    return source, mask is not None


def _and_shows(mask: str | None) -> str:
    return f", and the saved mask {mask!r} shows them" if mask else ""


def _forbids(attention: Attention, verdict: Verdict) -> str:
    """Who forbids what a verdict says is attended."""
    given = attention.given
    by_mask = given is not None and verdict.ignored is attention.keep
    return f"the mask {given.tensor.name!r}" if given is not None and by_mask else attention.meant_by


def _hits(scene: Scene, kind: Kind, extra: type[Extra]) -> Iterator[tuple[Hit, Extra]]:
    """The maps with a verdict of one kind, with what it says besides."""
    for attention, verdict in verdicts(scene, kind):
        if isinstance(verdict.extra, extra):
            yield hit_of(attention, verdict), verdict.extra


def _apart(tensor: Attention | Saved) -> bool:
    """Whether documents were declared to be apart."""
    return tensor.declared is not None and "documents" in kinds_in(tensor.declared.spec)


def _across(attention: Attention, rows: Array, share: Array) -> Hit:
    """Rows of a map that attend to other documents, and the keys of those that they could see."""
    hidden = attention.same_document
    if hidden is None:
        return Hit(attention.name, rows, None, share)
    if attention.future_expected:
        hidden = hidden | ~attention.causal
    return Hit(attention.name, rows, ignored_keys(hidden, rows), share)


def _masks_over_documents(scene: Scene) -> Iterator[Found]:
    """Saved masks, of no saved map, that let packed documents see each other."""
    for saved in scene.masks:
        keep = saved.given.keep
        if saved.attention is not None or saved.given.nan or not _packed(saved):
            continue
        across = keep - same_document(saved.layout)
        seen = np.broadcast_to(np.any(across.seen, axis=1), (keep.shape[0], keep.shape[3]))
        rows = np.broadcast_to(across.keys_per_query > 0, keep.shape[:3])
        for group in fold([Hit(saved.given.tensor.name, rows, seen)]):
            yield group.found(
                f"the mask lets queries see other packed documents ({group.told()})",
                "use a block-diagonal mask (causal & documents), or position ids without an attention_mask",
                severity=None if _apart(saved) else "note",
                cells=across.attended,
            )


def _packed(saved: Saved) -> bool:
    """Whether several documents share a row of the mask, and its queries stand among their keys."""
    documents, (batch, _, queries, keys) = saved.documents, saved.given.keep.shape
    if documents is None or saved.past + queries > keys:
        return False
    return len(documents) in (1, batch) and several(documents)
