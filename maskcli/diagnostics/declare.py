"""What a user declares in options or keyword arguments: facts, the text of ids, a choice of rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from maskcli.diagnostics.catalogue import chosen_codes
from maskcli.meant.facts import Declared, Said, from_said

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Meaning(NamedTuple):
    """What was declared: the facts, how an id becomes text, the rules to report (None: all)."""

    declared: Declared
    token: Callable[[int], str] | None
    codes: frozenset[str] | None


def declare(**said: Unpack[Said]) -> Meaning:
    """What is declared. Raises MaskcliError for what cannot be."""
    token, of_tokenizer = _tokenizer(said.get("tokenizer"))
    declared = from_said(said).over(of_tokenizer)
    return Meaning(declared, token, chosen_codes(said.get("select") or (), said.get("ignore") or ()))


def _tokenizer(name: str | None) -> tuple[Callable[[int], str] | None, Declared]:
    """How ids become text, and the special ids that a tokenizer gives."""
    if name is None:
        return None, Declared()
    from maskcli.text import load_tokenizer

    loaded = load_tokenizer(name)
    ends = () if loaded.eos_id is None else (loaded.eos_id,)
    return loaded.token, Declared(pad_id=loaded.pad_id, eos_ids=ends)
