"""The numbers of a set at a glance, batch by batch; they add up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array, Real
from maskcli.auditing.results import Glance
from maskcli.diagnostics.chats import Chat, answers_in, chats
from maskcli.diagnostics.needs import PACKING
from maskcli.diagnostics.supervision import Reading, first_dropped, readings
from maskcli.meant.facts import Declared
from maskcli.padding import one_of
from maskcli.scene.scene import Scene
from maskcli.scene.tokens import Tokens
from maskcli.text.markers import ROLES

# Of each role the turns, their tokens, and those of them that are counted.
Turns = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Counts:
    """Counts of some rows. None: nothing there tells.

    `longest` is the most real tokens of a row; only the rows that have as many are counted as longest.
    """

    rows: int = 0
    tokens: int = 0
    real: int = 0
    counted: int | None = None
    rows_uncounted: int | None = None
    rows_whole: int | None = None
    longest: int = 0
    rows_longest: int = 0
    rows_longest_without_end: int | None = None
    packed_rows: int | None = None
    documents: int | None = None
    answers: int | None = None
    answer_ends_counted: int | None = None
    turns: Turns = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        longest = max(self.longest, other.longest)
        told = [
            each
            if each.longest == longest
            else dataclasses.replace(each, rows_longest=0, rows_longest_without_end=None)
            for each in (self, other)
        ]
        totals: dict[str, Any] = {name: _sum([getattr(each, name) for each in told]) for name in _NAMES}
        turns = dict(self.turns)
        for role, (count, tokens, counted) in other.turns.items():
            known = turns.get(role, (0, 0, 0))
            turns[role] = known[0] + count, known[1] + tokens, known[2] + counted
        return Counts(**{**totals, "longest": longest, "turns": turns})

    def glance(self) -> Glance:
        """The counts as they are reported."""
        numbers = {name: getattr(self, name) for name in _NAMES}
        order = {role: self.turns[role] for role in ROLES if role in self.turns}
        return Glance(**numbers, turns=order)


_NAMES = tuple(each.name for each in dataclasses.fields(Counts) if each.name != "turns")


def _sum(parts: Sequence[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


class _Text(NamedTuple):
    """The ids of one side, which of them are real, bool [B, L], and what tells the ends of texts."""

    tokens: Tokens
    real: Real
    declared: Declared


def counts_of(scenes: Sequence[Scene], rows: int, tokens: int) -> Counts:
    """The counts of a batch of so many rows, which have so many tokens before they are filled up."""
    texts = [text for scene in scenes for text in _texts(scene)]
    of_labels = [
        _labels_alone(each) for scene in scenes for each in readings(scene) if each.tokens.ids is None
    ]
    real = sum(map(int, [*(text.real.sum() for text in texts), *of_labels])) if texts or of_labels else tokens
    read = [reading for scene in scenes for reading in readings(scene)[:1]]
    told = [each for scene in scenes if _tells_documents(scene) for each in _documents(scene)]
    return Counts(
        rows=rows,
        tokens=tokens,
        real=real,
        **(_of_loss(read, scenes[0].declared) if read else {}),
        **_of_longest(texts),
        **_of_turns(scenes),
        documents=sum(int(each.sum()) for each in told) if told else None,
        packed_rows=int((np.max(told, axis=0) > 1).sum()) if told else None,
    )


def _texts(scene: Scene) -> list[_Text]:
    texts = list[_Text]()
    for tokens in scene.tokens:
        if tokens.ids is not None:
            known = tokens.known_real(scene.declared)
            real = np.ones(tokens.ids.shape, bool) if known is None else known
            texts.append(_Text(tokens, real, scene.declared))
    return texts


def _labels_alone(reading: Reading) -> int:
    """How many labels of a side without ids are no padding, as those of a decoder beside its source's ids."""
    return int((reading.supervised if reading.real is None else reading.real).sum())


def _of_loss(read: Sequence[Reading], declared: Declared) -> dict[str, Any]:
    """Labels that the loss counts, rows without any, and rows of which it counts everything."""
    counted = np.sum([_counted(reading, declared) for reading in read], axis=0)
    whole = [_whole(reading) for reading in read if reading.tokens.ids is not None]
    return {
        "counted": int(counted.sum()),
        "rows_uncounted": int((counted == 0).sum()),
        "rows_whole": int(np.all([counted > 0, *whole], axis=0).sum()) if whole else None,
    }


def _counted(reading: Reading, declared: Declared) -> Array:
    """How many labels of each row the loss counts, int [B]: a decoder that moves them drops the first."""
    counts: Array = reading.supervised[:, int(first_dropped(reading, declared)) :].sum(axis=1)
    return counts


def _whole(reading: Reading) -> Array:
    """Rows [B] of which the loss counts all real tokens but the first, which nothing comes before."""
    left = ~reading.taught if reading.real is None else reading.real & ~reading.taught
    left[np.arange(len(left)), reading.first] = False
    whole: Array = ~np.any(left, axis=1) & np.any(reading.supervised, axis=1)
    return whole


def _of_longest(texts: Sequence[_Text]) -> dict[str, Any]:
    """The longest row, how many are as long, and how many of those do not end in an end."""
    if not texts:
        return {}
    text = texts[-1]
    lengths = text.real.sum(axis=1)
    longest = int(lengths.max(initial=0))
    rows = np.flatnonzero(lengths == longest)
    found = {"longest": longest, "rows_longest": len(rows)}
    declared, ids = text.declared, text.tokens.ids
    if (declared.eos_ids or declared.chat is not None) and longest and ids is not None:
        ended = _ended(ids[rows], text.real[rows], declared)
        found["rows_longest_without_end"] = int((~ended).sum())
    return found


def _ended(ids: Array, real: Real, declared: Declared) -> Array:
    """Rows [B] that stop at an end, or behind that of a turn, where a template may write more."""
    at, last = np.arange(len(ids)), real.shape[1] - 1 - real[:, ::-1].argmax(axis=1)
    turns = declared.turns
    if turns is None:
        return one_of(ids[at, last], declared.eos_ids)
    ended: Array = turns.split_real(ids, real).ended[at, last]
    return ended | one_of(ids[at, last], (*declared.eos_ids, *turns.end_ids()))


def _of_turns(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Turns by role with their tokens and how many of those are counted; answers, and how many ends of them
    are counted.
    """
    told = [
        chat
        for scene in scenes
        if scene.declared.chat is not None
        for chat in chats(scene)
        if isinstance(chat, Chat)
    ]
    if not told:
        return {}
    turns, answers, ends = Counts(), 0, 0
    for chat in told:
        turns += Counts(turns={role: of_role for role in ROLES if (of_role := _turns(chat, role))[0]})
        each, taught = answers_in(chat), chat.text.taught.ravel()
        answers += int((each.said > 0).sum())
        ends += int(taught[each.end[(each.said > 0) & (each.end >= 0)]].sum())
    return {"turns": turns.turns, "answers": answers, "answer_ends_counted": ends}


def _turns(chat: Chat, role: str) -> tuple[int, int, int]:
    """How many turns a role has, their tokens, and those of them that are counted."""
    inside = chat.split.of(role) & (chat.split.turn >= 0)
    begins = inside & (np.diff(chat.split.turn, axis=1, prepend=-1) != 0)
    return int(begins.sum()), int(inside.sum()), int((inside & chat.text.taught).sum())


def _tells_documents(scene: Scene) -> bool:
    """Whether something is there that would tell packed texts apart."""
    several = any(tokens.documents is not None for tokens in scene.tokens)
    return several or any(roled.role in PACKING for roled in scene.tensors)


def _documents(scene: Scene) -> list[Array]:
    """How many texts each row has, int [B], for each side."""
    counts = list[Array]()
    for text in _texts(scene):
        held = np.any(text.real, axis=1).astype(np.int64)
        if text.tokens.documents is not None:
            borders = np.diff(text.tokens.documents, axis=1) != 0
            held += (borders & text.real[:, 1:] & text.real[:, :-1]).sum(axis=1)
        counts.append(held)
    return counts
