"""Rules on token ids and the padding mask: MSK401, MSK402 and MSK403."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.needs import PADDED
from maskcli.diagnostics.rule import for_each, rule, sides
from maskcli.diagnostics.rules.hits import at_keys, found_keys, key_places
from maskcli.diagnostics.supervision import ignored_labels, is_padding_id, readings
from maskcli.diagnostics.words import told_items
from maskcli.meant.facts import Declared
from maskcli.padding import edge_padding, edge_runs, is_solid, lone_edges, text_span
from maskcli.scene.scene import Scene
from maskcli.scene.tokens import Tokens, real_tokens

# Different ids in a hidden run that padding and special tokens around it do not come to.
WORDS = 4


@rule(
    "MSK401",
    "padding-not-masked",
    "error",
    needs=("input_ids", "padding_mask", "pad_id"),
    explained_by=("MSK102", "MSK407"),
)
@for_each(sides)
def padding_not_masked(tokens: Tokens, scene: Scene) -> Found | None:
    """The attention mask is 1 over padding tokens.

    The model then reads padding like text. Under right padding with a causal mask and ignored labels no real
    token ever sees it (a note); in an encoder, or under left padding, it changes every result.

    In code: `attention_mask=torch.ones_like(input_ids)`, or calling the model without an attention_mask.

    Fix: take the attention_mask that the tokenizer returns.
    """
    if _hides_its_padding(tokens, scene.declared):
        return None
    declared, real = scene.declared, _real_by_ids(tokens, scene.declared)
    if tokens.real is None or real is None:
        return None
    kept = ~real & tokens.real
    if not kept.any():
        return None
    if declared.pad_id in declared.eos_ids:
        kept &= ~lone_edges(~real)
    if not (kept & ~_perhaps_real(tokens, declared)).any() or _inverse(tokens.real, ~real):
        return None

    name = tokens.name("padding_mask")
    alone = declared.pad_id not in (*declared.eos_ids, *declared.bos_ids)
    by_id = ", or build it as ids != pad_id" if alone else ""
    return found_keys(
        (name, tokens.name("input_ids")),
        kept,
        f"{name!r} is 1 over padding (id {{pad_id}}): {{}}",
        f"pass the attention_mask that the tokenizer returns{by_id}",
        "note" if _is_unread(tokens, kept, scene) else None,
        padding_tokens=int(kept.sum()),
        pad_id=int(declared.pad_id or 0),
    )


def _hides_its_padding(tokens: Tokens, declared: Declared) -> bool:
    """Whether a mask hides just what the ids show to be padding, as most do."""
    by_ids = None if tokens.kind == "decoder" else tokens.real_by_ids(declared)
    return by_ids is not None and tokens.real is not None and np.array_equal(tokens.real, by_ids)


def _real_by_ids(tokens: Tokens, declared: Declared) -> Array | None:
    """Which tokens the ids show to be real, behind padding of another id that the mask hides as well."""
    if tokens.ids is None or tokens.real is None or declared.pad_id is None:
        return None
    ids = _with_one_padding(tokens, declared.pad_id)
    if ids is tokens.ids:
        return tokens.real_by_ids(declared)
    return real_tokens(ids, declared, decoder=tokens.kind == "decoder")


def _with_one_padding(tokens: Tokens, pad_id: int) -> Array:
    """The ids [B, L] with the pad id wherever the mask hides padding of another id."""
    assert tokens.ids is not None
    runs = _runs_at_edges(tokens, pad_id)
    return np.where(runs, pad_id, tokens.ids) if runs.any() else tokens.ids


def _runs_at_edges(tokens: Tokens, pad_id: int) -> Array:
    """Hidden edge runs [B, L] of two or more tokens of one id other than the pad id: padding too."""
    assert tokens.ids is not None
    assert tokens.real is not None
    runs = np.zeros(tokens.real.shape, bool)
    if not (~tokens.real & (tokens.ids != pad_id)).any():
        return runs
    for edge in edge_runs(~tokens.real):
        others = edge & (tokens.ids != pad_id)
        if not others.any():
            continue
        low = np.where(others, tokens.ids, np.iinfo(np.int64).max).min(axis=1)
        high = np.where(others, tokens.ids, np.iinfo(np.int64).min).max(axis=1)
        runs |= others & ((others.sum(axis=1) > 1) & (low == high))[:, None]
    return runs


def _words_at_edges(ids: Array, real: Array) -> Array:
    """Hidden edge runs [B, L] of so many ids that they are words: padding is of one id beside special tokens.

    A mask that keeps nothing but one id in such a row is turned around.
    """
    words = np.zeros(real.shape, bool)
    steps = (ids[:, 1:] != ids[:, :-1]) & ~real[:, 1:] & ~real[:, :-1]
    if not steps.any():
        return words
    for edge in edge_runs(~real):
        # Padding hardly changes from token to token: few rows are worth sorting.
        rows = np.flatnonzero((steps & edge[:, 1:] & edge[:, :-1]).sum(axis=1) >= WORDS - 1)
        several = (_distinct(ids[rows], edge[rows]) >= WORDS) & (_distinct(ids[rows], real[rows]) > 1)
        words[rows] |= edge[rows] & several[:, None]
    return words


def _distinct(ids: Array, flags: Array) -> Array:
    """How many different ids each row has where it is flagged, int [B]."""
    held = np.where(flags, ids, np.iinfo(np.int64).min)
    ordered = np.sort(held, axis=1)
    changes = (np.diff(ordered, axis=1) != 0).sum(axis=1)
    some = np.any(flags, axis=1)
    return np.where(some, changes + np.all(flags, axis=1), 0)


def _is_unread(tokens: Tokens, kept: Array, scene: Scene) -> bool:
    """Whether kept padding is of no consequence: on the right, under a causal mask, with ignored labels."""
    right = not kept[:, 0].any()
    if tokens.labels is None or not right or not _is_causal(tokens, scene):
        return False
    return bool(ignored_labels(tokens.labels, scene.declared)[kept].all())


def _is_causal(tokens: Tokens, scene: Scene) -> bool:
    """Whether a mask is causal, or labels ask for the text itself: a model that saw it could copy it."""
    if any(attention.future_expected for attention in scene.attentions):
        return True
    return any(reading.tokens is tokens and reading.same_text for reading in readings(scene))


@rule(
    "MSK402",
    "real-token-masked",
    "warning",
    needs=("input_ids", "padding_mask"),
    explained_by=("MSK407", "MSK401"),
)
def real_token_masked(scene: Scene) -> Iterator[Found]:
    """The attention mask hides tokens that are not padding, or has holes inside a sequence.

    Hidden words are missing from everything the model computes. It mostly comes from masking by id when the
    pad token is also the end token: every real end of text inside the sequence vanishes with the padding.

    In code: `attention_mask = (input_ids != tokenizer.pad_token_id)` with `pad_token = eos_token`.

    Fix: take the attention_mask from the tokenizer, or mask only the leading or trailing run of padding.
    """
    for tokens in scene.tokens:
        if tokens.ids is None or tokens.real is None:
            continue
        if tokens.real.all() or _hides_its_padding(tokens, scene.declared):
            continue
        hidden = _hidden_words(tokens, scene)
        if hidden is not None and hidden.any():
            yield _words_hidden(tokens, tokens.ids, hidden, scene.declared)
        elif scene.declared.pad_id is not None:
            other = _runs_at_edges(tokens, scene.declared.pad_id)
            if other.any():
                yield _padded_otherwise(tokens, tokens.ids, other, scene.declared.pad_id)


def _words_hidden(tokens: Tokens, ids: Array, hidden: Array, declared: Declared) -> Found:
    name, values = tokens.name("padding_mask"), np.unique(ids[hidden])
    alike = ", all with id {ids}" if len(values) == 1 else ""
    if alike and values[0] == declared.pad_id:
        alike += ", the pad id"
    return found_keys(
        (name, tokens.name("input_ids")),
        hidden,
        f"{name!r} hides {{hidden_tokens}} token(s) that are not padding: {{}}{alike}",
        "take the attention_mask from the tokenizer instead of comparing ids with the pad id",
        of_set=f"{name!r} hides what is not padding (id {{ids}}): {{}}",
        hidden_tokens=int(hidden.sum()),
        ids=values,
    )


def _padded_otherwise(tokens: Tokens, ids: Array, runs: Array, pad_id: int) -> Found:
    """A note on padding of another id than the declared one, which the mask hides as it should."""
    name, other = tokens.name("padding_mask"), int(ids[runs][0])
    return found_keys(
        (name, tokens.name("input_ids")),
        runs,
        f"{name!r} hides padding of id {{pad_id}}, and the declared pad id is {pad_id}: {{}}",
        "declare the id that the batch is padded with: --pad-id {pad_id}",
        "note",
        padding_tokens=int(runs.sum()),
        pad_id=other,
    )


def _hidden_words(tokens: Tokens, scene: Scene) -> Array | None:
    """Tokens that the mask hides though they are no padding, bool [B, L]; None when it is turned around."""
    declared = scene.declared
    if tokens.real is None or tokens.ids is None:
        return None
    given, real = tokens.ids, tokens.real
    before = _before_masking(tokens, given, real, scene)
    if before is not given:
        tokens = replace(tokens, ids=before)
    hidden = ~real & _words_at_edges(before, real)
    if not is_solid(real):
        hidden |= ~real & _inside(real)
    if declared.pad_id is not None:
        if any(_inverse(real, ~by_ids) for by_ids in _told_real(tokens, declared)):
            return None
        # Of an edge run of pad == eos, either the first or none is real: both ways are in use.
        ids = _with_one_padding(tokens, declared.pad_id)
        hidden |= ~real & edge_padding(ids, declared.pad_id)
    return hidden & _matters(tokens, declared)


def _told_real(tokens: Tokens, declared: Declared) -> Iterator[Array]:
    """Tokens that the ids show to be real, bool [B, L]; a decoder's first may be its padding, real or not."""
    by_ids = tokens.real_by_ids(declared)
    if tokens.ids is None or declared.pad_id is None or by_ids is None:
        return
    yield by_ids
    if tokens.kind == "decoder":
        yield edge_padding(tokens.ids, declared.pad_id, declared.bos_ids, declared.eos_ids)


def _before_masking(tokens: Tokens, ids: Array, real: Array, scene: Scene) -> Array:
    """The ids [B, L] with padding where a masked language model's collator replaced it, by its labels."""
    for reading in readings(scene):
        if reading.tokens is tokens and (reading.supervised & ~real).any():
            pads = is_padding_id(reading.labels, ids, ~real, scene.declared)
            ids = np.where(pads & reading.supervised, reading.labels, ids)
    return ids


def _matters(tokens: Tokens, declared: Declared) -> Array:
    """Tokens whose loss a label can show, bool [B, L] or one for all: of a decoder's text, not what comes
    behind its last label, or its end token where no labels are saved.
    """
    matters = np.ones(1, bool)
    if tokens.kind != "decoder":
        return matters
    if tokens.labels is not None:
        asked = ~ignored_labels(tokens.labels, declared)
        matters = np.logical_or.accumulate(asked[:, ::-1], axis=1)[:, ::-1]
    elif tokens.ids is not None and declared.pad_id is not None:
        _, stop = text_span(tokens.ids == declared.pad_id)
        last = np.arange(tokens.ids.shape[1]) == stop[:, None] - 1
        hidden = tokens.ids[last if tokens.real is None else last & ~tokens.real]
        matters = ~last | (len(np.unique(hidden)) > 1)
    return matters


@rule(
    "MSK403",
    "right-padding-for-generation",
    "error",
    needs=(*PADDED, "purpose"),
    explained_by=("MSK102", "MSK407"),
)
@for_each(sides)
def right_padding_for_generation(tokens: Tokens, scene: Scene) -> Found | None:
    """A batch that is to be continued is padded on the right.

    The model continues the padding and not the text: short prompts get worse answers than long ones, and the
    same prompt another answer alone than in a batch. Generation appends its tokens behind the last column.

    In code: `tokenizer(prompts, padding=True)` with the default `padding_side="right"`, before
    `model.generate`.

    Fix: `tokenizer.padding_side = "left"`.
    """
    real = tokens.known_real(scene.declared)
    if scene.declared.purpose != "generate" or tokens.kind == "encoder" or real is None:
        return None
    if tokens.ids is None and _is_cache(scene, real):
        return None
    # A row of nothing but padding fills up a batch; it is not padded on one side.
    items = ~real[:, -1] & real.any(axis=1)
    if not items.any():
        return None

    pads = ~_up_to_last(real) & items[:, None]
    name, where = tokens.padding_name, at_keys(pads)
    return Found(
        (name,),
        f"{name!r} ends in padding, {int(pads.sum(axis=1).max())} tokens at most, in "
        f"{told_items(where.batch)}: the next token would be generated behind the padding",
        'pad on the left: tokenizer.padding_side = "left" before the prompts are encoded',
        where,
        {"padding_tokens": int(pads.sum()), "samples": int(items.sum())},
        places=key_places(pads),
        of_set=f"{name!r} ends in padding in {{items}}: the next token would be generated behind the padding",
    )


def _is_cache(scene: Scene, real: Array) -> bool:
    """Whether a padding mask is of the slots of a cache, of which the last are empty in every row."""
    shapes = [a.shape[2:] for a in scene.attentions] + [saved.given.shape[2:] for saved in scene.masks]
    return not real[:, -1].any() and any(queries < keys == real.shape[1] for queries, keys in shapes)


def _perhaps_real(tokens: Tokens, declared: Declared) -> Array:
    """Tokens that are real if the pad id begins and ends texts too, as it may where those are not known."""
    assert declared.pad_id is not None
    pad, ids = (declared.pad_id,), _with_one_padding(tokens, declared.pad_id)
    return edge_padding(ids, declared.pad_id, declared.bos_ids or pad, declared.eos_ids or pad)


def _up_to_last(real: Array) -> Array:
    """Positions up to the last kept token of each row, bool [B, L]."""
    before: Array = np.logical_or.accumulate(real[:, ::-1], axis=1)[:, ::-1]
    return before


def _inside(real: Array) -> Array:
    """Positions between the first and the last kept token of each row."""
    inside: Array = np.logical_or.accumulate(real, axis=1) & _up_to_last(real)
    return inside


def _inverse(real: Array, pads: Array) -> bool:
    rows = np.flatnonzero(pads.any(axis=1))
    # One row mostly tells that it is not.
    alike = (np.array_equal(real[some], pads[some]) for some in (rows[:1], rows))
    return bool(rows.size) and all(alike)
