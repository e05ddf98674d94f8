"""Labels beside the turns of chats: which tokens of whose turn the loss counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Undecided
from maskcli.diagnostics.needs import TEXT
from maskcli.diagnostics.supervision import Reading, texts, trains_on_all
from maskcli.meant.facts import Declared
from maskcli.padding import one_of
from maskcli.scene.scene import Scene, once

# A scene without a tokenizer has no use for the room of texts.
if TYPE_CHECKING:
    from maskcli.text.splitting import Split
    from maskcli.text.turns import Turns

# What rules on the turns of chats need.
CHAT = (*TEXT, "turns")
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
    token that ends the turn, all in the flattened batch; -1 for none. `headed` are those whose header stands
    in the row: of others it does not tell where they begin.
    """

    row: Array
    said: Array
    taught: Array
    first: Array
    last: Array
    begin: Array
    end: Array
    headed: Array


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
    real = text.no_padding
    real = np.concatenate([real, known & real[:, -1:]], axis=1)
    split = turns.split_real(np.concatenate([text.ids, beyond], axis=1), real)
    plain = _plain(split, turns)
    if plain.any():
        talks = np.broadcast_to(~plain[:, None], real.shape)
        split = split.at(talks).spread(talks)

    last = real.shape[1] - 1 - real[:, ::-1].argmax(axis=1)
    return split.at(slice(None), slice(length)), split.at(np.arange(len(last)), last)


def _plain(split: Split, turns: Turns) -> Array:
    """Rows [B] of plain text: what begins all texts begins a system's turn too, and there is no other."""
    if not any(header.role == "system" and header.borrowed for header in turns.headers):
        return np.zeros(len(split.turn), bool)
    others: Array = (split.turn >= 0) & ~split.of("system")
    plain: Array = ~np.any(others, axis=1)
    return plain


def answers_in(chat: Chat) -> Answers:
    """The assistants' turns of a chat."""
    split, taught = chat.split, chat.text.taught.ravel()
    at = np.flatnonzero(split.of("assistant") & (split.turn >= 0))
    length = split.turn.shape[1]
    turn, row = split.turn.ravel()[at], at // length
    starts = np.flatnonzero(np.r_[True, (turn[1:] != turn[:-1]) | (row[1:] != row[:-1])][: len(at)])
    content, ends, header = (each.ravel()[at] for each in (split.contents, split.ends, split.headers))
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
        row[starts],
        count(content),
        count(asked),
        first(content),
        last(content),
        first(asked),
        last(ends),
        count(header) > 0,
    )


def behind_thoughts(each: Answers, chat: Chat, scene: Scene) -> Array:
    """Answers [N] that labels ask for from the end of their thought on."""
    turns, ids = scene.declared.turns, chat.text.ids.ravel()
    if turns is None:
        return np.zeros(len(each.row), bool)
    # White space may follow the thought's end.
    before = [ids[np.maximum(each.begin - back, 0)] for back in (1, 2)]
    told: Array = np.any([one_of(numbers, turns.between) for numbers in before], axis=0)
    return told & (each.begin > each.first)


def at_maximum(text: Reading, declared: Declared) -> Array:
    """Rows [B] as long as any may be, so that something may have been cut off: without padding, or of a set
    as many tokens as its longest row.
    """
    longest = None if declared.shown is None else declared.shown.longest
    full: Array = text.no_padding.sum(axis=1) >= (longest or text.labels.shape[1])
    return full


def stops_within(chat: Chat, declared: Declared) -> Array:
    """Rows [B] that stop within an answer that is counted, where a template ends the last one too."""
    if declared.turns is None or not declared.turns.closes:
        return np.zeros(len(chat.last.turn), bool)
    taught, rows = chat.text.taught, np.arange(len(chat.last.turn))
    last = taught.shape[1] - 1 - chat.text.no_padding[:, ::-1].argmax(axis=1)
    within: Array = chat.last.contents & chat.last.of("assistant") & taught[rows, last]
    return within


def is_stream(chat: Chat, declared: Declared) -> bool:
    """Whether rows are cut out of one long text: some begin within a turn, or hold several documents."""
    if declared.shown is not None:
        return declared.shown.stream
    return begin_within(chat)


def begin_within(chat: Chat) -> bool:
    """Whether some row begins within a turn, or holds several documents."""
    if chat.text.tokens.documents is not None:
        return True
    begins = chat.split.at(np.arange(len(chat.last.turn)), chat.text.first)
    return bool((begins.contents | begins.ended).any())


def of_turns(flags: Array, split: Split) -> Array:
    """All tokens [B, L] of the turns in which some are flagged."""
    row, place = np.nonzero(flags)
    known = np.zeros((len(flags), int(split.turn.max(initial=0)) + 2), bool)
    known[row, split.turn[row, place]] = True
    known[:, -1] = False
    told: Array = np.take_along_axis(known, split.turn, axis=1)
    return told


def flags_at(places: Array, shape: tuple[int, ...]) -> Array:
    """Flags [B, L] at places of the flattened batch."""
    flags = np.zeros(int(np.prod(shape)), bool)
    flags[places] = True
    return flags.reshape(shape)
