"""Rules on token ids and the padding mask: MSK401, MSK402, MSK403 and MSK407."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided, Where, items_of
from maskcli.diagnostics.needs import PADDED
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.common import told, told_items
from maskcli.diagnostics.supervision import ignored_labels
from maskcli.masks.mask import runs_of
from maskcli.padding import edge_padding
from maskcli.scene.scene import Scene
from maskcli.scene.tokens import Tokens, real_tokens


@rule(
    "MSK401",
    "padding-not-masked",
    "error",
    needs=("input_ids", "padding_mask", "pad_id"),
    explained_by=("MSK407",),
)
def padding_not_masked(scene: Scene) -> Iterator[Found]:
    """The attention mask is 1 over padding tokens.

    The model then reads padding like text. Under right padding with a causal mask and ignored labels no real token ever sees
    it (a note); in an encoder, or under left padding, it changes every result.

    In code: `attention_mask=torch.ones_like(input_ids)`, or calling the model without an attention_mask.

    Fix: take the attention_mask that the tokenizer returns.
    """
    for tokens in scene.tokens:
        real = None if tokens.ids is None else real_tokens(tokens.ids, scene.declared)
        if tokens.real is None or real is None:
            continue
        pads, name = ~real, tokens.name("padding_mask")
        open_pads = pads & tokens.real
        if not (open_pads & ~_perhaps_real(tokens.ids, scene)).any() or _inverse(tokens.real, pads):
            continue
        items = np.any(open_pads, axis=1)
        right = not open_pads[:, 0].any()
        causal = any(a.future_expected for a in scene.attentions)
        unread = tokens.labels is not None and bool(
            ignored_labels(tokens.labels, scene.declared)[open_pads].all()
        )
        where = Where(items_of(items), None, None, runs_of(np.any(open_pads[items], axis=0)))
        yield Found(
            (name, tokens.name("input_ids")),
            f"{name!r} is 1 over padding (id {scene.declared.pad_id}): {told(where.keys, 'key', 'keys')} of {told_items(where.batch)}",
            "pass the attention_mask that the tokenizer returns, or build it as ids != pad_id",
            where,
            {"padding_tokens": int(open_pads.sum()), "pad_id": int(scene.declared.pad_id or 0)},
            "note" if right and causal and unread else None,
        )


@rule("MSK402", "real-token-masked", "warning", needs=("input_ids", "padding_mask"), explained_by=("MSK407",))
def real_token_masked(scene: Scene) -> Iterator[Found]:
    """The attention mask hides tokens that are not padding, or has holes inside a sequence.

    Hidden words are missing from everything the model computes. It mostly comes from masking by id when the pad token is also
    the end token: every real end of text inside the sequence vanishes with the padding.

    In code: `attention_mask = (input_ids != tokenizer.pad_token_id)` with `pad_token = eos_token`.

    Fix: take the attention_mask from the tokenizer, or mask only the leading or trailing run of padding.
    """
    pad_id = scene.declared.pad_id
    for tokens in scene.tokens:
        if tokens.real is None or tokens.ids is None:
            continue
        name = tokens.name("padding_mask")
        hidden = ~tokens.real & _inside(tokens.real)
        if pad_id is not None:
            pads = ~edge_padding(tokens.ids, pad_id, scene.declared.bos_ids, scene.declared.eos_ids)
            if _inverse(tokens.real, pads):
                continue
            # Of an edge run of pad == eos, either the first or none is real: both ways are in use.
            edge = ~edge_padding(tokens.ids, pad_id)
            hidden = hidden | (~tokens.real & ~edge)
        if not hidden.any():
            continue
        items = np.any(hidden, axis=1)
        ids = np.unique(tokens.ids[hidden])
        where = Where(items_of(items), None, None, runs_of(np.any(hidden[items], axis=0)))
        same = len(ids) == 1
        yield Found(
            (name, tokens.name("input_ids")),
            f"{name!r} hides {int(hidden.sum())} token(s) that are not padding: {told(where.keys, 'key', 'keys')} of "
            f"{told_items(where.batch)}"
            + (f", all with id {ids[0]}" + (", the pad id" if ids[0] == pad_id else "") if same else ""),
            "take the attention_mask from the tokenizer instead of comparing ids with the pad id",
            where,
            {"hidden_tokens": int(hidden.sum())},
        )


@rule(
    "MSK403",
    "right-padding-for-generation",
    "error",
    needs=(*PADDED, "purpose"),
    explained_by=("MSK102", "MSK407"),
)
def right_padding_for_generation(scene: Scene) -> Iterator[Found]:
    """A batch that is to be continued is padded on the right.

    Generation appends its tokens behind the last column. With padding there, the model continues the padding and not the
    text: short prompts get worse answers than long ones, and the same prompt another answer alone than in a batch.

    In code: `tokenizer(prompts, padding=True)` with the default `padding_side="right"`, before `model.generate`.

    Fix: `tokenizer.padding_side = "left"`.
    """
    if scene.declared.purpose != "generate":
        return
    for tokens in scene.tokens:
        real = (
            tokens.real
            if tokens.real is not None or tokens.ids is None
            else real_tokens(tokens.ids, scene.declared)
        )
        if tokens.kind == "encoder" or real is None or (tokens.ids is None and _is_cache(scene, real)):
            continue
        # A row of nothing but padding fills up a batch; it is not padded on one side.
        items = ~real[:, -1] & real.any(axis=1)
        if not items.any():
            continue
        pads = ~np.logical_or.accumulate(real[:, ::-1], axis=1)[:, ::-1] & items[:, None]
        where = Where(items_of(items), None, None, runs_of(np.any(pads, axis=0)))
        name = tokens.name("padding_mask" if tokens.real is not None else "input_ids")
        yield Found(
            (name,),
            f"{name!r} ends in padding, {int(pads[items].sum(axis=1).max())} tokens at most, in {told_items(where.batch)}: the next "
            "token would be generated behind the padding",
            'pad on the left: tokenizer.padding_side = "left" before the prompts are encoded',
            where,
            {"padding_tokens": int(pads.sum()), "samples": int(items.sum())},
        )


@rule("MSK407", "swapped-token-types", "error", needs=("padding_mask", ("token_type_ids", "input_ids")))
def swapped_token_types(scene: Scene) -> Iterator[Found | Undecided]:
    """The attention mask and the token types are swapped: the mask is 0 on the whole first sentence.

    Both are 0 and 1 in the same shape, so nothing complains. The model then reads the second sentence alone, and of a single
    sentence nothing.

    In code: `model(input_ids, token_type_ids, attention_mask)` where the attention mask comes first.

    Fix: pass both by name: `model(input_ids, attention_mask=…, token_type_ids=…)`, or `model(**encoded)`.
    """
    for tokens in scene.tokens:
        real, types = tokens.real, tokens.token_types
        if (
            real is None
            or (tokens.ids is None and types is None)
            or not _in_front(real).any()
            or not _solid(real)
        ):
            continue
        if tokens.ids is None and types is not None and (types == 1).all():
            yield Undecided("input_ids: token types that are all 1 do not tell padding from a first sentence")
            continue
        hidden = _first_sentence(tokens, scene) if types is None else _kept_by_types(tokens)
        if hidden is None:
            continue
        where = Where(items_of(np.any(hidden, axis=1)), None, None, runs_of(np.any(hidden, axis=0)))
        name, other = (
            tokens.name("padding_mask"),
            tokens.name("input_ids" if types is None else "token_type_ids"),
        )
        yield Found(
            (name, other),
            f"{name!r} is 0 on {int(hidden.sum())} tokens of the first sentence ({told(where.keys, 'key', 'keys')} of "
            f"{told_items(where.batch)}) and 1 on the second, as token types are"
            + ("" if types is None else f"; {other!r} is 1 on both, as a mask is"),
            "swap them back: pass attention_mask and token_type_ids by name",
            where,
            {"hidden_tokens": int(hidden.sum())},
        )


def _kept_by_types(tokens: Tokens) -> Array | None:
    """What token types that look like a mask keep in front of what the mask keeps, bool [B, L]; None when they are types.

    They do when they are 1 on an edge run of every row that begins before the mask's and ends with it.
    """
    types, real = tokens.token_types, tokens.real
    assert types is not None
    assert real is not None
    ones = types == 1
    edges = (np.diff(ones, axis=1).sum(axis=1) <= 1).all() and (ones | (types == 0)).all()
    hidden = ones & _in_front(real)
    rows = np.any(real, axis=1)
    ends = (_last(ones) == _last(real))[rows].all()
    if not (edges and ends and not (real & ~ones).any() and np.any(hidden, axis=1)[rows].all()):
        return None
    # One id over and over is padding, of which the types say nothing.
    texts = tokens.ids is None or any(
        len(np.unique(row[flags])) > 1 for row, flags in zip(tokens.ids, hidden, strict=True)
    )
    return hidden if texts else None


def _first_sentence(tokens: Tokens, scene: Scene) -> Array | None:
    """What the mask hides in front, bool [B, L], when that is a sentence: it begins alike in every row ([CLS]), ends as what
    the mask keeps does ([SEP]), and is no padding. None when it is something else.
    """
    ids, real = tokens.ids, tokens.real
    assert ids is not None
    assert real is not None
    pad_id = scene.declared.pad_id
    hidden = np.zeros(real.shape, bool)
    begins = set()
    for row in np.flatnonzero(np.any(real, axis=1)):
        stop = int(real[row].argmax())
        # A leading run of one id is padding.
        text = ids[row, :stop] != (ids[row, 0] if pad_id is None else pad_id)
        repeated = stop > 1 and ids[row, 0] in (ids[row, 1], pad_id)
        start = int(text.argmax()) if repeated else 0
        front = ids[row, start:stop]
        if len(np.unique(front)) < 3 or front[-1] != ids[row, _last(real)[row]] or pad_id in front:
            return None
        begins.add(int(front[0]))
        hidden[row, start:stop] = True
    return hidden if len(begins) == 1 else None


def _in_front(real: Array) -> Array:
    """Tokens before the first that the mask keeps, in rows where it keeps some."""
    front: Array = ~np.logical_or.accumulate(real, axis=1) & np.any(real, axis=1)[:, None]
    return front


def _last(flags: Array) -> Array:
    """The last True of each row."""
    last: Array = flags.shape[1] - 1 - flags[:, ::-1].argmax(axis=1)
    return last


def _solid(real: Array) -> bool:
    """Whether each row keeps one run of tokens at most."""
    return bool((np.diff(real.astype(np.int8), axis=1, prepend=0) > 0).sum(axis=1).max(initial=0) <= 1)


def _is_cache(scene: Scene, real: Array) -> bool:
    """Whether a padding mask speaks of the slots of a cache, of which the last ones are empty in every row."""
    shapes = [a.shape[2:] for a in scene.attentions] + [saved.given.shape[2:] for saved in scene.masks]
    return not real[:, -1].any() and any(queries < keys == real.shape[1] for queries, keys in shapes)


def _perhaps_real(ids: Array | None, scene: Scene) -> Array:
    """Tokens that are no padding if the pad id begins and ends texts too, as it may where those ids are not known."""
    assert ids is not None
    assert scene.declared.pad_id is not None
    pad = scene.declared.pad_id
    return edge_padding(ids, pad, scene.declared.bos_ids or (pad,), scene.declared.eos_ids or (pad,))


def _inside(real: Array) -> Array:
    """Positions between the first and the last kept token of each row."""
    after = np.maximum.accumulate(real, axis=1)
    before = np.maximum.accumulate(real[:, ::-1], axis=1)[:, ::-1]
    inside: Array = after & before
    return inside


def _inverse(real: Array, pads: Array) -> bool:
    return bool(pads.any() and (real == pads)[np.any(pads, axis=1)].all())
