"""Short conversations of known words, rendered: what a chat template writes around them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.text.templates import TooCostlyError
from maskcli.text.tokenizer import Messages, Template, Tokenizer

Ids = tuple[int, ...]

# Of each pair, the second stands in for the first; no two share their first or last letter.
_WORDS = (
    ("Walnut", "Copper"),
    ("Violin", "Harbor"),
    ("Meadow", "Pepper"),
    ("Basket", "Jungle"),
    ("Kettle", "Orange"),
    ("Fabric", "Thunder"),
    ("Garlic", "Yellow"),
    ("Lemon", "Quartz"),
)
# What may stand at a content's edges and share a token with what the template writes beside it.
_EDGES = (("\n", "\n"), (" ", " "), ("(", ")."), ("7", "7"), ("\n\n", "\n\n"))
_CALL_ID = "call00001"
_NAME = "lookup"


class Slot(NamedTuple):
    """A place for words: whose turn it is in, and whether it is its content, its thought or its tool call."""

    role: str
    kind: str = "content"


class Gap(NamedTuple):
    """Ids that the template writes between two slots (None: the text's beginning, its end).

    `fronts` (`backs`) count the ids at its front (back) that contents of certain edges share a token with:
    0 first, for words.
    """

    before: Slot | None
    after: Slot | None
    ids: Ids
    fronts: tuple[int, ...]
    backs: tuple[int, ...]


class Shape(NamedTuple):
    """How messages are written: contents as lists of parts, arguments as JSON, calls without content."""

    parts: bool = False
    written: bool = False
    absent: bool = False


SHAPES = tuple(
    Shape(parts, written, absent)
    for parts in (False, True)
    for written in (False, True)
    for absent in (False, True)
)
_SLOTS = {
    "system": (Slot("system"),),
    "developer": (Slot("system"),),
    "user": (Slot("user"),),
    "assistant": (Slot("assistant"),),
    "thinking": (Slot("assistant", "thought"), Slot("assistant")),
    "calling": (Slot("assistant", "call"),),
    "tool": (Slot("tool"),),
}


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    size = min(len(first), len(second))
    differs = np.asarray(first[:size]) != np.asarray(second[:size])
    return int(differs.argmax()) if differs.any() else size


def common_suffix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences end with alike."""
    return common_prefix(first[::-1], second[::-1])


def as_ids(tokenizer: Tokenizer, text: str) -> Ids:
    """A text's ids, without special tokens beside its own."""
    return tuple(tokenizer.encode(text, special_tokens=False).ids.tolist())


@dataclass(frozen=True, eq=False)
class Prober:
    """Renders conversations with a template, in the shape of messages that it takes."""

    tokenizer: Tokenizer
    template: Template
    shape: Shape = Shape()

    def gaps(self, kinds: Sequence[str], edges: bool = True) -> list[Gap] | None:
        """What stands around each slot of messages of these kinds; None when the template refuses them, or
        leaves something out. Only thoughts may be left out; without `edges` contents are words alone.
        """
        slots = [slot for kind in kinds for slot in _SLOTS[kind]]
        words = _first_words(kinds)
        base = self._ids(kinds, words)
        if base is None:
            return None
        found = []
        for index, slot in enumerate(slots):
            span = self._span(kinds, words, index, base, edges)
            if span is not None:
                found.append((span, slot))
            elif slot.kind != "thought":
                return None
        found.sort(key=lambda item: item[0].start)
        stops = [0, *(span.stop for span, _ in found)]
        overlap = any(span.start < stop for (span, _), stop in zip(found, stops, strict=False))
        return None if overlap else list(_between(base, found))

    def text(self, kinds: Sequence[str]) -> str | None:
        """The messages as the template writes them, None when it refuses them."""
        return self._text(kinds, _first_words(kinds), False)

    def ids(self, kinds: Sequence[str], generation_prompt: bool = False) -> Ids | None:
        """The messages as ids, None when the template refuses them."""
        return self._ids(kinds, _first_words(kinds), generation_prompt)

    def marked(self, kinds: Sequence[str]) -> tuple[Array, Array]:
        """The messages' ids and which of them the template marks, [L] each; empty without marks."""
        nothing = np.zeros(0, np.int64), np.zeros(0, bool)
        ids = self.ids(kinds)
        if self.template.marked is None or ids is None:
            return nothing
        counted = self.template.marked(self._messages(kinds, _first_words(kinds)))
        return (np.asarray(ids), np.asarray(counted, bool)) if len(counted) == len(ids) else nothing

    def _span(
        self, kinds: Sequence[str], words: list[str], index: int, base: Ids, edges: bool
    ) -> _Span | None:
        """Where the words of a slot stand, None for nowhere."""

        def ids(word: str) -> Ids | None:
            return self._ids(kinds, [*words[:index], word, *words[index + 1 :]])

        word, other = _WORDS[index]
        varied = ids(other)
        if varied is None:
            return None
        start, stop = common_prefix(base, varied), len(base) - common_suffix(base, varied)
        if start >= stop:
            return None
        edged = [ids(f"{before}{word}{behind}") for before, behind in _EDGES if edges]
        known = [item for item in edged if item is not None]
        starts = {min(start, common_prefix(base, item)) for item in known} - {start}
        stops = {max(stop, len(base) - common_suffix(base, item)) for item in known} - {stop}
        return _Span(start, stop, tuple(sorted(starts, reverse=True)), tuple(sorted(stops)))

    def _ids(self, kinds: Sequence[str], words: list[str], generation_prompt: bool = False) -> Ids | None:
        """The rendered messages as ids, None when the template refuses them."""
        text = self._text(kinds, words, generation_prompt)
        return None if text is None else as_ids(self.tokenizer, text)

    def _text(self, kinds: Sequence[str], words: list[str], generation_prompt: bool) -> str | None:
        try:
            return self.template.render(self._messages(kinds, words), generation_prompt)
        except TooCostlyError:
            raise
        except MaskcliError:
            return None

    def _messages(self, kinds: Sequence[str], words: list[str]) -> Messages:
        """The conversation with its words in their places."""
        rest = iter(words)
        return [self._message(kind, rest) for kind in kinds]

    def _message(self, kind: str, words: Iterator[str]) -> dict[str, Any]:
        if kind == "calling":
            return {
                "role": "assistant",
                "content": self._no_content(),
                "tool_calls": [self._call(next(words))],
            }
        message: dict[str, Any] = {"role": "assistant" if kind == "thinking" else kind}
        if kind == "thinking":
            # One thought, under each of the names that templates read.
            message |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), next(words))
        message["content"] = self._content(next(words))
        if kind == "tool":
            message |= {"name": _NAME, "tool_call_id": _CALL_ID}
        return message

    def _content(self, word: str) -> object:
        return [{"type": "text", "text": word}] if self.shape.parts else word

    def _no_content(self) -> object:
        return None if self.shape.absent else self._content("")

    def _call(self, word: str) -> dict[str, Any]:
        arguments = {"key": word}
        written = json.dumps(arguments) if self.shape.written else arguments
        return {"id": _CALL_ID, "type": "function", "function": {"name": _NAME, "arguments": written}}


def _first_words(kinds: Sequence[str]) -> list[str]:
    """The words of a conversation's slots."""
    return [pair[0] for pair in _WORDS[: sum(len(_SLOTS[kind]) for kind in kinds)]]


class _Span(NamedTuple):
    """Ids of a slot: from `start` to `stop`; other contents begin (end) at the others."""

    start: int
    stop: int
    starts: tuple[int, ...]
    stops: tuple[int, ...]


def _between(base: Ids, found: list[tuple[_Span, Slot]]) -> Iterator[Gap]:
    """The gaps around slots in their order."""
    edge = _Span(0, 0, (), ())
    end = _Span(len(base), len(base), (), ())
    befores = [(edge, None), *found]
    afters = [*found, (end, None)]
    for (left, before), (right, after) in zip(befores, afters, strict=True):
        start, stop = left.stop, right.start
        fronts = tuple(item - start for item in left.stops if item < stop)
        backs = tuple(stop - item for item in right.starts if item > start)
        yield Gap(before, after, base[start:stop], (0, *fronts), (0, *backs))
