"""Rules on what labels teach of whose turn in a chat: MSK509 and MSK511."""

from __future__ import annotations

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.chats import Chat, answers_in, flags_at, to_answer
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.needs import TEXT
from maskcli.diagnostics.rule import for_each, rule
from maskcli.diagnostics.rules.hits import found_at
from maskcli.diagnostics.words import few
from maskcli.scene.scene import Scene

CHAT = (*TEXT, "turns")
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
    split, taught = chat.split, chat.text.taught
    told = {role: _counted_turns(split.of(role), chat) for role in PROMPTS}
    wrong = np.logical_or.reduce([flags for flags, _ in told.values()])
    if not wrong.any():
        return None
    counts = {role: count for role, (_, count) in told.items()}
    whose = ", ".join(f"{role} {count}" for role, count in counts.items() if count)
    tokens, turns = int(wrong.sum()), sum(counts.values())
    return found_at(
        chat.text.names("labels", "input_ids"),
        wrong,
        f"{tokens} tokens of {turns} turns ({whose}) have a label that the loss counts: {{}}",
        _SOME if (_askable(chat) & ~taught).any() else _EVERYTHING,
        tokens=tokens,
        turns=turns,
        system_turns=counts["system"],
        user_turns=counts["user"],
        tool_turns=counts["tool"],
    )


_EVERYTHING = (
    "nothing is left out: mark the answers in the chat template ({% generation %}), or cut the labels by its "
    "markers; if all of it is meant to be learnt, pass --for pretrain"
)
_SOME = "set the labels of every turn but the assistant's to the ignore index, the later ones too"


def _askable(chat: Chat) -> Array:
    """Tokens of turns [B, L] that a label can ask for: all but the first of a row."""
    behind_first = np.arange(chat.split.turn.shape[1]) > chat.text.first[:, None]
    inside: Array = (chat.split.turn >= 0) & behind_first
    return inside


def _counted_turns(of_role: Array, chat: Chat) -> tuple[Array, int]:
    """Tokens [B, L] that labels ask for in turns of a role of whose content some are, and how many turns."""
    taught, turn = chat.text.taught & of_role, chat.split.turn
    row, place = np.nonzero(taught & chat.split.contents)
    if not len(row):
        return np.zeros(taught.shape, bool), 0
    size = int(turn.max()) + 1
    known = np.zeros((len(turn), size), bool)
    known[row, turn[row, place]] = True
    return taught & np.take_along_axis(known, np.maximum(turn, 0), axis=1), int(known.sum())


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
        f"{int(missed.sum())} of {total} counted answers have no label for the token that ends them (id "
        f"{few(chat.text.ids[flags])}): {{}}",
        "count the token that ends each answer: put it inside of the template's generation marks, or one "
        "further into the mask",
        unsupervised_ends=int(missed.sum()),
        answers=total,
    )
