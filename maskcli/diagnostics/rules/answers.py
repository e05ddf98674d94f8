"""Rules on what labels teach of an answer, from its first word to its end: MSK501, MSK504, MSK506, MSK507."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided, Where, items_of
from maskcli.diagnostics.needs import TEXT
from maskcli.diagnostics.rule import for_each, rule
from maskcli.diagnostics.rules.hits import found_at
from maskcli.diagnostics.supervision import UNKNOWN_IDS, Reading, later, readings, texts
from maskcli.diagnostics.words import few
from maskcli.meant.facts import Declared
from maskcli.padding import edge_padding
from maskcli.scene.scene import Scene


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
    missed = _untaught_ends(text, declared) & _masked_by_id(text, declared)
    if not missed.any():
        return None
    return found_at(
        text.names("labels", "input_ids"),
        missed,
        f"the end token (id {few(text.ids[missed])}) behind a supervised answer has an ignored label at "
        "{}: the model is never taught to stop there",
        _fix_of_ends(text, missed),
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


@rule("MSK504", "prompt-supervised", "warning", needs=(*TEXT, "prompt_length"))
@for_each(texts)
def prompt_supervised(text: Reading, scene: Scene) -> Found | None:
    """Tokens of the prompt are supervised, though a prompt length was declared.

    The model then learns to write prompts too, and long prompts outweigh the answers. That can be a choice;
    with a declared prompt length it is not.

    In code: `labels = input_ids.clone()` without `labels[:, :prompt_length] = -100`.

    Fix: ignore the labels of the prompt, counted from the first real token of each row.
    """
    if text.tokens.kind != "self":
        return None
    # Nothing comes before the first token that could be asked for it: its label does not count.
    length, begin = scene.declared.prompt_length or 0, text.first[:, None]
    at = np.arange(text.labels.shape[1])
    wrong = text.taught & (at > begin) & (at < begin + length)
    if not wrong.any():
        return None
    return found_at(
        text.names("labels", "input_ids"),
        wrong,
        f"{int(wrong.sum())} tokens of the prompt (the first {length}) have a label that the loss counts: "
        "{}",
        "set the labels of the prompt to the ignore index",
        prompt_tokens=int(wrong.sum()),
        prompt_length=length,
    )


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
    declared, prompt = scene.declared, scene.declared.prompt_length
    for text in texts(scene):
        if isinstance(text, Undecided):
            yield text
            continue
        late = _untaught_starts(text, prompt)
        if late.any():
            message = (
                f"the supervised answer starts one token late (the prompt is the first {prompt}): no label "
                "for {}"
            )
            yield found_at(
                text.names("labels", "input_ids"), late, message, _BORDER, late_starts=int(late.sum())
            )
        early = _untaught_ends(text, declared) & ~_masked_by_id(text, declared)
        if early.any():
            message = (
                "the supervised answer ends one token early: no label for its end token (id "
                f"{few(text.ids[early])}), {{}}"
            )
            yield found_at(
                text.names("labels", "input_ids"), early, message, _BORDER, early_ends=int(early.sum())
            )


_BORDER = "build the labels from the ids first, then move ids and loss mask together"


@rule(
    "MSK507",
    "eos-missing",
    "warning",
    needs=(*TEXT, "eos_id"),
    explained_by=("MSK102", "MSK402", "MSK501", "MSK506"),
)
@for_each(readings)
def eos_missing(reading: Reading, scene: Scene) -> Found | Undecided | None:
    """No sample has a supervised end token.

    A model that never sees a text end does not stop by itself. Either the template does not write the end
    token, or every text was cut at the maximum length before it.

    In code: a chat template without `eos_token`, `tokenizer(text)` of a tokenizer that does not append it,
    `max_length` too small.

    Fix: append the end token to every answer before truncation, and drop or shorten texts that do not fit.
    """
    if reading.tokens.ids is None:
        return UNKNOWN_IDS
    eos, rows = scene.declared.eos_ids, np.any(reading.supervised, axis=1)
    if not reading.same_text or not rows.any() or reading.asks_for(eos).any():
        return None

    full, count, length = _fills_its_place(reading), int(rows.sum()), reading.labels.shape[1]
    cause, fix = "template", "append the end token to every answer"
    ends = (
        f"{int((rows & ~full).sum())} of {count} supervised samples end before the maximum of {length} "
        "places without one, so the template does not write it"
    )
    if full[rows].all():
        cause, fix = "truncation", "raise the maximum length, or leave out texts that do not fit"
        ends = f"all {count} supervised samples fill all {length} places, so their ends may be cut off"
    # Rows cut out of one long text (as nanoGPT does) need not hold an end; they have labels everywhere.
    stream = reading.shift == 1 and bool(reading.supervised[:, :-1].all())
    return Found(
        reading.names("labels", "input_ids"),
        f"no supervised label is the end token (id {', '.join(map(str, eos))}): {ends}",
        fix,
        Where(items_of(rows)),
        {"samples": count, "full_samples": int(full[rows].sum()), "cause": cause},
        "note" if stream and cause == "truncation" else None,
    )


def _fills_its_place(reading: Reading) -> Array:
    """Rows [B] without padding and with a label at their end, so that something may have been cut off."""
    # Ignored labels at the end of a row may stand for padding. The last of labels that the data moved asks
    # for a token that is not there, and may be ignored as well.
    full: Array = np.any(reading.supervised[:, -1 - (reading.shift or 0) :], axis=1)
    return full if reading.real is None else full & np.all(reading.real, axis=1)


def _untaught_ends(text: Reading, declared: Declared) -> Array:
    """Real end tokens [B, L] that no label asks for, directly behind a token that one does."""
    eos = np.isin(text.ids, declared.eos_ids)
    ends = eos & later(text.taught & ~eos, 1) & ~text.taught & ~_beginnings(text, declared)
    real = text.tokens.real
    if real is None:
        return ends
    return ends & (real | _ends_masked_by_id(text, real, declared))


def _ends_masked_by_id(text: Reading, real: Array, declared: Declared) -> Array:
    """The first of each trailing run of the end's id, bool [B, L], where the mask hides that id everywhere.

    Padding of that id is behind all of them unless some row is so long that it ends in another: the longest
    text of a batch needs no padding, so its last token is its end.
    """
    none = np.zeros(real.shape, bool)
    last = np.unique(text.ids[:, -1])
    end, known = int(last[0]), (None, *declared.eos_ids)
    if len(last) > 1 or end not in declared.eos_ids or declared.pad_id not in known:
        return none
    if (real & (text.ids == end)).any():
        return none
    first: Array = edge_padding(text.ids, end, (), (end,)) & (text.ids == end) & ~real
    return first


def _beginnings(text: Reading, declared: Declared) -> Array:
    """Tokens [B, L] that may begin a text in a row: a document's first, or one that begins rows."""
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
    """Tokens [B, L] with the id of padding; without a known pad id all, unless some label is an end token."""
    if declared.pad_id is not None:
        return np.asarray(text.ids == declared.pad_id)
    return np.full(text.ids.shape, not text.asks_for(declared.eos_ids).any())


def _untaught_starts(text: Reading, prompt_length: int | None) -> Array:
    """First tokens of an answer [B, L] that no label asks for while one asks for the second."""
    missed = np.zeros(text.labels.shape, bool)
    if prompt_length is not None and text.tokens.kind == "self":
        start = text.first + prompt_length
        rows = np.flatnonzero(text.taught.any(axis=1) & (text.taught.argmax(axis=1) == start + 1))
        missed[rows, start[rows]] = True
    return missed
