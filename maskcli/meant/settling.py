"""What is given for a fact, settled: specs of masks, words out of a few, numbers that files hold."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

from maskcli.errors import MaskcliError

# Options are built from facts: what masks are is imported when something is declared.
if TYPE_CHECKING:
    from maskcli.masks.spec import Spec
    from maskcli.meant.model_config import Config
    from maskcli.meant.places import Places

# No file holds a number above it.
MOST = 2**63 - 1


@dataclass(frozen=True)
class Expectation:
    """The mask that tensors of a name like `pattern` should have used (None: self-attention)."""

    pattern: str | None
    spec: Spec


class Origin(NamedTuple):
    """Who says a fact, as errors name it; only command line and Python are `trusted` with names of files."""

    name: str
    trusted: bool = True


EXPECT, FROM = Origin("--expect"), Origin("--from")


def expectation(text: str, origin: Origin = EXPECT) -> Expectation:
    """`SPEC` or `PATTERN=SPEC`; a file (which could run code) is refused where the origin is no user."""
    from maskcli.masks.spec import names_files, needs, parse

    pattern, equals, spec_text = text.partition("=")
    # same:TENSOR=1 has an equals sign of its own: what reads as a spec is one, and patterns hold no blank.
    if not equals or " " in pattern or _reads_as_spec(text):
        pattern, equals, spec_text = "", "", text
    spec = parse(spec_text)
    if not origin.trusted and names_files(spec):
        raise MaskcliError(
            f"{origin.name} is {text!r}: only the command line may name files; pass --expect instead"
        )
    if "source" in needs(spec):
        raise MaskcliError(
            f"{origin.name} {text!r}: write full for cross-attention; "
            "the source's padding is always part of it"
        )
    return Expectation(pattern if equals else None, spec)


def _reads_as_spec(text: str) -> bool:
    """Whether all of a text is a spec."""
    from maskcli.masks.spec import parse

    try:
        parse(text)
    except MaskcliError:
        return False
    return True


def convention(name: str, origin: Origin = FROM) -> str:
    """A convention that a saved mask can be in."""
    from maskcli.masks.conventions import check_known

    check_known(name, f"{origin.name} ")
    return name


def expectations(texts: str | Sequence[str], origin: Origin) -> tuple[Expectation, ...]:
    """The masks that were meant, at most one of them for tensors of any name."""
    several = [texts] if isinstance(texts, str) else texts
    expected = tuple(expectation(text, origin) for text in several)
    plain = [text for text, each in zip(several, expected, strict=True) if each.pattern is None]
    if len(plain) > 1:
        raise MaskcliError(
            f"{origin.name} names {len(plain)} masks for the same tensors, {' and '.join(map(repr, plain))}; "
            "join them by & in one, or say PATTERN=SPEC"
        )
    return expected


def config(path: str, _: Origin) -> Config:
    """The configuration of a model's folder."""
    from maskcli.meant.model_config import read_config

    return read_config(path)


def places_of(given: Any, origin: Origin) -> Places:
    """Positions, however they are told."""
    from maskcli.meant.places import places

    return places(given, origin)


def ids(values: int | Sequence[int], _: Origin) -> tuple[int, ...]:
    """One id or several."""
    return (values,) if isinstance(values, int) else tuple(values)


def one_of(choices: type[enum.Enum]) -> Callable[[str, Origin], str]:
    """A word out of a few, as plain text."""
    words = tuple(str(choice.value) for choice in choices)

    def settle(text: str, origin: Origin) -> str:
        if text not in words:
            raise MaskcliError(f"{origin.name} is {text!r}; choose one of {', '.join(words)}")
        return words[words.index(text)]

    return settle


def check_numbers(value: object, origin: Origin, lowest: int | None = None, most: int | None = None) -> None:
    """Refuse what is no whole number of 64 bits, or outside of these, nor several."""
    least, largest = -MOST if lowest is None else lowest, most or MOST
    for number in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(number, SupportsIndex) or not least <= number.__index__() <= largest:
            what = f"a whole number from {least} to {largest}"
            raise MaskcliError(f"{origin.name} is {str(number)[:80]!r}, where {what} belongs")


def check_counts(**counts: object) -> None:
    """Refuse sizes that are no whole numbers, or more than a mask may have keys; None is not said."""
    from maskcli.masks.mask import MAX_KEYS

    for name, count in counts.items():
        if count is not None:
            check_numbers(count, Origin(name), 0, MAX_KEYS)
