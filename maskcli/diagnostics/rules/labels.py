"""Rules on labels, what the loss is computed from: MSK501 to MSK508."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided, Where, items_of
from maskcli.diagnostics.needs import TEXT
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.common import LISTED, place, places, told_items, told_places
from maskcli.diagnostics.supervision import (
    DUE,
    UNKNOWN_IDS,
    Reading,
    first_dropped,
    ignored_labels,
    later,
    readings,
    texts,
)
from maskcli.meant.facts import Declared
from maskcli.padding import edge_runs
from maskcli.scene.scene import Scene

# Masked language models ask for 15 % of the tokens, seldom for 40 %; labels on more than half are of every
# token.
FEW = 0.5
# Labels that have to agree before a shift is called wrong: that three words come again by chance at one
# distance is rare.
ACCUSED = 3


@rule("MSK501", "eos-not-supervised", "error", needs=(*TEXT, "eos_id"), explained_by=("MSK102",))
def eos_not_supervised(scene: Scene) -> Iterator[Found | Undecided]:
    """The token that ends a supervised answer has an ignored label.

    The model is taught every word of the answer but not to stop: it talks on until the length limit. It comes
    from a pad token that is also the end token, so that masking the labels of padding masks the real end as
    well.

    In code: `tokenizer.pad_token = tokenizer.eos_token` with `labels[input_ids == tokenizer.pad_token_id] =
    -100`.

    Fix: ignore labels where attention_mask is 0 instead, or give padding a token of its own.
    """
    declared = scene.declared
    for text in texts(scene):
        if isinstance(text, Undecided):
            yield text
            continue
        ends = _untaught_ends(text, declared)
        missed = ends & _masked_by_id(text, declared)
        if not missed.any():
            continue
        supervised = int((text.supervised & np.isin(text.labels, declared.eos_ids)).sum())
        yield _found(
            text,
            ("labels", "input_ids"),
            missed,
            f"the end token (id {_ids_at(text, missed)}) behind a supervised answer has an ignored label at {{}}: "
            "the model is never taught to stop there",
            "ignore labels where attention_mask is 0, not where ids == pad_id; or give padding a token of its own",
            {"unsupervised_ends": int(missed.sum()), "supervised_ends": supervised},
        )


@rule("MSK502", "nothing-supervised", "error", needs=("labels",))
def nothing_supervised(scene: Scene) -> Iterator[Found]:
    """A sample has no label that the loss counts.

    Such a sample teaches nothing; when all of a batch are like that the loss is 0 / 0, which is NaN. A
    decoder drops the first label (there is no token before it), so a label at index 0 alone does not count.

    In code: a response template that never matches, so every label stays -100; an answer that truncation cut
    off.

    Fix: print one sample's ids and labels side by side, correct the template, or raise the maximum length.
    """
    for reading in readings(scene):
        begin = int(first_dropped(reading, scene.declared))
        empty = ~np.any(reading.supervised[:, begin:], axis=1)
        if reading.real is not None:
            empty &= np.any(reading.real, axis=1)
        if not empty.any() or (_few_masked(reading) and not empty.all()):
            continue
        first = int(reading.supervised[empty, :begin].sum())
        where = Where(items_of(empty))
        yield Found(
            _names(reading, ("labels",)),
            f"no label of {told_items(where.batch)} counts: all {reading.labels.shape[1]} are ignored"
            + (f", but for {first} at index 0, which the shift of a decoder drops" if first else ""),
            "compare ids and labels of one such sample: the template that marks the answer, or the maximum length, is wrong",
            where,
            {"samples": int(empty.sum()), "of": len(empty), "labels_at_index_0": first},
            "error" if empty.all() else "warning",
        )


@rule(
    "MSK503",
    "padding-supervised",
    "error",
    needs=("labels", ("padding_mask", "pad_id")),
    explained_by=("MSK102", "MSK402"),
)
def padding_supervised(scene: Scene) -> Iterator[Found | Undecided]:
    """Labels on padding are not the ignore index.

    The loss then counts padding like text: it looks better than it is, and the model learns to write padding.

    In code: `labels = input_ids.clone()` without `labels[attention_mask == 0] = -100`.

    Fix: set the labels of padding to -100, or to whatever ignore_index the loss has (pass it as
    --ignore-index).
    """
    for reading in readings(scene):
        if reading.real is None:
            yield Undecided("attention_mask (or input_ids with --pad-id)")
            continue
        wrong = _supervised_padding(reading, scene.declared)
        if not wrong.any():
            continue
        yield _found(
            reading,
            ("labels", "padding_mask" if reading.tokens.real is not None else "input_ids"),
            wrong,
            f"{int(wrong.sum())} of {int(reading.supervised.sum())} labels that the loss counts lie on padding: {{}}, "
            f"with label {_few(reading.labels[wrong])}",
            "set them to the ignore index: labels[attention_mask == 0] = -100"
            if (reading.supervised & ~wrong).any()
            else "turn the mask around if 1 stands for padding in it; else no label is on the text",
            {"labels_on_padding": int(wrong.sum()), "supervised": int(reading.supervised.sum())},
        )


@rule("MSK504", "prompt-supervised", "warning", needs=(*TEXT, "prompt_length"))
def prompt_supervised(scene: Scene) -> Iterator[Found | Undecided]:
    """Tokens of the prompt are supervised, though a prompt length was declared.

    The model then learns to write prompts too, and long prompts outweigh the answers. That can be a choice;
    with a declared prompt length it is not.

    In code: `labels = input_ids.clone()` without `labels[:, :prompt_length] = -100`.

    Fix: ignore the labels of the prompt, counted from the first real token of each row.
    """
    length = scene.declared.prompt_length or 0
    for text in texts(scene):
        if isinstance(text, Undecided):
            yield text
            continue
        if text.tokens.kind != "self":
            continue
        # Nothing comes before the first token that could be asked for it: its label does not count.
        at, begin = np.arange(text.labels.shape[1]), text.first[:, None]
        wrong = text.taught & (at > begin) & (at < begin + length)
        if not wrong.any():
            continue
        yield _found(
            text,
            ("labels", "input_ids"),
            wrong,
            f"{int(wrong.sum())} tokens of the prompt (the first {length}) have a label that the loss counts: {{}}",
            "set the labels of the prompt to the ignore index",
            {"prompt_tokens": int(wrong.sum()), "prompt_length": length},
        )


@rule("MSK505", "shifted-labels", "error", needs=TEXT)
def shifted_labels(scene: Scene) -> Iterator[Found | Undecided]:
    """The labels are moved against the ids by another number of places than the loss expects.

    Hugging Face models move the labels themselves: labels that the data has moved already then ask for the
    token after the next. Where nobody moves them, each token is asked for itself and the model learns to
    copy.

    In code: `labels = input_ids[:, 1:]` given to a model that computes `loss(logits[:, :-1], labels[:, 1:])`.

    Fix: give such a model labels that are a copy of the ids, or compute the loss outside of it; say which
    with --loss-shift.
    """
    for reading in readings(scene):
        due = DUE.get(scene.declared.loss_shift or "")
        # The ids of an encoder-decoder's decoder are its labels, moved one place to the right: nobody moves
        # them again.
        right = {due or 0} | ({1} if reading.tokens.kind == "decoder" else set())
        if right & reading.agree.keys() or max(reading.agree.values(), default=0) < ACCUSED:
            continue
        if len(reading.agree) > 1:
            yield Undecided("a batch with less repetition (the labels fit the ids at more than one shift)")
            continue
        (places,) = reading.agree
        place_told, effect, fix = _SHIFTED[places, due]
        yield Found(
            _names(reading, ("labels", "input_ids")),
            f"the labels are the ids {place_told} ({reading.agree[places]} labels agree): {effect}",
            fix,
            Where(),
            {"places": places, "agreeing_labels": reading.agree[places]},
            "note" if (places, due) == (1, None) else None,
        )


_TWICE = (
    "two places later",
    "no token is asked for the next one, whether the loss moves them once more or not",
    "move the labels in one place only: in the data or in the model",
)
# What labels so many places on mean when they are due elsewhere: where they are, what follows, and the fix.
_SHIFTED = {
    (0, 1): (
        "at the same place",
        "nobody moves them (--loss-shift data), so each token is asked for itself and the model learns to copy",
        "move the labels one place (labels[t] = ids[t + 1]), or let the model do it",
    ),
    (1, 0): (
        "one place later",
        "the model moves them once more (--loss-shift model), so each token is asked for the one after the next",
        "pass a copy of the ids as labels",
    ),
    (1, None): (
        "one place later",
        "right when the loss does not move them; one that does asks for the token after the next",
        "with a model that moves them, as Hugging Face's do, pass a copy of the ids; else declare --loss-shift data",
    ),
    (2, None): _TWICE,
    (2, 0): _TWICE,
    (2, 1): _TWICE,
}


@rule(
    "MSK506", "label-border", "warning", needs=(*TEXT, ("eos_id", "prompt_length")), explained_by=("MSK102",)
)
def label_border(scene: Scene) -> Iterator[Found | Undecided]:
    """The supervised answer starts one token late or ends one token early.

    The model is then not taught the first word of an answer, or not to end it. It comes from a loss mask that
    was moved by one against the labels, or moved twice.

    In code: `loss_mask[:, prompt_length + 1:] = 1`, or a mask for ids used on labels that are already
    ids[1:].

    Fix: let the first supervised label be the first token of the answer and the last one its end token.
    """
    declared = scene.declared
    for text in texts(scene):
        if isinstance(text, Undecided):
            yield text
            continue
        early = _untaught_ends(text, declared) & ~_masked_by_id(text, declared)
        late = _untaught_starts(text, declared.prompt_length)
        fix = "build the labels from the ids first, then move ids and loss mask together"
        if late.any():
            message = f"the supervised answer starts one token late (the prompt is the first {declared.prompt_length}): no label for {{}}"
            yield _found(text, ("labels", "input_ids"), late, message, fix, {"late_starts": int(late.sum())})
        if early.any():
            message = f"the supervised answer ends one token early: no label for its end token (id {_ids_at(text, early)}), {{}}"
            yield _found(text, ("labels", "input_ids"), early, message, fix, {"early_ends": int(early.sum())})


@rule(
    "MSK507",
    "eos-missing",
    "warning",
    needs=(*TEXT, "eos_id"),
    explained_by=("MSK102", "MSK402", "MSK501", "MSK506"),
)
def eos_missing(scene: Scene) -> Iterator[Found | Undecided]:
    """No sample has a supervised end token.

    A model that never sees a text end does not stop by itself. Either the template does not write the end
    token, or every text was cut at the maximum length before it.

    In code: a chat template without `eos_token`, `tokenizer(text)` of a tokenizer that does not append it,
    `max_length` too small.

    Fix: append the end token to every answer before truncation, and drop or shorten texts that do not fit.
    """
    eos = scene.declared.eos_ids
    for reading in readings(scene):
        if reading.tokens.ids is None:
            yield UNKNOWN_IDS
            continue
        written = reading.supervised & np.isin(reading.labels, eos)
        if written.any() or not reading.same_text:
            continue
        rows = np.any(reading.supervised, axis=1)
        if not rows.any():
            continue
        # Ignored labels at the end of a row may stand for padding. The last of labels that the data moved
        # asks for a token that is not there, and may be ignored as well.
        tail = reading.supervised[:, -1 - (reading.shift or 0) :]
        full = np.any(tail, axis=1) & (True if reading.real is None else np.all(reading.real, axis=1))
        cut = bool(full[rows].all())
        # Rows cut out of one long text (as nanoGPT does) need not hold an end; they have labels everywhere.
        stream = cut and reading.shift == 1 and bool(reading.supervised[:, :-1].all())
        ids = ", ".join(map(str, eos))
        count, length = int(rows.sum()), reading.labels.shape[1]
        yield Found(
            _names(reading, ("labels", "input_ids")),
            f"no supervised label is the end token (id {ids}): "
            + (
                f"all {count} supervised samples fill all {length} places, so their ends may be cut off"
                if cut
                else f"{int((rows & ~full).sum())} of {count} supervised samples end before the maximum of {length} places "
                "without one, so the template does not write it"
            ),
            "raise the maximum length, or leave out texts that do not fit"
            if cut
            else "append the end token to every answer",
            Where(items_of(rows)),
            {
                "samples": count,
                "full_samples": int(full[rows].sum()),
                "cause": "truncation" if cut else "template",
            },
            "note" if stream else None,
        )


@rule("MSK508", "invalid-label", "error", needs=(("labels", "input_ids"),))
def invalid_label(scene: Scene) -> Iterator[Found]:
    """A label or an id is not one of the vocabulary, nor the ignore index.

    On a GPU the lookup stops with a device-side assert far from the cause; elsewhere it may wrap around and
    read another token.

    In code: labels padded with -1 for a loss whose ignore_index is -100, tokens added without
    `resize_token_embeddings`.

    Fix: use the loss's ignore index for labels to leave out, and a vocabulary that holds every id.
    """
    size = scene.declared.vocab_size
    for tokens in scene.tokens:
        for role, array in (("labels", tokens.labels), ("input_ids", tokens.ids)):
            if array is None:
                continue
            wrong: Array = array < 0 if size is None else (array < 0) | (array >= size)
            if role == "labels":
                wrong = wrong & ~ignored_labels(array, scene.declared)
            if not wrong.any():
                continue
            where, each, bad = _place(wrong), _places(wrong), array[wrong]
            low, high = int(bad.min()), int(bad.max())
            yield Found(
                (tokens.name(role),),
                f"{tokens.name(role)!r} holds {int(wrong.sum())} value(s) that no token has: {_few(bad)}, at "
                f"{told_places(where, each, 'tokens')}"
                + (f"; the vocabulary has {size}" if size is not None else ""),
                "use the ignore index of the loss for labels to leave out (declare it with --ignore-index when it is not -100)"
                if role == "labels" and low < 0
                else "use ids from 0 up to the vocabulary's size; resize the embeddings after adding tokens",
                where,
                {"values": int(wrong.sum()), "lowest": low, "highest": high},
                None,
                each,
            )


def _few_masked(reading: Reading) -> bool:
    """Whether labels stand on a few tokens that are others than the ids, as in a masked language model: by chance on none of a row."""
    tokens = reading.labels.size if reading.real is None else int(reading.real.sum())
    return (
        reading.tokens.ids is not None
        and not reading.same_text
        and bool(0 < reading.supervised.sum() < FEW * tokens)
    )


def _supervised_padding(reading: Reading, declared: Declared) -> Array:
    """Labels [B, L] on padding that the loss counts."""
    pads = np.zeros(reading.labels.shape, bool) if reading.real is None else ~reading.real
    leading, trailing = edge_runs(pads)
    pads = leading | trailing
    wrong: Array = pads & reading.supervised
    if reading.shift is None:
        # Nothing ties these labels to the tokens: they may be another text, with a padding of its own. One
        # value over all the padding of a row, two or more, is no text.
        last = np.where(pads, reading.labels, reading.labels.min()).max(axis=1, keepdims=True)
        one = ~pads | (reading.supervised & (reading.labels == last))
        rows = np.all(one, axis=1) & (pads.sum(axis=1) > 1)
        wrong &= rows[:, None]
        return wrong
    if reading.shift:
        # The label on the last padding before a text asks for the text's first token.
        wrong[:, : -reading.shift] &= pads[:, reading.shift :]
        return wrong
    # When padding and the end (or beginning) of a text share an id, one token of the run is real: by its id,
    # where that is known; else nothing is said as long as no other token of a run is supervised.
    end = trailing & ~later(trailing, 1)
    begin = leading & ~later(leading[:, ::-1], 1)[:, ::-1]
    wrong &= ~(end & np.isin(reading.labels, declared.eos_ids)) & ~(
        begin & np.isin(reading.labels, declared.bos_ids)
    )
    doubtful = np.zeros_like(wrong)
    if not declared.eos_ids:
        doubtful |= end
    if not declared.bos_ids and reading.tokens.real is None:
        doubtful |= begin
    return wrong if (wrong & ~doubtful).any() else np.zeros_like(wrong)


def _untaught_ends(text: Reading, declared: Declared) -> Array:
    """Real end tokens [B, L] that no label asks for, directly behind a token that one does."""
    eos = np.isin(text.ids, declared.eos_ids)
    ends = eos & later(text.taught & ~eos, 1) & ~text.taught & ~_beginnings(text, declared)
    return ends if text.tokens.real is None else ends & text.tokens.real


def _beginnings(text: Reading, declared: Declared) -> Array:
    """Tokens [B, L] that may begin a text inside a row: the first of a packed document, or a token that begins rows too."""
    begins = np.zeros(text.ids.shape, bool)
    if text.tokens.documents is not None:
        begins[:, 1:] = np.diff(text.tokens.documents, axis=1) != 0
        return begins
    # Of leading ids of padding, the last may be the beginning; a padding mask says which.
    first = text.first if text.tokens.real is not None else np.maximum(text.first - 1, 0)
    known = np.append(text.ids[np.arange(len(text.ids)), first], declared.bos_ids)
    begins[:, :-1] = np.isin(text.ids[:, :-1], known) & ~np.isin(text.ids[:, 1:], declared.eos_ids)
    if text.real is not None:
        begins[:, :-1] &= text.real[:, 1:]
    return begins


def _masked_by_id(text: Reading, declared: Declared) -> Array:
    """Tokens [B, L] that share their id with padding; without a known pad id all may, unless some label is an end token."""
    if declared.pad_id is not None:
        return np.asarray(text.ids == declared.pad_id)
    return np.full(text.ids.shape, not (text.supervised & np.isin(text.labels, declared.eos_ids)).any())


def _untaught_starts(text: Reading, prompt_length: int | None) -> Array:
    """First tokens of an answer [B, L] that no label asks for while one asks for the second."""
    missed = np.zeros(text.labels.shape, bool)
    if prompt_length is not None and text.tokens.kind == "self":
        start = text.first + prompt_length
        rows = np.flatnonzero(text.taught.any(axis=1) & (text.taught.argmax(axis=1) == start + 1))
        missed[rows, start[rows]] = True
    return missed


def _place(flags: Array) -> Where:
    """The samples and token positions of flagged cells [B, L]."""
    return place(flags[:, None], None)


def _places(flags: Array) -> tuple[Where, ...]:
    """The same, sample by sample where they differ."""
    return places(flags[:, None], None)


def _found(
    reading: Reading,
    roles: tuple[str, ...],
    flags: Array,
    message: str,
    fix: str,
    evidence: dict[str, float | int | str],
) -> Found:
    """A Found for flagged tokens [B, L]; the {} of the message becomes their place."""
    where, each = _place(flags), _places(flags)
    return Found(
        _names(reading, roles),
        message.format(told_places(where, each, "tokens")),
        fix,
        where,
        evidence,
        None,
        each,
    )


def _few(values: Array) -> str:
    """Different values in words: the first few."""
    different = np.unique(values)
    return ", ".join(str(int(value)) for value in different[:LISTED]) + (
        ", …" if len(different) > LISTED else ""
    )


def _ids_at(text: Reading, flags: Array) -> str:
    return _few(text.ids[flags])


def _names(reading: Reading, roles: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(reading.tokens.name(role) for role in roles)
