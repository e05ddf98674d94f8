"""Texts and conversations as rows of ids, with what a trainer is to count of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.auditing.conversations import conversation, shared, text, tools_of
from maskcli.text.chat import template_of
from maskcli.text.tokenizer import Messages, Tokenizer, Tools
from maskcli.text.turns import Turns

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Encoder:
    """What turns text into ids.

    `turns` are those of the tokenizer's template where it has no marks of its own; `max_length` is the
    number of tokens at which trainers cut a row.
    """

    tokenizer: Tokenizer
    turns: Turns | None
    max_length: int | None = None


class Coded(NamedTuple):
    """Rows of ids, of each which are counted, bool [L]. `loose` rows do not begin as their prompt does."""

    ids: list[list[int]]
    counted: list[Array]
    loose: Sequence[int] = ()


# Rows, their columns of text or messages, and the tools of each, to a Coded for each side of a batch.
Encode = Callable[[Sequence[Row], Sequence[str], Sequence[Tools | None], Encoder], tuple[Coded, ...]]


def holds_chats(rows: Sequence[Row], columns: Sequence[str]) -> bool:
    """Whether some rows hold messages, which only a chat template turns into text."""
    return any(not isinstance(row[column], (str, type(None))) for row in rows for column in columns)


def tools_in(rows: Sequence[Row], column: str | None) -> list[Tools | None]:
    """The tools of each row."""
    return [None if column is None else tools_of(row[column]) for row in rows]


def messages(
    rows: Sequence[Row], columns: Sequence[str], tools: Sequence[Tools | None], by: Encoder
) -> tuple[Coded, ...]:
    """Conversations: counted is what the template marks, else the answers of its turns."""
    (column,) = columns
    ids, marks = _rendered([conversation(row[column]) for row in rows], tools, by)
    if marks is not None:
        return (Coded(ids, [np.asarray(row, bool) for row in marks]),)
    assert by.turns is not None
    flat, offsets = flattened(ids)
    answers = by.turns.split(flat, offsets).answers()
    return (Coded(ids, np.split(answers, offsets[1:-1])),)


def answers(
    rows: Sequence[Row], columns: Sequence[str], tools: Sequence[Tools | None], by: Encoder
) -> tuple[Coded, ...]:
    """A prompt with one or two answers, texts or messages: counted is what follows the prompt."""
    prompt, *sides = columns
    if all(isinstance(row[prompt], str) for row in rows):
        prompts = [text(row[prompt]) for row in rows]
        wholes = ([_ended(text(row[prompt]) + text(row[side]), by) for row in rows] for side in sides)
        encode = by.tokenizer.encode_many
        return _behind(encode(prompts), [encode(whole) for whole in wholes])
    begun = [conversation(row[prompt]) for row in rows]
    return _chats_behind(begun, [[conversation(row[side]) for row in rows] for side in sides], tools, by)


def pairs(
    rows: Sequence[Row], columns: Sequence[str], tools: Sequence[Tools | None], by: Encoder
) -> tuple[Coded, ...]:
    """Two texts or conversations whose prompt is what they begin with alike."""
    if all(isinstance(row[column], str) for row in rows for column in columns):
        sides = [by.tokenizer.encode_many([_ended(row[column], by) for row in rows]) for column in columns]
        alike = [_alike(*pair) for pair in zip(*sides, strict=True)]
        return tuple(_from(side, alike) for side in sides)
    first, second = ([conversation(row[column]) for row in rows] for column in columns)
    sizes = [shared(*pair) for pair in zip(first, second, strict=True)]
    prompts = [chat[:size] for chat, size in zip(first, sizes, strict=True)]
    rest = [[chat[size:] for chat, size in zip(side, sizes, strict=True)] for side in (first, second)]
    return _chats_behind(prompts, rest, tools, by)


def texts(
    rows: Sequence[Row], columns: Sequence[str], tools: Sequence[Tools | None], by: Encoder
) -> tuple[Coded, ...]:
    """Texts, of which every token is counted."""
    (column,) = columns
    ids = by.tokenizer.encode_many([_ended(text(row[column]), by) for row in rows])
    return (_from(ids, [0] * len(ids)),)


def flattened(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Ids of all rows, int64 [N], and where each row begins and the last ends, int64 [B + 1]."""
    offsets = np.fromiter(accumulate(map(len, rows), initial=0), np.int64, len(rows) + 1)
    return np.fromiter(chain.from_iterable(rows), np.int64, int(offsets[-1])), offsets


def _ended(whole: str, by: Encoder) -> str:
    """A text with the token that ends it, as trainers add it."""
    eos = by.tokenizer.eos_id
    end = "" if eos is None else by.tokenizer.token(eos)
    return whole if whole.endswith(end) else whole + end


def _chats_behind(
    prompts: Sequence[Messages],
    sides: Sequence[Sequence[Messages]],
    tools: Sequence[Tools | None],
    by: Encoder,
) -> tuple[Coded, ...]:
    """Conversations that a prompt begins; the prompt alone is rendered as it is for a generation."""
    begun = [at for at, prompt in enumerate(prompts) if prompt]
    rendered, _ = _rendered([prompts[at] for at in begun], [tools[at] for at in begun], by, prompt=True)
    known = dict(zip(begun, rendered, strict=True))
    wholes = ([prompt + answer for prompt, answer in zip(prompts, side, strict=True)] for side in sides)
    return _behind(
        [known.get(at, []) for at in range(len(prompts))],
        [_rendered(whole, tools, by)[0] for whole in wholes],
    )


def _rendered(
    chats: Sequence[Messages], tools: Sequence[Tools | None], by: Encoder, prompt: bool = False
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Ids of conversations and the marks of the template, those with the same tools at once; with `prompt`
    they end in the generation prompt.
    """
    template = template_of(by.tokenizer)
    groups: dict[str, list[int]] = {}
    for at, each in enumerate(tools):
        groups.setdefault(json.dumps(each, default=str), []).append(at)
    ids: list[list[int]] = [[] for _ in chats]
    marks: list[list[int]] = [[] for _ in chats]
    for places in groups.values():
        rows = template.many([chats[at] for at in places], prompt, tools[places[0]])
        for number, at in enumerate(places):
            ids[at] = rows.ids[number]
            marks[at] = rows.marks[number] if rows.marks is not None else []
    return ids, None if template.marked is None else marks


def _behind(prompts: Sequence[list[int]], sides: Sequence[list[list[int]]]) -> tuple[Coded, ...]:
    """Rows of which counts what follows the prompt, or the place where they leave it."""
    rows = list(zip(prompts, *sides, strict=True))
    begins = [min(_alike(prompt, whole) for whole in wholes) for prompt, *wholes in rows]
    loose = [
        at for at, (prompt, begin) in enumerate(zip(prompts, begins, strict=True)) if begin < len(prompt)
    ]
    return tuple(_from(side, begins, loose) for side in sides)


def _from(ids: list[list[int]], begins: Sequence[int], loose: Sequence[int] = ()) -> Coded:
    """Rows that are counted from a place on."""
    counted = [np.arange(len(row)) >= begin for row, begin in zip(ids, begins, strict=True)]
    return Coded(ids, counted, loose)


def _alike(first: list[int], second: list[int]) -> int:
    """How many ids two rows begin with alike."""
    if second[: len(first)] == first:
        return len(first)
    both = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in both if one != other), len(second))
