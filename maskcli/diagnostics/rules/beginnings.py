"""Rules on how texts begin: MSK409, MSK411 and MSK412."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Contrary, Found, Where
from maskcli.diagnostics.rule import for_each, rule, sides
from maskcli.diagnostics.rules.hits import found_at
from maskcli.diagnostics.supervision import Reading, readings
from maskcli.meant.facts import Declared, Purpose
from maskcli.padding import one_of
from maskcli.scene.scene import Scene
from maskcli.scene.tokens import Tokens


@rule("MSK409", "doubled-start", "warning", needs=("input_ids", "bos_id"), explained_by=("MSK102", "MSK401"))
def doubled_start(scene: Scene) -> Iterator[Found | Contrary]:
    """The token that begins a text stands twice in front of it.

    A model has never seen two of them, and answers worse than it could; in training it learns a beginning
    that nobody will give it later.

    In code: a chat template that writes the beginning, and `tokenizer(text)` that adds it once more; labels
    of an encoder-decoder that hold the decoder's start already.

    Fix: `tokenizer(text, add_special_tokens=False)` behind `apply_chat_template`, or let that tokenize.
    """
    # Between two texts of a long one, an end that begins texts too stands twice: all rows are no such cuts.
    ends = scene.declared.eos_ids or scene.declared.bos_ids
    for tokens in scene.tokens:
        if tokens.ids is None or tokens.ids.shape[1] < 2:
            continue
        doubled = _doubled(tokens, tokens.ids, scene)
        by_end = doubled & one_of(tokens.ids, ends)
        everywhere = bool(np.any(doubled, axis=1).all())
        if not everywhere:
            yield Contrary()
            doubled &= ~by_end
        if doubled.any():
            yield _told_twice(tokens, doubled, tokens.ids[doubled], of_all=everywhere and bool(by_end.any()))


def _doubled(tokens: Tokens, ids: Array, scene: Scene) -> Array:
    """Second beginnings [B, L] of rows and of packed documents."""
    starts = _start_ids(tokens, scene.declared)
    real = tokens.known_real(scene.declared)
    begins, doubled = _begins(tokens, real), np.zeros(ids.shape, bool)
    rows, columns = np.nonzero(begins[:, :-1])
    first, second = ids[rows, columns], ids[rows, columns + 1]
    if not ((first == second) & one_of(second, starts)).any():
        return doubled
    same = ids[:, 1:] == ids[:, :-1]
    doubled[:, 1:] = begins[:, :-1] & same & one_of(ids[:, 1:], starts)
    for reading in readings(scene):
        if reading.tokens is tokens and reading.shift is None:
            # A masked language model's collator puts any word in place of another.
            doubled &= ~(reading.supervised & (reading.labels != ids))
    if real is None:
        # A longer run at the edge may be padding of the same id.
        doubled[:, 1:-1] &= ~same[:, 1:] | ~begins[:, :-2]
    else:
        doubled &= real
    return doubled


def _told_twice(tokens: Tokens, doubled: Array, ids: Array, *, of_all: bool) -> Found:
    found = found_at(
        (tokens.name("input_ids"),),
        doubled,
        "the beginning (id {which}) stands twice, once more at {}",
        "add special tokens in one place: tokenizer(text, add_special_tokens=False) behind a chat template",
        which=ids,
        doubled=int(doubled.sum()),
    )
    # Labels that hold the start as well stand one place before it.
    return replace(found, explains=Where(found.where.batch), of_all=of_all)


def _start_ids(tokens: Tokens, declared: Declared) -> tuple[int, ...]:
    """Ids that begin texts; a decoder's start that is its padding too says nothing when it comes twice."""
    start = None if declared.model is None else declared.model.start_id
    own = (start,) if tokens.kind == "decoder" and start not in (None, declared.pad_id) else ()
    return (*declared.bos_ids, *(each for each in own if each is not None))


def _begins(tokens: Tokens, real: Array | None) -> Array:
    """First tokens of rows and of packed documents, bool [B, L]."""
    assert tokens.ids is not None
    begins = np.zeros(tokens.ids.shape, bool)
    first = 0 if real is None else real.argmax(axis=1)
    begins[np.arange(len(begins)), first] = True
    if tokens.declared_documents is not None:
        begins[:, 1:] |= np.diff(tokens.declared_documents, axis=1) != 0
    return begins


@rule("MSK411", "first-position", "error", needs=("position_ids", "first_position"))
@for_each(sides)
def first_position(tokens: Tokens, scene: Scene) -> Found | None:
    """Positions begin elsewhere than those that the model was trained with.

    Every token then gets the embedding of another place, and the first ones those of padding, which are
    zeros: RoBERTa and its kin count from their padding id on, and a text begins at 2.

    In code: `position_ids = torch.arange(length)` for RoBERTa, or its positions for BERT.

    Fix: leave position_ids out, or count from where the model does.
    """
    positions, model = tokens.positions, scene.declared.model
    if positions is None or model is None or model.first_position is None or tokens.kind == "decoder":
        return None
    due, real = model.first_position, tokens.known_real(scene.declared)
    first = np.zeros(len(positions), np.int64) if real is None else real.argmax(axis=1)
    rows = np.arange(len(positions))
    held = np.ones(len(rows), bool) if real is None else real.any(axis=1)
    stands = positions[rows, first]
    other = 0 if due else (1 if scene.declared.pad_id is None else scene.declared.pad_id) + 1
    # A text behind padding that is counted begins late by that, which is another fault.
    alone = (first == 0) | (positions[:, 0] == stands)
    wrong = held & alone & (stands == other)
    if not wrong.any() or other == due:
        return None
    flags = wrong[:, None] & (np.arange(positions.shape[1]) == first[:, None])
    return found_at(
        (tokens.name("position_ids"),),
        flags,
        f"positions begin at {{first}}, and those of the model at {{expected}} ({model.source}): {{}}",
        "leave position_ids out, so that the model counts, or begin at its first position",
        first=int(other),
        expected=due,
    )


@rule("MSK412", "decoder-start", "error", needs=("start_id",), explained_by=("MSK409",))
def decoder_start(scene: Scene) -> Iterator[Found]:
    """What a decoder reads does not begin with the model's start token, or its labels hold that too.

    Without the start in front each token is asked for itself, or the first is never asked for; with a second
    one in the labels the model learns to write the start again. A decoder reads its labels moved by one
    place.

    In code: `decoder_input_ids = labels`; labels of Whisper that keep `<|startoftranscript|>`.

    Fix: leave decoder_input_ids out, so that the model moves the labels, and cut the start off the labels.
    """
    model = scene.declared.model
    if model is None or model.start_id is None:
        return
    for reading in readings(scene):
        if reading.tokens.kind != "encoder" and model.start_id != scene.declared.pad_id:
            yield from _held_by_labels(reading, model.start_id)
    # A generation puts the start there itself, and its later steps read what follows.
    generates = scene.declared.purpose == Purpose.generate.value
    for tokens in scene.tokens:
        if tokens.kind == "decoder" and tokens.ids is not None and tokens.ids.shape[1] > 1 and not generates:
            yield from _without_start(tokens, tokens.ids, model.start_id, scene)


def _held_by_labels(reading: Reading, start: int) -> Iterator[Found]:
    """Labels that begin with the start."""
    first = np.arange(reading.labels.shape[1]) == reading.supervised.argmax(axis=1)[:, None]
    held = first & reading.supervised & (reading.labels == start)
    if held.any():
        yield found_at(
            reading.names("labels"),
            held,
            f"labels begin with the decoder's start (id {start}), which the model puts there: {{}}",
            "cut the start off the labels: labels = labels[:, 1:] where all begin with it",
            labels=int(held.sum()),
        )


def _without_start(tokens: Tokens, ids: Array, start: int, scene: Scene) -> Iterator[Found]:
    """Decoder ids of which no token up to the first that is asked for is the start."""
    declared, length = scene.declared, ids.shape[1]
    asked = np.zeros(len(ids), np.int64)
    for reading in readings(scene):
        if reading.tokens is tokens:
            asked = reading.supervised.argmax(axis=1)
    real = tokens.real
    if real is None and declared.pad_id not in (None, start):
        real = tokens.real_by_ids(declared)
    first = np.zeros(len(ids), np.int64) if real is None else real.argmax(axis=1)
    if start == declared.pad_id:
        first = np.zeros(len(ids), np.int64)
    column = np.arange(length)
    before = column <= np.maximum(asked, first)[:, None]
    missing = ~np.any(before & (ids == start), axis=1) & (ids != declared.pad_id).any(axis=1)
    if not missing.any():
        return
    yield found_at(
        (tokens.name("input_ids"),),
        missing[:, None] & (column == first[:, None]),
        f"what the decoder reads does not begin with the model's start (id {start}): {{}}",
        "leave decoder_input_ids out, so that the model makes them of the labels, or put the start in front",
        samples=int(missing.sum()),
    )
