"""Where turns come from: markers of one's own, or a chat template that is read when something asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.text.load import load_tokenizer
from maskcli.text.turns import Turns, learn


@dataclass(frozen=True)
class Chat:
    """A chat template to learn turns from: that of a tokenizer, by its name, or another one's text.

    Small, and the same in every process.
    """

    tokenizer: str
    template: str | None = None


class Learnt(NamedTuple):
    """The turns, or why a template tells none."""

    turns: Turns | None
    refusal: str | None = None


def learnt(source: Turns | Chat | None) -> Learnt:
    """The turns of a source. A template that cannot be used is no error: its sentence is kept."""
    return _learnt(source) if isinstance(source, Chat) else Learnt(source)


@lru_cache(maxsize=4)
def _learnt(chat: Chat) -> Learnt:
    """Rendering needs transformers and takes a second: once in a process is enough."""
    try:
        return Learnt(learn(load_tokenizer(chat.tokenizer, chat=True, template=chat.template)))
    except MaskcliError as error:
        return Learnt(None, str(error))
