"""Rules on whom layers see, as a probe measured it: MSK601 to MSK605 and MSK608 to MSK612."""

from __future__ import annotations

from collections.abc import Iterator

from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import probed
from maskcli.diagnostics.rules.measured import Group, groups, modules, whole
from maskcli.diagnostics.verdicts.called import called_by
from maskcli.diagnostics.verdicts.measured import Cause, Judged, Why
from maskcli.masks.words import counted, first

# Modules named in a message.
NAMED = 4


@probed("MSK605", "rows-reached", "error")
def rows_reached(judged: Judged) -> Iterator[Found]:
    """What stands in one row of the batch changes what the model says of another.

    Results then depend on who else is in the batch: training sees other texts' labels, and a server answers
    each user with a little of the others. Statistics or a capacity that the whole batch shares do this.

    In code: `nn.BatchNorm1d` over [B, S, D]; a softmax or a mean over axis 0; experts that choose tokens, or
    drop those beyond a capacity, over the flattened batch; a view that mixes rows and positions.

    Fix: normalise and route each text by itself (LayerNorm, a capacity per row), or freeze the statistics.
    """
    mixing = [seen for seen in judged.behaviour.seen if seen.rows]
    if mixing:
        names = modules(mixing)
        row, other = mixing[0].rows[0]
        yield Found(
            names,
            f"rows of the batch change each other in {first(names, NAMED, ' and {} more')} "
            f"({mixing[0].kind}): what stands in row {row} changes the outputs of row {other}",
            "compute each row by itself: no statistics, softmax, capacity or view over the batch axis",
            evidence={"pairs": len(mixing[0].rows), "setting": mixing[0].setting, "kind": mixing[0].kind},
        )
        return
    yield from whole(
        judged,
        ("X1", "T1", "S-neighbours"),
        "other texts of the batch change the outputs of a text",
        "look for statistics, a capacity or a view over the batch axis",
    )


@probed("MSK609", "weak-fill-reached", "error", explained_by=("MSK605",))
def weak_fill_reached(judged: Judged) -> Iterator[Found]:
    """Masked keys are only held down, and a large enough score overcomes the mask.

    A fill such as -20 lets part of what is masked through at ordinary scores. A fill of -1e4 holds until
    scores grow as large, which training can bring about: that is a note.

    In code: `scores.masked_fill(mask == 0, -20)`; `scores + (1 - mask) * -1e4`; a mask that is multiplied in.

    Fix: fill with `torch.finfo(scores.dtype).min`, or pass a boolean mask to scaled_dot_product_attention.
    """
    fix = "fill with torch.finfo(scores.dtype).min, or with -inf where no row is empty"
    for group in groups(judged, Why.WEAK):
        yield group.found(f"masked keys leak, the more the larger the scores: {group.told}", fix)
    for group in groups(judged, Why.SOFT):
        text = f"masked keys leak, but only when their content is a million times as large: {group.told}"
        yield group.found(text, fix, severity="note")


@probed("MSK610", "source-padding-reached", "error", explained_by=("MSK605",))
def source_padding_reached(judged: Judged) -> Iterator[Found]:
    """Cross-attention sees the padding of its source.

    What the decoder says then depends on how long the longest source of the batch is.

    In code: a decoder layer that is given `tgt_key_padding_mask` but no `memory_key_padding_mask`; an
    encoder's attention mask that `generate` or a wrapper drops.

    Fix: pass the source's padding mask to cross-attention (`encoder_attention_mask`,
    `memory_key_padding_mask`).
    """
    for group in groups(judged, Why.PADDING, cross=True):
        fix = "pass the source's padding mask to cross-attention"
        yield group.found(f"{_padding_of(group, 'the padding of the source')}: {group.told}", fix)


@probed("MSK608", "empty-slot-reached", "error", explained_by=("MSK605",))
def empty_slot_reached(judged: Judged) -> Iterator[Found]:
    """Queries see slots of a static cache that hold no token yet.

    Answers then depend on how large the cache is, and on what stood in it before: empty slots hold zeros or
    what an earlier text left there, and softmax gives them a share like any key.

    In code: a mask over `cache_position` that is not applied by a local layer; attention over the whole
    cache tensor with `is_causal=False` and no mask.

    Fix: mask every slot from `cache_position + 1` on, in all layers.
    """
    for group in groups(judged, Why.SLOT):
        fix = "mask every slot behind the last token (cache_position), or cut keys and values there"
        yield group.found(f"queries see slots of the cache that hold no token: {group.told}", fix)


@probed("MSK602", "padding-reached", "error", explained_by=("MSK605", "MSK609", "MSK610"))
def padding_reached(judged: Judged) -> Iterator[Found]:
    """Real tokens see padding: what the padding holds, or how much there is of it, changes the results.

    Texts then give other results in another batch. Moving the content of a padding position changed the
    output of a real token in the named module.

    In code: an attention mask that a layer never uses, inverts, or takes from another sample
    (`repeat` for `repeat_interleave`); a mean, norm or convolution over the sequence without the mask.

    Fix: hide the padding's keys (`& attention_mask[:, None, None, :].bool()`), and leave it out of means.
    """
    for group in groups(judged, Why.PADDING, cross=False):
        fix = "hide the keys of padding in this module: & attention_mask[:, None, None, :].bool()"
        yield group.found(f"{_padding_of(group, 'padding')}: {group.told}", fix)
    yield from whole(
        judged,
        ("X2", "S-longer"),
        "padding changes the outputs of real tokens",
        "look for what uses padding outside of attention: means, norms, convolutions, positions",
        unless=(Why.PADDING, Why.FUTURE),
    )


@probed("MSK601", "future-reached", "error", explained_by=("MSK602", "MSK605", "MSK609"))
def future_reached(judged: Judged) -> Iterator[Found]:
    """Queries of a decoder see keys behind themselves.

    The loss falls too fast, and nothing of it is there when the model generates. Moving the content of a
    later token changed the output of an earlier one in the named module.

    In code: `is_causal` lost on one path or backend; `triu(diagonal=2)`; a mask of ones; a mean or a summary
    over blocks that holds the rest of the block; a view that mixes positions.

    Fix: hide key k from query q where k > q, in the named module, on every path.
    """
    fix = "hide every key behind the query in this module (is_causal=True, or torch.tril)"
    for group in groups(judged, Why.FUTURE):
        yield group.found(f"{_ahead(group)}: {group.told}", fix)
    yield from whole(
        judged,
        ("X4", "S-future", "S-prefix"),
        "later tokens change the outputs of earlier ones",
        "look for what mixes positions outside of the modules that were measured",
        unless=(Why.PADDING, Why.FUTURE),
    )


@probed(
    "MSK604",
    "document-reached",
    "error",
    explained_by=("MSK601", "MSK602", "MSK605", "MSK609"),
    option="--documents",
)
def document_reached(judged: Judged) -> Iterator[Found]:
    """Tokens of one packed document see those of another.

    Each document is then read as if the others were its context.

    In code: packed texts with an `attention_mask` of ones and positions that restart, which the model
    ignores; `cu_seqlens` that do not reach the kernel; a state of a recurrence that is carried over.

    Fix: give the model what it needs to keep documents apart (position_ids that restart and no mask,
    `cu_seqlens`, a block-diagonal mask), or do not pack for it.
    """
    for group in groups(judged, Why.DOCUMENT):
        fix = "keep documents apart in this module: a block-diagonal mask, cu_seqlens, or seq_idx"
        yield group.found(f"tokens see other packed documents: {group.told}", fix)
    yield from whole(
        judged,
        ("X5", "T4"),
        "a packed document is read otherwise beside others than alone",
        "restart positions, and what is carried along the row, at each document",
        unless=(Why.DOCUMENT,),
    )


@probed("MSK603", "window-measured", "error", explained_by=("MSK601",))
def window_measured(judged: Judged) -> Iterator[Found]:
    """The window or chunk that a layer really has is not the one that was declared.

    Results differ from those of every other implementation, and a cache of W slots loses a key. One key too
    many is the usual mistake between "W keys with my own" and "W keys before me".

    In code: `q - k <= window` for `q - k < window`; flash-attn's `window_size=(W, 0)` for `(W - 1, 0)`; a
    backend that drops the window; layer types that are counted from 1.

    Fix: keep W keys, the query's own among them: `0 <= q - k < W`.
    """
    for group in (*groups(judged, Why.BEYOND), *groups(judged, Why.SIZE)):
        most, meant = group.most_keys
        sees = f"queries see {counted(most, 'key')}" if most != meant else "queries see other keys"
        fix = "give this module the window or chunk that was meant, the query's own key included"
        yield group.found(f"{sees}: {group.told}", fix, keys=most, expected_keys=meant)
    yield from whole(
        judged,
        ("S-window",),
        "a token reaches farther than its layers should let it",
        "compare the windows that the server really uses with the config: some backends drop them",
        unless=(Why.BEYOND, Why.SIZE),
    )


@probed("MSK611", "key-not-reached", "error", explained_by=("MSK602", "MSK603", "MSK605"))
def key_not_reached(judged: Judged) -> Iterator[Found]:
    """Queries do not see keys that they should see, however far these are moved.

    Context is lost without anything failing.

    In code: `is_causal=True` with a cache, which aligns the triangle at the top left, so that a new token
    sees the first key alone; a cache that is not joined; a mask that hides too much.

    Fix: compare with `maskcli show`; with a cache pass a mask, or `causal_lower_right(q, k)` to sdpa.
    """
    for group in groups(judged, Why.UNSEEN):
        top_left = group.cause is Cause.TOP_LEFT
        text = "queries do not see keys that they should see"
        fix = "look for what hides these keys: a mask for another layer, a cache that is not joined"
        if top_left:
            text = "row q sees keys 0..q though the cache holds others before it: causal from the top left"
            fix = "align the causal mask at the bottom right: k <= q + past (is_causal of sdpa does not)"
        yield group.found(f"{text}: {group.told}", fix)
    yield from whole(
        judged,
        ("X3",),
        "a real token changes nothing for tokens that should see it",
        "look for what hides or drops it",
        unless=(Why.UNSEEN, Why.SIZE),
    )


@probed("MSK612", "mixes-elsewhere", "note")
def mixes_elsewhere(judged: Judged) -> Iterator[Found]:
    """Positions change each other in a module that is no attention, in a model that declares attention only.

    No attention mask reaches it. It may be meant; it breaks nothing that was expected.

    In code: a norm or a mean over the sequence, a convolution, a token shift, a pooling of summaries.

    Fix: none when it is meant; else normalise and pool each position by itself.
    """
    behaviour = judged.behaviour
    accused = {each.seen.module for each in judged.apart if each.why is not Why.SOFT}
    others = [
        seen for seen in behaviour.seen if not seen.attention and not seen.rows and seen.module not in accused
    ]
    if behaviour.only_attention and others:
        names = modules(others)
        kinds = sorted({seen.kind for seen in others})
        yield Found(
            names,
            f"positions change each other in {first(kinds, NAMED)}, which is no attention "
            f"(measured {called_by(others[0])})",
            "nothing, when it is meant; no attention mask reaches it",
            evidence={"kinds": ", ".join(kinds)},
        )


def _ahead(group: Group) -> str:
    """How far queries see ahead."""
    if group.cause is Cause.SHIFTED:
        return "queries see the key right behind themselves, and none further on: off by one"
    if group.cause is Cause.NOT_CAUSAL:
        return "queries see every key, as if nothing were causal"
    return "queries see keys behind themselves"


def _padding_of(group: Group, what: str) -> str:
    """What is wrong about padding."""
    if group.cause is Cause.INVERTED:
        return f"real tokens see {what} and no real key: the mask is inverted"
    if group.cause is Cause.OTHER_SAMPLE:
        return "samples obey the padding of another sample"
    return f"real tokens see {what}"
