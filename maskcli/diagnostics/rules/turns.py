"""Rules on what labels teach of whose turn in a chat: MSK509 to MSK512."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.chats import (
    CHAT,
    Answers,
    Chat,
    answers_in,
    at_maximum,
    behind_thoughts,
    flags_at,
    of_turns,
    to_answer,
)
from maskcli.diagnostics.finding import Found, Undecided, Where
from maskcli.diagnostics.rule import for_each, rule
from maskcli.diagnostics.rules.hits import found_at
from maskcli.diagnostics.supervision import later
from maskcli.meant.facts import Purpose
from maskcli.scene.scene import Scene

# What others wrote, which a model is to read.
PROMPTS = ("system", "user", "tool")


@rule("MSK509", "prompt-turn-supervised", "error", needs=CHAT, explained_by=("MSK102", "MSK505", "MSK514"))
@for_each(to_answer)
def prompt_turn_supervised(chat: Chat, scene: Scene) -> Found | None:
    """The loss counts what the system, the user or a tool says.

    The model then learns to write its users' questions and its tools' results, and to go on with them where
    it should stop. All of it is counted when the chat template has no generation marks or the markers of
    answers were not found; later turns when only the first prompt was cut off.

    In code: `labels = input_ids.clone()` for chats; a mask from the first answer on to the end of the row.

    Fix: count the answers alone. When all of the text is meant to be learnt, say so with --for pretrain.
    """
    split = chat.split
    told = {role: _counted_turns(split.of(role), chat) for role in PROMPTS}
    wrong = np.logical_or.reduce([flags for flags, _ in told.values()])
    if not wrong.any():
        return None
    found = found_at(
        chat.text.names("labels", "input_ids"),
        wrong,
        "turns that the model is to read ({[{system_turns} of a system | {user_turns} of a user | "
        "{tool_turns} of a tool]}) have labels that the loss counts: {}",
        "count the answers alone: mark them in the chat template ({% generation %}), or ignore the labels of "
        "all other turns; if all of it is meant to be learnt, pass --for pretrain",
        tokens=int(wrong.sum()),
        system_turns=told["system"][1],
        user_turns=told["user"][1],
        tool_turns=told["tool"][1],
    )
    # Labels that leave no turn out leave no header out, nor what stands behind an end.
    return replace(found, explains=Where(found.where.batch))


def _counted_turns(of_role: Array, chat: Chat) -> tuple[Array, int]:
    """Tokens [B, L] that labels ask for in turns of a role of whose content some are, and how many turns."""
    taught = chat.text.taught & of_role
    turns = of_turns(taught & chat.split.contents, chat.split)
    begins = turns & ~later(turns, 1) | (turns & (np.diff(chat.split.turn, axis=1, prepend=-2) != 0))
    return taught & turns, int(begins.sum())


@rule(
    "MSK511",
    "turn-end-not-supervised",
    "error",
    needs=CHAT,
    explained_by=("MSK102", "MSK402", "MSK501", "MSK505", "MSK514"),
)
@for_each(to_answer)
def turn_end_not_supervised(chat: Chat, scene: Scene) -> Found | None:
    """The token that ends an assistant's turn is not counted, though the answer is.

    The model is taught every word of the answer but not to hand over: it goes on with a turn of the user. The
    end is the template's, which need not be the tokenizer's end token.

    In code: `{% generation %}{{ content }}{% endgeneration %}<|im_end|>`; a mask that stops with the content;
    labels ignored where ids are the padding's, which ends turns too.

    Fix: let the counted part of every answer reach over the token that ends it.
    """
    taught = chat.text.taught.ravel()
    each = answers_in(chat)
    counted = (each.taught > 0) & (each.end > each.last)
    missed = counted & ~taught[each.end]
    if not missed.any():
        return None
    flags, total = flags_at(each.end[missed], chat.split.turn.shape), int(counted.sum())
    return found_at(
        chat.text.names("labels", "input_ids"),
        flags,
        "{unsupervised_ends} of {answers} counted answers have no label for the token that ends them (id "
        "{ends}): {}",
        "count the token that ends each answer: put it inside of the template's generation marks, or one "
        "further into the mask",
        of_set="{unsupervised_ends} counted answers have no label for the token that ends them (id {ends}): "
        "{}",
        ends=chat.text.ids[flags],
        unsupervised_ends=int(missed.sum()),
        answers=total,
    )


@rule(
    "MSK510",
    "answer-not-supervised",
    "warning",
    needs=CHAT,
    explained_by=("MSK102", "MSK402", "MSK502", "MSK505", "MSK514"),
)
def answer_not_supervised(scene: Scene) -> Iterator[Found | Undecided]:
    """An answer is not counted, or only from its middle on, in a row whose other answers are.

    What is left out is not learnt, though it was meant to be: the mask was made for another text, or stops at
    the first answer that it finds. Where the last answer is counted and whole ones before it are not, that
    may be a choice, and is a note.

    In code: a mask that stands as many tokens late as the prompt lost; labels from the first answer alone.

    Fix: print ids and labels of one such row side by side, and make the mask from the ids that are trained
    on.
    """
    for chat in to_answer(scene):
        if isinstance(chat, Undecided):
            yield chat
            continue
        each = answers_in(chat)
        left, chosen = _left_out(each, chat)
        late = each.headed & (each.begin > each.first + 1) & ~behind_thoughts(each, chat, scene)
        for answers, stop, message, fix, severity in (
            (late, each.begin, *_LATE, None),
            (left, each.last + 1, *_LEFT, None),
            (chosen, each.last + 1, *_CHOSEN, "note"),
        ):
            if answers.any():
                names = chat.text.names("labels", "input_ids")
                flags = _until(each, answers, stop, chat)
                yield found_at(names, flags, message, fix, severity, answers=int(answers.sum()))


_LATE = (
    "answers ({answers}) are counted only from their middle on: no label for {}",
    "make the mask from the very ids that are trained on",
)
_LEFT = (
    "answers ({answers}) are not counted beside others that are: no label for {}",
    "make the mask for every answer of a conversation, not for the first alone",
)
_CHOSEN = (
    "answers before the last one ({answers}) are not counted: no label for {}",
    "nothing, if only the last answers are to be learnt; else count all of them",
)


def _left_out(each: Answers, chat: Chat) -> tuple[Array, Array]:
    """Answers [N] that are not counted beside others that are: those that may be a mistake, and those that
    look chosen, as the last one of their row is counted.

    An answer that its row cuts off is left out with reason.
    """
    rows = len(chat.split.turn)
    counted = np.bincount(each.row[each.taught > 0], minlength=rows) > 0
    spoken = np.flatnonzero(each.said > 0)
    last = np.full(rows, -1)
    last[each.row[spoken]] = spoken
    last_counted = each.taught[last[each.row]] > 0
    is_last = last[each.row] == np.arange(len(each.row))
    missing = (each.said > 0) & (each.taught == 0) & counted[each.row]
    missing &= ~(is_last & (each.end < 0))
    return missing & ~last_counted, missing & last_counted


def _until(each: Answers, chosen: Array, stop: Array, chat: Chat) -> Array:
    """Tokens [B, L] of contents of chosen answers, before the place [N] where they stop."""
    shape = chat.split.turn.shape
    change = np.zeros(int(np.prod(shape)) + 1, np.int64)
    change[each.first[chosen]] += 1
    change[stop[chosen]] -= 1
    inside: Array = np.cumsum(change)[:-1].reshape(shape) > 0
    return inside


@rule(
    "MSK512",
    "header-supervised",
    "warning",
    needs=CHAT,
    explained_by=("MSK102", "MSK505", "MSK509", "MSK514"),
)
def header_supervised(scene: Scene) -> Iterator[Found | Undecided]:
    """What begins an assistant's turn is counted, or stands unanswered at the end of a row.

    A program writes it before every answer, so there is nothing to learn; at the end of a row the model
    learns to begin a turn again after its answer. A template whose own marks hold it is no fault.

    In code: `apply_chat_template(messages, add_generation_prompt=True)` for texts to train on; a mask from
    the assistant's header on.

    Fix: render texts to train on without a generation prompt, and count answers from behind the header.
    """
    for chat in to_answer(scene):
        if isinstance(chat, Undecided):
            yield chat
            continue
        prompt = _unanswered(chat, scene)
        if prompt.any():
            yield found_at(
                chat.text.names("labels", "input_ids"),
                prompt,
                "a generation prompt stands at the end of {items}, and no answer to it: {}",
                "render texts to train on with add_generation_prompt=False",
                samples=int(prompt.any(axis=1).sum()),
                counted=int((prompt & chat.text.taught).sum()),
            )
        counted = _counted_headers(chat, scene) & ~prompt
        if counted.any():
            yield found_at(
                chat.text.names("labels", "input_ids"),
                counted,
                "the headers of answers ({turns}) have labels that the loss counts: {}",
                "count each answer from its first token on, behind the header",
                turns=int((counted & ~later(counted, 1)).sum()),
            )


def _unanswered(chat: Chat, scene: Scene) -> Array:
    """Headers [B, L] of assistants' turns with which rows end that nothing cut off, or generation prompts,
    which may begin a thought too.
    """
    last, split = chat.last, chat.split
    prompted = _ends_in_prompt(chat, scene)
    rows = (last.headers | prompted) & last.of("assistant") & np.any(chat.text.supervised, axis=1)
    rows &= ~at_maximum(chat.text, scene.declared)
    if scene.declared.purpose == Purpose.generate.value:
        rows[:] = False
    asked = split.headers | prompted[:, None]
    return np.asarray(asked & (split.turn == np.where(rows, last.turn, -2)[:, None]))


def _ends_in_prompt(chat: Chat, scene: Scene) -> Array:
    """Rows [B] whose ids end as a generation prompt does, but for what labels that the data moved ask for."""
    ids, real = chat.text.ids, chat.text.no_padding
    prompt = () if scene.declared.turns is None else scene.declared.turns.prompt
    prompt = prompt[: len(prompt) - (chat.text.shift or 0)]
    if not prompt:
        return np.zeros(len(ids), bool)
    stop = ids.shape[1] - real[:, ::-1].argmax(axis=1)
    places = stop[:, None] - np.arange(len(prompt), 0, -1)
    there = np.take_along_axis(ids, np.maximum(places, 0), axis=1)
    ends: Array = np.all((there == prompt) & (places >= 0), axis=1)
    return ends


def _counted_headers(chat: Chat, scene: Scene) -> Array:
    """Counted tokens [B, L] of assistants' headers whose first is counted, where another's turn is before.

    An assistant's turn behind another of its own is begun by the model itself.
    """
    turns, split, taught = scene.declared.turns, chat.split, chat.text.taught
    if turns is None or (turns.marks is not None and turns.marks.headers):
        return np.zeros(taught.shape, bool)
    own = split.of("assistant")
    header = own & split.headers
    return taught & header & of_turns(taught & header & ~later(own, 1), split)
