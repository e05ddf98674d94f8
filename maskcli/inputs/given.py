"""The options of `show` that say which tokens there are, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maskcli.errors import MaskcliError

# Ways to give tokens.
_TEXTS = ("texts", "--file")


@dataclass(frozen=True)
class Given:
    """The options that say which tokens there are; exactly one of texts, file, ids and lengths tells them."""

    texts: Sequence[str] = ()
    file: str | None = None
    ids: str | None = None
    lengths: str | None = None
    source: Sequence[str] = ()
    pairs: Sequence[str] | None = None
    packed: bool = False
    chat: bool = False
    tools: str | None = None
    template: str | None = None
    generation_prompt: bool = False
    labels: bool = False
    tokenizer: str | None = None
    special_tokens: bool | None = None
    padding: str = "longest"
    max_length: int | None = None
    side: str | None = None
    pad_token: str | None = None
    pad_id: int | None = None

    def told(self) -> bool:
        """Whether anything tells which tokens there are."""
        return bool(self.texts) or any(each is not None for each in (self.file, self.ids, self.lengths))

    def way(self) -> str:
        """Which of the ways to give tokens was used; options that mean nothing with it are refused."""
        ways = {
            "texts": self.texts or None,
            "--file": self.file,
            "--ids": self.ids,
            "--lengths": self.lengths,
        }
        given = [way for way, value in ways.items() if value is not None]
        if len(given) != 1:
            were = "were" if given else "was"
            raise MaskcliError(
                f"{' and '.join(given) or 'nothing'} {were} given where one of texts, --file, --ids or "
                '--lengths belongs; for example maskcli show "Hello world"'
            )
        (way,) = given
        limited = {
            "--pair": (self.pairs, _TEXTS),
            "--chat": (self.chat, _TEXTS),
            "--special-tokens": (self.special_tokens is not None, _TEXTS),
            "--padding max-length": (self.padding != "longest", _TEXTS),
            "--pad-token": (self.pad_token, (*_TEXTS, "--ids")),
            "--packed": (self.packed, (*_TEXTS, "--lengths")),
            "--max-length": (self.max_length, (*_TEXTS, "--lengths")),
            "--tokenizer": (self.tokenizer, (*_TEXTS, "--ids")),
            "--labels": (self.labels, (*_TEXTS, "--ids")),
            "--pad-id": (self.pad_id is not None, ("--ids",)),
        }
        of_chats = {
            "--tools": self.tools is not None,
            "--template": self.template is not None,
            "--generation-prompt": self.generation_prompt,
        }
        idle = [option for option, asked in of_chats.items() if asked and not self.chat]
        if idle:
            raise MaskcliError(f"{idle[0]} means nothing without --chat; pass that too, or leave it out")
        for option, (used, meant_for) in limited.items():
            if used and way not in meant_for:
                beside = "texts" if way in _TEXTS else way
                raise MaskcliError(f"{option} means nothing beside {beside}; leave it out")
        return way
