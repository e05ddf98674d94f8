"""Rules on where the labels of an answer begin and stop: MSK504 and MSK506."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.chats import answers_in, behind_thoughts, chat_of, flags_at
from maskcli.diagnostics.finding import Contrary, Found, Undecided
from maskcli.diagnostics.needs import TEXT
from maskcli.diagnostics.rule import for_each, rule
from maskcli.diagnostics.rules.endings import masked_by_id, untaught_ends
from maskcli.diagnostics.rules.hits import found_at
from maskcli.diagnostics.supervision import Reading, prompt_lengths, texts, trains_on_all
from maskcli.meant.facts import Declared
from maskcli.padding import one_of
from maskcli.scene.scene import Scene

# Loss masks that by their name keep what a model is to write.
OF_ANSWERS = frozenset(
    """assistant_mask assistant_masks assistant_tokens_mask completion_mask completion_masks
    completion_loss_mask response_mask response_masks""".split()
)


@rule(
    "MSK504",
    "prompt-supervised",
    "warning",
    needs=(*TEXT, ("prompt_length", "prompt_lengths", "loss_mask")),
    explained_by=("MSK509",),
)
@for_each(texts)
def prompt_supervised(text: Reading, scene: Scene) -> Found | Contrary | None:
    """Tokens of the prompt are supervised, though prompts were declared, or a mask of answers is there.

    The model then learns to write prompts too, and long prompts outweigh the answers. That can be a choice;
    with a declared prompt length it is not, nor with a mask that by its name keeps answers alone.

    In code: `labels = input_ids.clone()` without `labels[:, :prompt_length] = -100`.

    Fix: ignore the labels of the prompt, counted from the first real token of each row.
    """
    if text.tokens.kind != "self" or trains_on_all(scene.declared):
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
        "{prompt_tokens} tokens of the prompt (the first {lengths}) have a label that the loss counts: {}",
        "set the labels of the prompt to the ignore index",
        lengths=lengths[wrong.any(axis=1)],
        prompt_tokens=int(wrong.sum()),
        prompt_length=length,
    )


def _whole_rows_counted(text: Reading) -> Found | Contrary | None:
    """A mask of answers that leaves nothing out, in any sample from the first token on."""
    counted, name = text.tokens.counted, text.tokens.names.get("loss_mask", "")
    if counted is None or name.rpartition(".")[2] not in OF_ANSWERS or text.tokens.documents is not None:
        return None
    real = np.ones(counted.shape, bool) if text.real is None else text.real
    if not np.array_equal(counted != 0, real):
        return Contrary()
    if not real.any():
        return None
    found = found_at(
        (name, text.tokens.name("input_ids")),
        real,
        f"{name!r} counts all of every sample, prompts as well as answers: {{}}",
        "make it 1 on answers alone: the chat template has no generation marks, or they were not found",
        prompt_tokens=int(real.sum()),
        prompt_length=0,
    )
    return replace(found, of_all=True)


@rule("MSK506", "label-border", "warning", needs=TEXT, explained_by=("MSK102", "MSK509", "MSK511"))
def label_border(scene: Scene) -> Iterator[Found | Undecided | Contrary]:
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
        yield from _late_answers(text, scene)
        early = untaught_ends(text, scene)
        if early.any():
            early &= ~masked_by_id(text, declared)
        if early.any():
            yield found_at(
                text.names("labels", "input_ids"),
                early,
                "the supervised answer ends one token early: no label for its end token (id {ends}), {}",
                _BORDER,
                ends=text.ids[early],
                early_ends=int(early.sum()),
            )


def _late_answers(text: Reading, scene: Scene) -> Iterator[Found]:
    """Answers whose first token has no label: those of a chat, else what follows the prompts."""
    prompts, chat = prompt_lengths(text, scene.declared), chat_of(text, scene)
    late, told = _untaught_starts(text, prompts), " (the prompt is the first {prompts})"
    if prompts is None or not late.any():
        if chat is None or trains_on_all(scene.declared):
            return
        prompts, told = np.zeros(0, np.int64), ""
        each = answers_in(chat)
        missed = (each.said > 1) & (each.begin == each.first + 1) & ~behind_thoughts(each, chat, scene)
        late = flags_at(each.first[missed], text.labels.shape)
    if late.any():
        yield found_at(
            text.names("labels", "input_ids"),
            late,
            f"the supervised answer starts one token late{told}: no label for {{}}",
            _BORDER,
            prompts=prompts,
            late_starts=int(late.sum()),
        )


def _lost_labels(text: Reading, declared: Declared) -> Iterator[Found | Contrary]:
    """Labels that are missing where rows are cut, or at the start of what a decoder writes."""
    lost, parts = _lost_in_shards(text, declared)
    if parts:
        yield found_at(
            text.names("labels", "input_ids"),
            lost,
            "a label is lost at every border of {parts} equal parts of the row: no label for {}",
            "move the labels of the whole row first, and cut it for the ranks afterwards",
            parts=parts,
            lost_labels=int(lost.sum()),
        )
    first = _first_target(text)
    if first.any():
        found = found_at(
            text.names("labels"),
            first,
            "the first token that the decoder writes has no label, in every sample: {}",
            "label it too: the start in front of the labels is put there by the model",
            late_starts=int(first.sum()),
        )
        yield replace(found, of_all=True)
    elif text.tokens.kind == "decoder":
        yield Contrary()


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
        rows = (within.sum(axis=1) > 1) & (gap[:, borders] == within).all(axis=1)
        if rows.any():
            none[:, borders] = gap[:, borders] & rows[:, None]
            return none, parts
    return none, 0


def _first_target(text: Reading) -> Array:
    """The first label [B, L] of a decoder's, where it alone is ignored in every sample."""
    first = np.zeros(text.labels.shape, bool)
    if text.tokens.kind == "decoder" and text.labels.shape[1] > 1:
        first[:, 0] = (~text.supervised[:, 0] & text.supervised[:, 1]).all()
    return first


_BORDER = "build the labels from the ids first, then move ids and loss mask together"


def _untaught_starts(text: Reading, prompts: Array | None) -> Array:
    """First tokens of an answer [B, L] that no label asks for while one asks for the second."""
    missed = np.zeros(text.labels.shape, bool)
    if prompts is not None and text.tokens.kind == "self":
        start = text.first + prompts
        rows = np.flatnonzero(text.taught.any(axis=1) & (text.taught.argmax(axis=1) == start + 1))
        missed[rows, start[rows]] = True
    return missed
