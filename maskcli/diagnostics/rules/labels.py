"""Rules on labels, what the loss is computed from: MSK501 to MSK508."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskcli.diagnostics.facts import Declared
from maskcli.diagnostics.finding import Found, Undecided, Where, items_of, runs_of
from maskcli.diagnostics.rules.common import ignored_labels, told, told_items
from maskcli.diagnostics.scene import Scene, Tokens, edge_padding, real_tokens
from maskcli.masks.spec import parse

Array = npt.NDArray[Any]

# Labels are the ids, some places on, when this share of them agrees. Labels made from ids agree to the last one; those of a
# masked language model that keep every id agree at 85 to 89 %, as one token in seven is replaced.
SAME_TEXT = 0.95
SHIFTS = (0, 1, 2)
# Fewer agreeing labels are chance: a word that returns two places on, a masked token that was left as it is.
ENOUGH, ENOUGH_SHIFTED = 2, 4


class Reading(NamedTuple):
    """The labels of one side and how they relate to its ids.

    `supervised` [B, L] are labels that the loss counts, `real` [B, L] tokens that are no padding (None: nothing tells).
    `agree` gives, for each shift at which labels[t] is ids[t + shift], how many labels show it; `shift` is the one that holds,
    None when the labels are another sequence or fit at several. `taught` [B, L] are tokens that some label asks for.
    """

    tokens: Tokens
    labels: Array
    supervised: Array
    real: Array | None
    agree: dict[int, int]
    shift: int | None

    @property
    def taught(self) -> Array:
        """Tokens that are the target of a supervised label, bool [B, L]."""
        return _later(self.supervised, self.shift or 0)

    @property
    def first(self) -> Array:
        """Where each row's text begins [B]: its first real token."""
        begins: Array = np.zeros(len(self.labels), np.int64) if self.real is None else self.real.argmax(axis=1)
        return begins


def eos_not_supervised(scene: Scene) -> Iterator[Found | Undecided]:
    """The token that ends a supervised answer has an ignored label.

    The model is taught every word of the answer but not to stop: it talks on until the length limit. It comes from a pad token
    that is also the end token, so that masking the labels of padding masks the real end as well.

    In code: `tokenizer.pad_token = tokenizer.eos_token` with `labels[input_ids == tokenizer.pad_token_id] = -100`.

    Fix: ignore labels where attention_mask is 0 instead, or give padding a token of its own.
    """
    declared = scene.declared
    for text in _texts(scene):
        if isinstance(text, Undecided):
            yield text
            continue
        ends = _untaught_ends(text, declared)
        missed = ends & _masked_by_id(text, declared)
        if not missed.any():
            continue
        where = _place(missed)
        supervised = int((text.supervised & np.isin(text.labels, declared.eos_ids)).sum())
        yield Found(
            _names(text, "labels", "input_ids"),
            f"the end token (id {_ids_at(text, missed)}) behind a supervised answer has an ignored label at "
            f"{told(where.queries, 'token', 'tokens')} of {told_items(where.batch)}: the model is never taught to stop there",
            "ignore labels where attention_mask is 0, not where ids == pad_id; or give padding a token of its own",
            where,
            {"unsupervised_ends": int(missed.sum()), "supervised_ends": supervised},
        )


def nothing_supervised(scene: Scene) -> Iterator[Found]:
    """A sample has no label that the loss counts.

    Such a sample teaches nothing; when all of a batch are like that the loss is 0 / 0, which is NaN. A decoder drops the first
    label (there is no token before it), so a label at index 0 alone does not count.

    In code: a response template that never matches, so every label stays -100; an answer that truncation cut off.

    Fix: print one sample's ids and labels side by side, correct the template, or raise the maximum length.
    """
    for reading in _readings(scene):
        counted = reading.supervised.copy()
        dropped = _first_dropped(scene, reading)
        if dropped:
            counted[:, 0] = False
        empty = ~counted.any(axis=1)
        if reading.real is not None:
            empty &= reading.real.any(axis=1)
        if not empty.any():
            continue
        first = int(reading.supervised[empty, 0].sum()) if dropped else 0
        where = Where(items_of(empty))
        yield Found(
            _names(reading, "labels"),
            f"no label of {told_items(where.batch)} counts: all {reading.labels.shape[1]} are ignored"
            + (f", but for {first} at index 0, which the shift of a decoder drops" if first else ""),
            "compare ids and labels of one such sample: the template that marks the answer, or the maximum length, is wrong",
            where,
            {"samples": int(empty.sum()), "of": len(empty), "labels_at_index_0": first},
            "error" if empty.all() else "warning",
        )


def padding_supervised(scene: Scene) -> Iterator[Found | Undecided]:
    """Labels on padding are not the ignore index.

    The loss then counts padding like text: it looks better than it is, and the model learns to write padding.

    In code: `labels = input_ids.clone()` without `labels[attention_mask == 0] = -100`.

    Fix: set the labels of padding to -100, or to whatever ignore_index the loss has (pass it as --ignore-index).
    """
    for reading in _readings(scene):
        if reading.real is None:
            yield Undecided("attention_mask (or input_ids with --pad-id)")
            continue
        wrong = _supervised_padding(reading, scene.declared)
        if not wrong.any():
            continue
        where = _place(wrong)
        values = np.unique(reading.labels[wrong])
        named = ", ".join(str(int(value)) for value in values[:3]) + (", …" if len(values) > 3 else "")
        yield Found(
            _names(reading, "labels", "padding_mask" if reading.tokens.real is not None else "input_ids"),
            f"{int(wrong.sum())} of {int(reading.supervised.sum())} labels that the loss counts lie on padding: "
            f"{told(where.queries, 'token', 'tokens')} of {told_items(where.batch)}, with label {named}",
            "set them to the ignore index: labels[attention_mask == 0] = -100",
            where,
            {"labels_on_padding": int(wrong.sum()), "supervised": int(reading.supervised.sum())},
        )


def prompt_supervised(scene: Scene) -> Iterator[Found | Undecided]:
    """Tokens of the prompt are supervised, though a prompt length was declared.

    The model then learns to write prompts too, and long prompts outweigh the answers. That can be a choice; with a declared
    prompt length it is not.

    In code: `labels = input_ids.clone()` without `labels[:, :prompt_length] = -100`.

    Fix: ignore the labels of the prompt, counted from the first real token of each row.
    """
    length = scene.declared.prompt_length or 0
    for text in _texts(scene, ("self",)):
        if isinstance(text, Undecided):
            yield text
            continue
        # Nothing comes before the first token that could be asked for it: its label does not count.
        at, begin = np.arange(text.labels.shape[1]), text.first[:, None]
        wrong = text.taught & (at > begin) & (at < begin + length)
        if not wrong.any():
            continue
        where = _place(wrong)
        yield Found(
            _names(text, "labels", "input_ids"),
            f"{int(wrong.sum())} prompt tokens have a label that the loss counts: {told(where.queries, 'token', 'tokens')} of "
            f"{told_items(where.batch)}, where the prompt is the first {length}",
            "set the labels of the prompt to the ignore index",
            where,
            {"prompt_tokens": int(wrong.sum()), "prompt_length": length},
        )


def shifted_labels(scene: Scene) -> Iterator[Found | Undecided]:
    """The labels are moved against the ids by another number of places than the loss expects.

    Hugging Face models move the labels themselves: labels that the data has moved already then ask for the token after the
    next. Where nobody moves them, each token is asked for itself and the model learns to copy.

    In code: `labels = input_ids[:, 1:]` given to a model that computes `loss(logits[:, :-1], labels[:, 1:])`.

    Fix: give such a model labels that are a copy of the ids, or compute the loss outside of it; say which with --loss-shift.
    """
    for reading in _readings(scene):
        tokens, due = reading.tokens, {"model": 0, "data": 1}.get(scene.declared.loss_shift or "")
        right = {0, 1} - ({0} if due == 1 else set()) if tokens.kind == "decoder" else {due or 0}
        fits = [shift for shift in reading.agree if reading.agree[shift] >= ENOUGH_SHIFTED]
        if not fits or right & set(reading.agree):
            continue
        if len(fits) > 1:
            yield Undecided("a batch with less repetition (the labels fit the ids at more than one shift)")
            continue
        places, agree = fits[0], reading.agree[fits[0]]
        count = {0: "are the ids of the same place", 1: "are the ids one place later", 2: "are the ids two places later"}[
            places
        ]
        yield Found(
            _names(reading, "labels", "input_ids"),
            f"the labels {count} ({agree} labels agree): " + _consequence(places, due),
            {
                0: "move the labels one place (labels[t] = ids[t + 1]), or let the model do it",
                1: "pass a copy of the ids as labels when the model moves them (as Hugging Face's do); "
                "declare --loss-shift data when it does not",
                2: "move the labels in one place only: the data or the model",
            }[places],
            Where(),
            {"places": places, "agreeing_labels": agree},
            "note" if places == 1 and due is None else None,
        )


def label_border(scene: Scene) -> Iterator[Found | Undecided]:
    """The supervised answer starts one token late or ends one token early.

    The model is then not taught the first word of an answer, or not to end it. It comes from a loss mask that was moved by
    one against the labels, or moved twice.

    In code: `loss_mask[:, prompt_length + 1:] = 1`, or a mask for ids used on labels that are already ids[1:].

    Fix: let the first supervised label be the first token of the answer and the last one its end token.
    """
    declared = scene.declared
    for text in _texts(scene):
        if isinstance(text, Undecided):
            yield text
            continue
        early = _untaught_ends(text, declared)
        early &= ~_masked_by_id(text, declared)
        late = _untaught_starts(text, declared.prompt_length)
        for missed, said, evidence in (
            (late, f"starts one token late: the prompt is the first {declared.prompt_length}", "late_starts"),
            (early, f"ends one token early, before the end token (id {_ids_at(text, early)})", "early_ends"),
        ):
            if missed.any():
                where = _place(missed)
                yield Found(
                    _names(text, "labels", "input_ids"),
                    f"the supervised answer {said}; the label of {told(where.queries, 'token', 'tokens')} of "
                    f"{told_items(where.batch)} is ignored",
                    "build the labels from the ids first and move ids and loss mask together",
                    where,
                    {evidence: int(missed.sum())},
                )


def eos_missing(scene: Scene) -> Iterator[Found | Undecided]:
    """No sample has a supervised end token.

    A model that never sees a text end does not stop by itself. Either the template does not write the end token, or every
    text was cut at the maximum length before it.

    In code: a chat template without `eos_token`, `tokenizer(text)` of a tokenizer that does not append it, `max_length` too small.

    Fix: append the end token to every answer before truncation, and drop or shorten texts that do not fit.
    """
    eos = scene.declared.eos_ids
    for reading in _readings(scene):
        if reading.tokens.ids is None:
            yield _UNKNOWN_IDS
            continue
        written = reading.supervised & np.isin(reading.labels, eos)
        if max(reading.agree.values(), default=0) < ENOUGH or written.any():
            continue
        rows = reading.supervised.any(axis=1)
        if not rows.any():
            continue
        # Where nothing says what is padding, ignored labels at the end of a row may stand for it. The last of labels that the
        # data moved asks for a token that is not there, and may be ignored as well.
        tail = reading.supervised[:, -1 - (reading.shift or 0) :]
        full = tail.any(axis=1) if reading.real is None else reading.real.all(axis=1)
        cut = bool(full[rows].all())
        # Rows cut out of one long text (as nanoGPT does) need not hold an end; they have labels everywhere.
        stream = cut and reading.shift == 1 and bool(reading.supervised[:, :-1].all())
        ids = ", ".join(map(str, eos))
        count, length = int(rows.sum()), reading.labels.shape[1]
        yield Found(
            _names(reading, "labels", "input_ids"),
            f"no supervised label is the end token (id {ids}): "
            + (
                f"all {count} supervised samples fill all {length} places, so their ends may be cut off"
                if cut
                else f"{int((rows & ~full).sum())} of {count} supervised samples end before the maximum of {length} places "
                "without one, so the template does not write it"
            ),
            "raise the maximum length, or leave out texts that do not fit" if cut else "append the end token to every answer",
            Where(items_of(rows)),
            {"samples": count, "full_samples": int(full[rows].sum()), "cause": "truncation" if cut else "template"},
            "note" if stream else None,
        )


def invalid_label(scene: Scene) -> Iterator[Found]:
    """A label or an id is not one of the vocabulary, nor the ignore index.

    On a GPU the lookup stops with a device-side assert far from the cause; elsewhere it may wrap around and read another token.

    In code: padding labels of -1 or 0 - 1 beside an ignore_index of -100, added tokens without `resize_token_embeddings`.

    Fix: use the loss's ignore index for labels to leave out, and a vocabulary that holds every id.
    """
    size = scene.declared.vocab_size
    for tokens in scene.tokens:
        for role, array in (("labels", tokens.labels), ("input_ids", tokens.ids)):
            if array is None:
                continue
            wrong = (array < 0) | (False if size is None else array >= size)
            if role == "labels":
                wrong &= ~ignored_labels(array, scene.declared)
            if not wrong.any():
                continue
            where, bad = _place(wrong), array[wrong]
            low, high = int(bad.min()), int(bad.max())
            span = str(low) if low == high else f"{low} to {high}"
            limit = f"; the vocabulary has {size}" if size is not None and high >= size else ""
            yield Found(
                (tokens.name(role),),
                f"{tokens.name(role)!r} holds {int(wrong.sum())} value(s) that no token has: {span}, at "
                f"{told(where.queries, 'token', 'tokens')} of {told_items(where.batch)}{limit}",
                "use the ignore index of the loss for labels to leave out (declare it with --ignore-index when it is not -100)"
                if role == "labels" and low < 0
                else "use ids from 0 up to the vocabulary's size; resize the embeddings after adding tokens",
                where,
                {"values": int(wrong.sum()), "lowest": low, "highest": high},
            )


_UNKNOWN_IDS = Undecided("the ids that the labels speak of, in the labels' shape")


def _readings(scene: Scene) -> Iterator[Reading]:
    for tokens in scene.tokens:
        if tokens.labels is not None:
            yield _read(tokens, tokens.labels, scene)


def _texts(scene: Scene, kinds: tuple[str, ...] = ("self", "decoder")) -> Iterator[Reading | Undecided]:
    """The labels that are the ids' own text, with a known shift; labels that are another sequence are left out."""
    for reading in _readings(scene):
        if reading.tokens.kind not in kinds:
            continue
        if reading.tokens.ids is None:
            yield _UNKNOWN_IDS
        elif reading.shift is not None:
            yield reading
        elif len(reading.agree) > 1:
            yield Undecided("--loss-shift (the labels fit the ids at more than one shift)")


def _read(tokens: Tokens, labels: Array, scene: Scene) -> Reading:
    declared = scene.declared
    supervised = ~ignored_labels(labels, declared) & (labels >= 0)
    real = tokens.real
    if real is None and tokens.ids is not None:
        real = real_tokens(tokens.ids, declared)
    agree = {} if tokens.ids is None or _encoder(scene) else _agreement(labels, tokens.ids, supervised, real)
    due = {"model": 0, "data": 1}.get(declared.loss_shift or "")
    shift = due if due in agree else next(iter(agree)) if len(agree) == 1 else None
    if shift is not None and shift != due and agree[shift] < (ENOUGH_SHIFTED if shift else ENOUGH):
        shift = None
    return Reading(tokens, labels, supervised, real, agree, shift)


def _agreement(labels: Array, ids: Array, supervised: Array, real: Array | None) -> dict[int, int]:
    """How many supervised labels are the id so many places later, for the shifts at which nearly all are.

    A text ends before padding and, where nothing says what is padding, with its run of labels: what the last label asks for
    need not be there.
    """
    found = {}
    length = labels.shape[1]
    for shift in SHIFTS[:length]:
        here, there = slice(0, length - shift), slice(shift, length)
        compared = supervised[:, here].copy()
        if shift:
            compared &= supervised[:, there] if real is None else real[:, there]
        same = compared & (labels[:, here] == ids[:, there])
        if same.sum() and same.sum() >= SAME_TEXT * compared.sum():
            found[shift] = int(same.sum())
    return found


def _encoder(scene: Scene) -> bool:
    """Whether self-attention was declared to see everything: labels of an encoder stand where their token stands."""
    meant = scene.declared.meant("", "self", None)
    return meant is not None and meant.spec == parse("full")


def _first_dropped(scene: Scene, reading: Reading) -> bool:
    """Whether the loss leaves out the first label, as a decoder that moves the labels itself does."""
    if reading.tokens.kind == "decoder" or scene.declared.loss_shift is not None:
        return reading.tokens.kind != "decoder" and scene.declared.loss_shift == "model"
    return 0 in reading.agree and 1 not in reading.agree


def _supervised_padding(reading: Reading, declared: Declared) -> Array:
    """Labels [B, L] on padding that the loss counts."""
    assert reading.real is not None
    leading, trailing = _edges(~reading.real)
    pads = leading | trailing
    wrong: Array = pads & reading.supervised
    if reading.shift is None:
        # Nothing ties these labels to the tokens: they may be another text, with a padding of its own. One value over all
        # the padding of a row, two or more, is no text.
        last = np.where(pads, reading.labels, reading.labels.min()).max(axis=1, keepdims=True)
        one = ((reading.labels == last) & reading.supervised) | ~pads
        return wrong & (one.all(axis=1) & (pads.sum(axis=1) > 1))[:, None]
    if reading.shift:
        # The label on the last padding before a text asks for the text's first token.
        wrong[:, : -reading.shift] &= pads[:, reading.shift :]
        return wrong
    # When padding and the end (or beginning) of a text share an id, one token of the run may be real.
    end = trailing & ~_later(trailing, 1)
    begin = leading & ~_later(leading[:, ::-1], 1)[:, ::-1]
    if declared.eos_ids:
        wrong &= ~(end & np.isin(reading.labels, declared.eos_ids))
    if declared.bos_ids:
        wrong &= ~(begin & np.isin(reading.labels, declared.bos_ids))
    doubt = end if not declared.eos_ids else np.zeros_like(end)
    if reading.tokens.real is None and not declared.bos_ids:
        doubt = doubt | begin
    return wrong if (wrong & ~doubt).any() else np.zeros_like(wrong)


def _untaught_ends(text: Reading, declared: Declared) -> Array:
    """Real end tokens [B, L] that no label asks for, directly behind a token that one does."""
    ids = text.tokens.ids
    assert ids is not None
    eos = np.isin(ids, declared.eos_ids)
    ends = eos & _later(text.taught & ~eos, 1) & ~text.taught
    if text.tokens.real is not None:
        ends &= text.tokens.real
    return ends & ~_beginnings(text, declared)


def _beginnings(text: Reading, declared: Declared) -> Array:
    """Tokens [B, L] that may begin a text inside a row: the first of a packed document, or a token that begins rows too."""
    ids = text.tokens.ids
    assert ids is not None
    begins = np.zeros(ids.shape, bool)
    if text.tokens.documents is not None:
        begins[:, 1:] = np.diff(text.tokens.documents, axis=1) != 0
        return begins
    known = np.append(ids[np.arange(len(ids)), text.first], declared.bos_ids)
    begins[:, :-1] = np.isin(ids[:, :-1], known) & ~np.isin(ids[:, 1:], declared.eos_ids)
    if text.real is not None:
        begins[:, :-1] &= text.real[:, 1:]
    return begins


def _masked_by_id(text: Reading, declared: Declared) -> Array:
    """End tokens [B, L] that share their id with padding; without a known pad id, all when no label in the batch is an end."""
    ids = text.tokens.ids
    assert ids is not None
    if declared.pad_id is not None:
        return np.asarray(ids == declared.pad_id)
    taught = (text.supervised & np.isin(text.labels, declared.eos_ids)).any()
    return np.full(ids.shape, not taught)


def _untaught_starts(text: Reading, prompt_length: int | None) -> Array:
    """First tokens of an answer [B, L] that no label asks for while one asks for the second."""
    missed = np.zeros(text.labels.shape, bool)
    if prompt_length is None or text.tokens.kind != "self":
        return missed
    taught = text.taught
    start = text.first + prompt_length
    rows = np.flatnonzero(taught.any(axis=1) & (taught.argmax(axis=1) == start + 1))
    missed[rows, start[rows]] = True
    return missed


def _edges(pads: Array) -> tuple[Array, Array]:
    """The leading and the trailing run of padding in each row, bool [B, L]; a row of padding alone is a trailing run."""
    trailing = np.logical_and.accumulate(pads[:, ::-1], axis=1)[:, ::-1]
    return np.logical_and.accumulate(pads, axis=1) & ~trailing, trailing


def _later(flags: Array, places: int) -> Array:
    """Flags [B, L] moved to the right; what comes in is False."""
    moved = np.zeros_like(flags)
    moved[:, places:] = flags[:, : flags.shape[1] - places]
    return moved


def _consequence(places: int, due: int | None) -> str:
    if places == 0:
        return "where nobody moves them (--loss-shift data) each token is asked for itself, and the model learns to copy"
    if places == 2:
        return "whoever moves them once more or not at all, no token is asked for the next one"
    if due == 0:
        return "the model moves them once more (--loss-shift model), so each token is asked for the one after the next"
    return "right when the loss does not move them; a model that does would be asked for the token after the next"


def _place(flags: Array) -> Where:
    """The samples and token positions of flagged cells [B, L]."""
    return Where(items_of(flags.any(axis=1)), None, runs_of(flags.any(axis=0)))


def _ids_at(text: Reading, flags: Array) -> str:
    assert text.tokens.ids is not None
    return ", ".join(str(int(value)) for value in np.unique(text.tokens.ids[flags]))


def _names(reading: Reading, *roles: str) -> tuple[str, ...]:
    return tuple(reading.tokens.name(role) for role in roles)
