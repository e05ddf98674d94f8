"""Rules on what labels teach of an answer, from its first word to its end: MSK501, 504, 506, 507, 513."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided, Where, items_of
from maskcli.diagnostics.needs import TEXT
from maskcli.diagnostics.rule import for_each, rule
from maskcli.diagnostics.rules.hits import found_at
from maskcli.diagnostics.supervision import UNKNOWN_IDS, Reading, later, prompt_lengths, readings, texts
from maskcli.diagnostics.words import few
from maskcli.meant.facts import Declared
from maskcli.padding import edge_padding, one_of
from maskcli.scene.scene import Scene

# Loss masks that by their name keep what a model is to write.
OF_ANSWERS = frozenset(
    """assistant_mask assistant_masks assistant_tokens_mask completion_mask completion_masks
    completion_loss_mask response_mask response_masks""".split()
)
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


@rule(
    "MSK504", "prompt-supervised", "warning", needs=(*TEXT, ("prompt_length", "prompt_lengths", "loss_mask"))
)
@for_each(texts)
def prompt_supervised(text: Reading, scene: Scene) -> Found | None:
    """Tokens of the prompt are supervised, though prompts were declared, or a mask of answers is there.

    The model then learns to write prompts too, and long prompts outweigh the answers. That can be a choice;
    with a declared prompt length it is not, nor with a mask that by its name keeps answers alone.

    In code: `labels = input_ids.clone()` without `labels[:, :prompt_length] = -100`.

    Fix: ignore the labels of the prompt, counted from the first real token of each row.
    """
    if text.tokens.kind != "self":
        return None
    lengths = prompt_lengths(text, scene.declared)
    if lengths is None:
        return _whole_rows_counted(text)
    # Nothing comes before the first token that could be asked for it: its label does not count.
    begin, at = text.first[:, None], np.arange(text.labels.shape[1])
    wrong = text.taught & (at > begin) & (at < begin + lengths[:, None])
    if not wrong.any():
        return None
    length = int(lengths[wrong.any(axis=1)][0])
    return found_at(
        text.names("labels", "input_ids"),
        wrong,
        f"{int(wrong.sum())} tokens of the prompt (the first {few(lengths)}) have a label that the loss "
        "counts: {}",
        "set the labels of the prompt to the ignore index",
        prompt_tokens=int(wrong.sum()),
        prompt_length=length,
    )


def _whole_rows_counted(text: Reading) -> Found | None:
    """A mask of answers that leaves nothing out, in any sample from the first token on."""
    counted, name = text.tokens.counted, text.tokens.names.get("loss_mask", "")
    if counted is None or name.rpartition(".")[2] not in OF_ANSWERS or text.tokens.documents is not None:
        return None
    real = np.ones(counted.shape, bool) if text.real is None else text.real
    if not np.array_equal(counted != 0, real) or not real.any():
        return None
    return found_at(
        (name, text.tokens.name("input_ids")),
        real,
        f"{name!r} counts all of every sample, prompts as well as answers: {{}}",
        "make it 1 on answers alone: the chat template has no generation marks, or they were not found",
        prompt_tokens=int(real.sum()),
        prompt_length=0,
    )


@rule("MSK506", "label-border", "warning", needs=TEXT, explained_by=("MSK102",))
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
        yield from _lost_labels(text, declared)
        prompts = prompt_lengths(text, declared)
        late = _untaught_starts(text, prompts)
        if late.any() and prompts is not None:
            message = (
                f"the supervised answer starts one token late (the prompt is the first {few(prompts)}): no "
                "label for {}"
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


def _lost_labels(text: Reading, declared: Declared) -> Iterator[Found]:
    """Labels that are missing where rows are cut, or at the start of what a decoder writes."""
    lost, parts = _lost_in_shards(text, declared)
    if parts:
        yield found_at(
            text.names("labels", "input_ids"),
            lost,
            f"a label is lost at every border of {parts} equal parts of the row: no label for {{}}",
            "move the labels of the whole row first, and cut it for the ranks afterwards",
            lost_labels=int(lost.sum()),
        )
    first = _first_target(text)
    if first.any():
        yield found_at(
            text.names("labels"),
            first,
            "the first token that the decoder writes has no label, in every sample: {}",
            "label it too: the start in front of the labels is put there by the model",
            late_starts=int(first.sum()),
        )


def _lost_in_shards(text: Reading, declared: Declared) -> tuple[Array, int]:
    """Tokens [B, L] without a label, between two that have one, at each border of equal parts of the row.

    Where ranks of a parallel run move labels part by part, the last of each part asks for nothing.
    """
    length, none = text.labels.shape[1], np.zeros(text.labels.shape, bool)
    if text.shift != 1:
        return none, 0
    taught, gap = text.taught, none.copy()
    gap[:, 1:-1] = ~taught[:, 1:-1] & taught[:, :-2] & taught[:, 2:]
    # The first token of a packed text need not be asked for.
    gap[:, 1:] &= ~one_of(text.ids[:, :-1], declared.eos_ids) & ~one_of(text.ids[:, 1:], declared.bos_ids)
    if text.tokens.documents is not None:
        gap[:, 1:] &= np.diff(text.tokens.documents, axis=1) == 0
    powers = 2 ** np.arange(1, max(length.bit_length() - 1, 1))
    for parts in powers[(length % powers == 0) & (powers <= length // 2)][::-1].tolist():
        borders = np.arange(1, parts) * (length // parts)
        within = taught[:, borders - 1] & taught[:, borders + 1]
        if within.sum() > 1 and (gap[:, borders] == within).all():
            none[:, borders] = gap[:, borders]
            return none, parts
    return none, 0


def _first_target(text: Reading) -> Array:
    """The first label [B, L] of a decoder's, where it alone is ignored in every sample."""
    first = np.zeros(text.labels.shape, bool)
    if text.tokens.kind == "decoder" and text.labels.shape[1] > 1:
        first[:, 0] = (~text.supervised[:, 0] & text.supervised[:, 1]).all()
    return first


_BORDER = "build the labels from the ids first, then move ids and loss mask together"


@rule("MSK513", "trained-past-the-end", "warning", needs=(*TEXT, "eos_id"), explained_by=("MSK102", "MSK505"))
@for_each(texts)
def trained_past_the_end(text: Reading, scene: Scene) -> Found | None:
    """Tokens behind the end of a text are supervised, or its end stands twice.

    The model learns to go on where it should stop: with a line break, another end, or the beginning of a
    turn that nobody takes.

    In code: a template that writes a line break behind its end token; `text + eos_token` for a template that
    has written it already.

    Fix: end the labels at the first end token of the answer.
    """
    behind = _behind_ends(text, scene.declared)
    if not behind.any():
        return None
    twice = behind & one_of(text.ids, scene.declared.eos_ids)
    what = "the end of the text stands twice, and the second" if twice.any() else "what stands behind the end"
    return found_at(
        text.names("labels", "input_ids"),
        behind,
        f"{what} (id {few(text.ids[behind])}) has a label that the loss counts: {{}}",
        "ignore the labels behind the first end token, and write it in one place",
        tokens=int(behind.sum()),
        second_ends=int(twice.sum()),
    )


def _behind_ends(text: Reading, declared: Declared) -> Array:
    """Supervised tokens [B, L] behind the last end of rows, few of them, that nothing follows.

    What follows the last end of a full row may be the beginning of a text that was cut. An end that begins
    texts too stands twice between two of them.
    """
    taught, length = text.taught, text.labels.shape[1]
    ends = taught & one_of(text.ids, declared.eos_ids)
    again = np.zeros(ends.shape, bool)
    again[:, 1:] = ends[:, 1:] & ends[:, :-1] & (text.ids[:, 1:] == text.ids[:, :-1])
    again &= ~one_of(text.ids, declared.bos_ids)
    columns = np.arange(length)
    at = length - 1 - (ends & ~again)[:, ::-1].argmax(axis=1)
    tail = taught & (columns > at[:, None])
    if text.real is not None:
        tail &= text.real
    count = tail.sum(axis=1)
    stop = length - 1 - tail[:, ::-1].argmax(axis=1)
    unbroken = (count > 0) & (count == stop - at) & (count <= BEHIND)
    nothing_more = np.ones(len(tail), bool)
    if text.real is not None:
        nothing_more = ~np.any(text.real & (columns > stop[:, None]), axis=1)
    certain = (count == 1) & (again & tail).any(axis=1) if declared.bos_ids else np.zeros(len(tail), bool)
    cut = _fills_its_place(text) & ~certain
    # One end alone is a text of nothing; ends that begin texts too may begin one.
    said = taught[np.arange(len(at)), np.maximum(at - 1, 0)] & (at > 0) & ends.any(axis=1)
    flags: Array = tail & (unbroken & nothing_more & ~cut & said)[:, None]
    return flags


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
    reading = reading.in_place
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
    eos = one_of(text.ids, declared.eos_ids)
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
    first_ids, ends = np.unique(known).tolist(), one_of(text.ids, declared.eos_ids)
    begins[:, :-1] = one_of(text.ids[:, :-1], first_ids) & ~ends[:, 1:]
    if text.real is not None:
        begins[:, :-1] &= text.real[:, 1:]
    return begins


def _masked_by_id(text: Reading, declared: Declared) -> Array:
    """Tokens [B, L] with the id of padding; without a known pad id all, unless some label is an end token."""
    if declared.pad_id is not None:
        return np.asarray(text.ids == declared.pad_id)
    return np.full(text.ids.shape, not text.asks_for(declared.eos_ids).any())


def _untaught_starts(text: Reading, prompts: Array | None) -> Array:
    """First tokens of an answer [B, L] that no label asks for while one asks for the second."""
    missed = np.zeros(text.labels.shape, bool)
    if prompts is not None and text.tokens.kind == "self":
        start = text.first + prompts
        rows = np.flatnonzero(text.taught.any(axis=1) & (text.taught.argmax(axis=1) == start + 1))
        missed[rows, start[rows]] = True
    return missed
