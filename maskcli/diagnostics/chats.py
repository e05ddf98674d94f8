"""Labels beside the turns of chats: which tokens of whose turn the loss counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Undecided
from maskcli.diagnostics.supervision import Reading, texts, trains_on_all
from maskcli.padding import one_of
from maskcli.scene.scene import Scene, once

# A scene without a tokenizer has no use for the room of texts.
if TYPE_CHECKING:
    from maskcli.text.splitting import Split
    from maskcli.text.turns import Turns

# The side whose template a tokenizer has: an encoder-decoder's texts are no chats.
SIDE = "self"
NO_TURNS = Undecided("ids in which the markers of --tokenizer's chat template (or of --turn) stand")


class Chat(NamedTuple):
    """Labels that are the text of their ids [B, L], and the turns of these, which padding is none of.

    `last` tells of each row's last token [B], which labels that the data moved know beyond the ids.
    """

    text: Reading
    split: Split
    last: Split


class Answers(NamedTuple):
    """The assistants' turns of a batch, one after the other [N].

    `row` is where each stands. `said` counts the tokens of its content and `taught` those that labels ask
    for; `first` and `last` are their places, `begin` that of the first one asked for, `end` that of the
    token that ends the turn, all in the flattened batch; -1 for none.
    """

    row: Array
    said: Array
    taught: Array
    first: Array
    last: Array
    begin: Array
    end: Array


@once
def chats(scene: Scene) -> tuple[Chat | Undecided, ...]:
    """The chats among labelled texts, or what would tell them."""
    return tuple(_chats(scene))


def _chats(scene: Scene) -> Iterator[Chat | Undecided]:
    for text in texts(scene):
        if isinstance(text, Undecided):
            yield text
        elif text.tokens.kind == SIDE:
            yield _chat(text, scene)


def to_answer(scene: Scene) -> tuple[Chat | Undecided, ...]:
    """The chats of which a model is to learn the answers; none where all of every text is to be learnt."""
    return () if trains_on_all(scene.declared) else chats(scene)


def chat_of(text: Reading, scene: Scene) -> Chat | None:
    """The turns of a text, where something tells them."""
    if scene.declared.chat is None:
        return None
    known = (chat for chat in chats(scene) if isinstance(chat, Chat))
    return next((chat for chat in known if chat.text.labels is text.labels), None)


def ends_in(text: Reading, scene: Scene) -> Array:
    """Tokens that end a text or an answer [B, L], by their id or by the chat's turns."""
    ends, chat = one_of(text.ids, scene.declared.eos_ids), chat_of(text, scene)
    if chat is not None:
        own = chat.split.ends & chat.split.of("assistant")
        own[:, :-1] &= ~own[:, 1:]
        ends |= own
    return ends


def _chat(text: Reading, scene: Scene) -> Chat | Undecided:
    turns, refusal = scene.declared.learnt
    if turns is None:
        return Undecided(f"turns of the chat template ({refusal})")
    split, last = _split(text, turns)
    return Chat(text, split, last) if (split.turn >= 0).any() else NO_TURNS


def _split(text: Reading, turns: Turns) -> tuple[Split, Split]:
    """The turns of the ids, and where each row stops.

    Labels that the data moved know one token more than the ids: it may be the last one's end.
    """
    length, shift = text.labels.shape[1], text.shift or 0
    beyond, known = text.labels[:, length - shift :], text.supervised[:, length - shift :]
    real = np.ones(text.labels.shape, bool) if text.real is None else text.real
    real = np.concatenate([real, known & real[:, -1:]], axis=1)
    split = turns.split(np.concatenate([text.ids, np.where(known, beyond, -1)], axis=1)).within(real)

    last = real.shape[1] - 1 - real[:, ::-1].argmax(axis=1)
    return split.at(slice(None), slice(length)), split.at(np.arange(len(last)), last)


def answers_in(chat: Chat) -> Answers:
    """The assistants' turns of a chat."""
    split, taught = chat.split, chat.text.taught.ravel()
    at = np.flatnonzero(split.of("assistant") & (split.turn >= 0))
    length = split.turn.shape[1]
    turn, row = split.turn.ravel()[at], at // length
    starts = np.flatnonzero(np.r_[True, (turn[1:] != turn[:-1]) | (row[1:] != row[:-1])][: len(at)])
    content, ends = split.contents.ravel()[at], split.ends.ravel()[at]
    asked = content & taught[at]

    def first(flags: Array) -> Array:
        nowhere = split.turn.size
        found = np.minimum.reduceat(np.where(flags, at, nowhere), starts) if len(at) else at
        return np.where(found == nowhere, -1, found)

    def last(flags: Array) -> Array:
        return np.maximum.reduceat(np.where(flags, at, -1), starts) if len(at) else at

    def count(flags: Array) -> Array:
        return np.add.reduceat(flags.astype(np.int64), starts) if len(at) else at

    return Answers(
        row[starts], count(content), count(asked), first(content), last(content), first(asked), last(ends)
    )


def flags_at(places: Array, shape: tuple[int, ...]) -> Array:
    """Flags [B, L] at places of the flattened batch."""
    flags = np.zeros(int(np.prod(shape)), bool)
    flags[places] = True
    return flags.reshape(shape)
