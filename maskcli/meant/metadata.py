"""The facts in a file's metadata, which nobody vouched for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.meant.facts import FACTS, Declared, Fact
from maskcli.meant.settling import Origin


def from_metadata(metadata: Mapping[str, str], file: str) -> Declared:
    """The facts under `maskcli.` in a file's metadata. Specs there never name files, nor does a model."""
    values: dict[str, Any] = {}
    for field, fact in FACTS.items():
        text = metadata.get(f"maskcli.{fact.key}") if fact.key is not None else None
        if text is not None:
            origin = Origin(f"the metadata of {file!r}: maskcli.{fact.key}", trusted=False)
            values[field] = fact.settle(_read(text, fact, origin), origin)
    return Declared(**values)


def _read(text: str, fact: Fact, origin: Origin) -> object:
    """What a text of metadata gives for a fact."""
    if fact.kind is bool:
        return text.lower() in ("1", "true", "yes")
    if fact.kind is int:
        return _whole(text, origin, negative=fact.lowest is None)
    if fact.kind == list[int]:
        return [_whole(part, origin) for part in text.split(",") if part.strip()]
    if fact.kind == list[str]:
        return [part.strip() for part in text.split(";") if part.strip()]
    return text


def _whole(text: str, origin: Origin, negative: bool = False) -> int:
    digits = text.strip().removeprefix("-") if negative else text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        raise MaskcliError(f"{origin.name} is {text!r}, where a whole number belongs")
    return int(text)
