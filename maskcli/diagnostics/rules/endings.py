"""Rules on how labelled texts end: MSK501, MSK507, MSK513 and MSK518."""

from __future__ import annotations

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.chats import (
    CHAT,
    Chat,
    at_maximum,
    chat_of,
    ends_in,
    is_stream,
    stops_within,
    to_answer,
)
from maskcli.diagnostics.finding import Contrary, Found, Undecided, Where, items_of
from maskcli.diagnostics.needs import TEXT
from maskcli.diagnostics.rule import for_each, rule
from maskcli.diagnostics.rules.hits import found_at
from maskcli.diagnostics.supervision import UNKNOWN_IDS, Reading, later, readings, texts, trains_on_all
from maskcli.meant.facts import Declared
from maskcli.padding import columns_beside, edge_padding, one_of
from maskcli.scene.scene import Scene

# What stands behind an end by mistake is short: a line break, a second end, a header without a turn.
BEHIND = 3


@rule("MSK501", "eos-not-supervised", "error", needs=(*TEXT, "eos_id"), explained_by=("MSK102",))
@for_each(texts)
def eos_not_supervised(text: Reading, scene: Scene) -> Found | None:
    """The token that ends a supervised answer has an ignored label.

    The model is taught every word of the answer but not to stop: it talks on until the length limit. It comes
    from a pad token that is also the end token, so that masking the labels of padding masks the real end as
    well.

    In code: `tokenizer.pad_token = tokenizer.eos_token` with `labels[input_ids == tokenizer.pad_token_id] =
    -100`.

    Fix: ignore labels where attention_mask is 0 instead, or give padding a token of its own.
    """
    declared = scene.declared
    missed = untaught_ends(text, scene)
    if missed.any():
        missed &= masked_by_id(text, declared)
    if not missed.any():
        return None
    return found_at(
        text.names("labels", "input_ids"),
        missed,
        "the end token (id {ends}) behind a supervised answer has an ignored label at {}: the model is never "
        "taught to stop there",
        _fix_of_ends(text, missed),
        ends=text.ids[missed],
        unsupervised_ends=int(missed.sum()),
        supervised_ends=int(text.asks_for(declared.eos_ids).sum()),
    )


def _fix_of_ends(text: Reading, missed: Array) -> str:
    """What to do about ends without a label; those that the mask hides too may be padding after all."""
    real = text.tokens.real
    if real is not None and (missed & ~real).any():
        return (
            "make attention_mask and labels before padding, not by ids != pad_id, or give padding a token of "
            "its own; where texts do not end in this token, append it"
        )
    return (
        "ignore labels where attention_mask is 0, not where ids == pad_id; or give padding a token of its own"
    )


@rule(
    "MSK513",
    "trained-past-the-end",
    "warning",
    needs=(*TEXT, ("eos_id", "turns")),
    explained_by=("MSK102", "MSK401", "MSK503", "MSK505", "MSK509", "MSK512"),
)
@for_each(texts)
def trained_past_the_end(text: Reading, scene: Scene) -> Found | None:
    """Tokens behind the end of a text are supervised, or its end stands twice.

    The model learns to go on where it should stop: with a line break, another end, or the beginning of a
    turn that nobody takes. What the chat template itself writes behind an answer is no fault.

    In code: a template that writes a line break behind its end token; `text + eos_token` for a template that
    has written it already.

    Fix: end the labels at the first end token of the answer.
    """
    if trains_on_all(scene.declared):
        return None
    second = _second_ends(text, scene)
    behind = _behind_ends(text, scene) | second
    if not behind.any():
        return None
    twice = behind & (one_of(text.ids, scene.declared.eos_ids) | second)
    what = "the end of the text stands twice, and the second" if twice.any() else "what stands behind the end"
    return found_at(
        text.names("labels", "input_ids"),
        behind,
        f"{what} (id {{which}}) has a label that the loss counts: {{}}",
        "ignore the labels behind the first end token, and write it in one place",
        which=text.ids[behind],
        tokens=int(behind.sum()),
        second_ends=int(twice.sum()),
    )


def _second_ends(text: Reading, scene: Scene) -> Array:
    """Supervised tokens [B, L] that end an answer once more, where its template writes them once."""
    chat, turns = chat_of(text, scene), scene.declared.turns
    if chat is None or turns is None:
        return np.zeros(text.labels.shape, bool)
    ends = one_of(text.ids, (turns.end_ids() & turns.special) - set(turns.tail))
    behind = chat.split.of("assistant") & chat.split.ended & ~chat.split.ends
    return np.asarray(ends & behind & text.taught)


def _behind_ends(text: Reading, scene: Scene) -> Array:
    """Supervised tokens [B, L] behind the last end of rows that nothing follows: few of them, or any number
    behind the last end of a chat.

    What follows the last end of a full row may be the beginning of a text that was cut. An end that begins
    texts too stands twice between two of them.
    """
    declared, taught, length = scene.declared, text.taught, text.labels.shape[1]
    ends = taught & ends_in(text, scene)
    again = np.zeros(ends.shape, bool)
    again[:, 1:] = ends[:, 1:] & ends[:, :-1]
    if again.any():
        again[:, 1:] &= text.ids[:, 1:] == text.ids[:, :-1]
        again &= ~one_of(text.ids, declared.bos_ids)
    at = length - 1 - (ends & ~again)[:, ::-1].argmax(axis=1)
    columns, border = columns_beside(length, at)
    tail = taught & (columns > border)
    if text.real is not None:
        tail &= text.real
    written = np.zeros(ends.shape, bool)
    if chat_of(text, scene) is not None and declared.turns is not None:
        written = one_of(text.ids, declared.turns.tail) & ~again
        tail &= ~written
    if not tail.any():
        return tail
    count = tail.sum(axis=1)
    stop = length - 1 - tail[:, ::-1].argmax(axis=1)
    known = (count <= BEHIND) | np.all(~tail | _behind_answers(text, scene), axis=1)
    inside = (columns > border) & (columns <= stop[:, None])
    unbroken = (count > 0) & np.all(~inside | tail | written, axis=1) & known
    nothing_more = np.ones(len(tail), bool)
    if text.real is not None:
        nothing_more = ~np.any(text.real & (columns > stop[:, None]), axis=1)
    certain = (count == 1) & (again & tail).any(axis=1) if declared.bos_ids else np.zeros(len(tail), bool)
    cut = _fills_its_place(text) & ~certain
    # One end alone is a text of nothing; ends that begin texts too may begin one.
    said = taught[np.arange(len(at)), np.maximum(at - 1, 0)] & (at > 0) & ends.any(axis=1)
    flags: Array = tail & (unbroken & nothing_more & ~cut & said)[:, None]
    return flags


def _behind_answers(text: Reading, scene: Scene) -> Array:
    """Tokens [B, L] behind the end of an answer and in no other turn, in rows that are conversations."""
    chat = chat_of(text, scene)
    if chat is None or is_stream(chat, scene.declared):
        return np.zeros(text.labels.shape, bool)
    return np.asarray(chat.split.of("assistant") & chat.split.ended)


@rule("MSK518", "answer-cut", "warning", needs=CHAT, explained_by=("MSK102", "MSK505", "MSK514"))
@for_each(to_answer)
def answer_cut(chat: Chat, scene: Scene) -> Found | None:
    """Rows at the maximum length stop within an answer, before its end.

    Such an answer teaches the model to break off, and where many are cut, that answers have no end. Rows that
    are cut out of one long stream of texts go on in the next one, and are not meant.

    In code: `max_length=512` for chats of a thousand tokens.

    Fix: raise the maximum length, or leave out (not: cut) the conversations that do not fit.
    """
    full = at_maximum(chat.text, scene.declared) & np.any(chat.text.supervised, axis=1)
    cut = full & stops_within(chat, scene.declared) & ~_ends_behind(chat, scene.declared)
    if not cut.any() or is_stream(chat, scene.declared):
        return None
    last = chat.split.turn == np.where(cut, chat.last.turn, -2)[:, None]
    return found_at(
        chat.text.names("labels", "input_ids"),
        last & chat.split.contents,
        "{cut_samples} of {full_samples} samples at the maximum length of {length} tokens stop within an "
        "answer, before its end: {}",
        "raise the maximum length, or leave out the conversations that do not fit",
        of_set="rows at the maximum length of {length} tokens stop within an answer, before its end: {}",
        cut_samples=int(cut.sum()),
        full_samples=int(full.sum()),
        length=int(chat.text.no_padding.sum(axis=1)[cut].max()),
    )


def _ends_behind(chat: Chat, declared: Declared) -> Array:
    """Rows [B] behind which stands an end that the padding mask hides, as one by the id of padding does."""
    text, none = chat.text, np.zeros(len(chat.text.ids), bool)
    if declared.turns is None or (declared.shown is not None and declared.shown.bare):
        return none
    stop = text.ids.shape[1] - text.no_padding[:, ::-1].argmax(axis=1)
    behind = np.take_along_axis(text.ids, np.minimum(stop, text.ids.shape[1] - 1)[:, None], axis=1)[:, 0]
    hidden: Array = one_of(behind, declared.turns.end_ids()) & (stop < text.ids.shape[1])
    return hidden


@rule(
    "MSK507",
    "eos-missing",
    "warning",
    needs=(*TEXT, ("eos_id", "turns")),
    explained_by=("MSK102", "MSK402", "MSK501", "MSK506", "MSK511", "MSK518"),
)
@for_each(readings)
def eos_missing(reading: Reading, scene: Scene) -> Found | Undecided | Contrary | None:
    """No sample has a supervised end token.

    A model that never sees a text end does not stop by itself. Either the template does not write the end
    token, or every text was cut at the maximum length before it.

    In code: a chat template without `eos_token`, `tokenizer(text)` of a tokenizer that does not append it,
    `max_length` too small.

    Fix: append the end token to every answer before truncation, and drop or shorten texts that do not fit.
    """
    if reading.tokens.ids is None:
        return UNKNOWN_IDS
    reading = reading.in_place
    rows = np.any(reading.supervised, axis=1)
    if not reading.same_text or not rows.any():
        return None
    if _asks_for_an_end(reading, scene):
        return Contrary()

    full, count, length = _fills_its_place(reading), int(rows.sum()), reading.labels.shape[1]
    cause, fix = "template", "append the end token to every answer"
    ends = (
        "{short_samples} of {samples} supervised samples end before the maximum of {length} places without "
        "one, so the template does not write it"
    )
    if full[rows].all():
        cause, fix = "truncation", "raise the maximum length, or leave out texts that do not fit"
        ends = "all {samples} supervised samples fill all {length} places, so their ends may be cut off"
    if cause == "truncation" and trains_on_all(scene.declared):
        return None
    ids = ", ".join(map(str, _ends(scene)))
    # Rows cut out of one long text (as nanoGPT does) need not hold an end; they have labels everywhere.
    stream = cause == "truncation" and bool(reading.supervised[:, 1:-1].all())
    return Found(
        reading.names("labels", "input_ids"),
        f"no supervised label is the end token (id {ids}): {ends}",
        fix,
        Where(items_of(rows)),
        {
            "samples": count,
            "full_samples": int(full[rows].sum()),
            "short_samples": int((rows & ~full).sum()),
            "length": length,
            "cause": cause,
        },
        "note" if stream or trains_on_all(scene.declared) else None,
        of_set=f"no supervised label is the end token (id {ids}): {{short_samples}} of {{samples}} samples "
        "end without one before their place is full, and the others may be cut off",
        of_all=True,
    )


def _asks_for_an_end(text: Reading, scene: Scene) -> bool:
    """Whether some label asks for the end of a text, or of an answer where turns are told."""
    turns = scene.declared.turns
    # Where the next turn's header ends an answer, no turn need follow it.
    of_answers = turns.end_ids() & turns.special if turns is not None else ()
    if text.asks_for((*scene.declared.eos_ids, *of_answers)).any():
        return True
    chat = chat_of(text, scene)
    if chat is None:
        return False
    beyond = bool(text.shift) and bool((chat.last.ended & text.supervised[:, -1]).any())
    return beyond or bool((text.taught & ends_in(text, scene)).any())


def _ends(scene: Scene) -> list[int]:
    """The ids that end texts and answers."""
    turns = scene.declared.turns
    return sorted({*scene.declared.eos_ids, *(turns.end_ids() if turns else ())})


def _fills_its_place(reading: Reading) -> Array:
    """Rows [B] without padding and with a label at their end, so that something may have been cut off."""
    # Ignored labels at the end of a row may stand for padding. The last of labels that the data moved asks
    # for a token that is not there, and may be ignored as well.
    full: Array = np.any(reading.supervised[:, -1 - (reading.shift or 0) :], axis=1)
    return full if reading.real is None else full & np.all(reading.real, axis=1)


def untaught_ends(text: Reading, scene: Scene) -> Array:
    """Real end tokens [B, L] that no label asks for, directly behind a token that one does."""
    declared, real = scene.declared, text.tokens.real
    eos, chat = one_of(text.ids, declared.eos_ids), chat_of(text, scene)
    ends = eos & ~text.taught & later(text.taught & ~eos, 1)
    if not ends.any():
        return ends
    ends &= ~_beginnings(text, declared)
    if chat is not None:
        # What the end of a turn has ended needs no other.
        ends &= ~later(chat.split.ended, 1)
    return ends if real is None else ends & (real | _ends_masked_by_id(text, real, declared))


def _ends_masked_by_id(text: Reading, real: Array, declared: Declared) -> Array:
    """The first of each trailing run of the end's id, bool [B, L], where the mask hides that id everywhere.

    Padding of that id is behind all of them unless some row is so long that it ends in another: the longest
    text of a batch needs no padding, so its last token is its end.
    """
    none = np.zeros(real.shape, bool)
    if declared.shown is not None and declared.shown.bare:
        return none
    last = np.unique(text.ids[:, -1])
    end, known = int(last[0]), (None, *declared.eos_ids)
    if len(last) > 1 or end not in declared.eos_ids or declared.pad_id not in known:
        return none
    if (real & (text.ids == end)).any():
        return none
    first: Array = edge_padding(text.ids, end, (), (end,)) & (text.ids == end) & ~real
    return first


def _beginnings(text: Reading, declared: Declared) -> Array:
    """End tokens [B, L] that may begin a text in a row: a document's first, or one that begins rows."""
    begins = np.zeros(text.ids.shape, bool)
    if text.tokens.documents is not None:
        begins[:, 1:] = np.diff(text.tokens.documents, axis=1) != 0
        return begins
    starts = ends_that_begin(text, declared) if declared.shown is None else declared.shown.starts
    if starts:
        ends = one_of(text.ids, declared.eos_ids)
        begins[:, :-1] = one_of(text.ids[:, :-1], starts) & ~ends[:, 1:]
    if text.real is not None:
        begins[:, :-1] &= text.real[:, 1:]
    return begins


def ends_that_begin(text: Reading, declared: Declared) -> tuple[int, ...]:
    """Ids of ends that begin texts as well, by what begins the rows."""
    # Of leading ids of padding, the last may be the beginning; a padding mask says which.
    first = text.first if text.tokens.real is not None else np.maximum(text.first - 1, 0)
    begin = {*text.ids[np.arange(len(text.ids)), first].tolist(), *declared.bos_ids}
    return tuple(end for end in declared.eos_ids if end in begin)


def masked_by_id(text: Reading, declared: Declared) -> Array:
    """Tokens [B, L] with the id of padding; without a known pad id all, unless some label is an end token."""
    if declared.pad_id is not None:
        return np.asarray(text.ids == declared.pad_id)
    shown = declared.shown
    ends = bool(text.asks_for(declared.eos_ids).any()) if shown is None else shown.ends
    return np.full(text.ids.shape, not ends)
