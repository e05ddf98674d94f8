"""What a user declares in options or keyword arguments: facts, the text of ids, a choice of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from maskcli.diagnostics.catalogue import chosen_codes
from maskcli.errors import MaskcliError
from maskcli.meant.facts import Declared, Said, from_said

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from maskcli.text.learning import Chat
    from maskcli.text.tokenizer import Tokenizer
    from maskcli.text.turns import Turns


class Meaning(NamedTuple):
    """What was declared: the facts, how an id becomes text, the rules to report (None: all), a tokenizer."""

    declared: Declared
    token: Callable[[int], str] | None
    codes: frozenset[str] | None
    tokenizer: str | None = None


def declare(**said: Unpack[Said]) -> Meaning:
    """What is declared. Raises MaskcliError for what cannot be."""
    name, template, turn = said.get("tokenizer"), said.get("template"), said.get("turn") or ()
    markers = (turn,) if isinstance(turn, str) else turn
    tokenizer = None if name is None else _loaded(name)
    declared = from_said(said).over(_special_ids(tokenizer))
    declared = replace(declared, chat=_chat(name, template, markers, tokenizer))
    token = None if tokenizer is None else tokenizer.token
    codes = chosen_codes(said.get("select") or (), said.get("ignore") or ())
    return Meaning(declared, token, codes, name)


def _loaded(name: str) -> Tokenizer:
    from maskcli.text import load_tokenizer

    return load_tokenizer(name)


def _special_ids(tokenizer: Tokenizer | None) -> Declared:
    """The special ids that a tokenizer gives."""
    if tokenizer is None:
        return Declared()
    starts, ends = (() if each is None else (each,) for each in (tokenizer.bos_id, tokenizer.eos_id))
    return Declared(pad_id=tokenizer.pad_id, bos_ids=starts, eos_ids=ends)


def _chat(
    name: str | None, template: str | None, markers: Sequence[str], tokenizer: Tokenizer | None
) -> Turns | Chat | None:
    """What tells turns: markers that were given, else a template of a file, else the tokenizer's own."""
    if template is not None and markers:
        raise MaskcliError("--template and --turn both say how turns begin and end; pass one of them")
    if template is not None and name is None:
        raise MaskcliError("--template needs a tokenizer that turns its text into ids; pass --tokenizer too")
    if markers:
        from maskcli.text.turns import given, parse_marker

        return given([parse_marker(marker) for marker in markers], tokenizer)
    if name is None:
        return None
    from maskcli.text import has_template, read_text
    from maskcli.text.learning import Chat

    if template is not None:
        return Chat(name, read_text(template))
    return Chat(name) if has_template(name) else None
