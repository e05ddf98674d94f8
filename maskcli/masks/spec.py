"""Mask specs: the text "causal & sliding:4" to a Mask.

spec := kind | spec & spec | spec "|" spec | ~spec | (spec), with ~ before & before |; `not`, `and`, `or` are
the same.
"""

from __future__ import annotations

import difflib
import functools
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from maskcli.errors import MaskcliError
from maskcli.masks.kinds import KINDS, Kind
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask

FILE_SUFFIXES = (".safetensors", ".npy", ".npz", ".pt", ".pth", ".bin", ".py")
# Deeper nesting or longer texts are nobody's mask, and a spec can come from a file's metadata.
MAX_LENGTH, MAX_DEPTH = 100_000, 50
_WORDS = {"and": "&", "or": "|", "not": "~", "&&": "&", "||": "|", "!": "~"}
_TOKEN = re.compile(r"\s*(?:(&&?|\|\|?|[~!()])|([^\s&|~!()]+))")
# What is to be known, and how to say it.
_HINTS = {
    "padding": "which keys are padding; pass a padding mask, or ids with --pad-id",
    "source": "the source sequence; pass its text with --source",
    "documents": "where documents begin; pass --packed, or write their lengths (documents:5,3,7)",
}
# Numbers that an error message proposes; 4 for all others.
_EXAMPLES = {"D": "2", "...": "5,3,7"}

Resolve = Callable[[str, Layout], Mask]


@dataclass(frozen=True)
class Named:
    """A kind with its numbers, e.g. sliding and (4,)."""

    name: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class File:
    """An operand that names a file: a saved mask, or FILE.py:NAME."""

    target: str


@dataclass(frozen=True)
class Not:
    """~operand."""

    operand: Spec


@dataclass(frozen=True)
class Joined:
    """Operands joined by one sign, & or |."""

    sign: str
    operands: tuple[Spec, ...]


Spec = Named | File | Not | Joined


def parse(text: str) -> Spec:
    """The spec that `text` writes; MaskcliError says what is wrong with it and what to write instead."""
    if len(text) > MAX_LENGTH:
        raise MaskcliError(
            f"this mask spec has {len(text):,} characters, more than the limit of {MAX_LENGTH:,}; shorten it"
        )
    tokens = list(_tokens(text))
    if not tokens:
        raise MaskcliError(
            "the mask spec is empty; write a kind such as causal, padding or 'causal & sliding:4'"
        )
    spec, rest = _joins(tokens, 0, text, 0)
    if rest < len(tokens):
        raise MaskcliError(
            f"{text!r} does not read as a mask: {tokens[rest]!r} follows a whole mask; join masks with & or |"
        )
    return spec


def build(spec: Spec, layout: Layout, resolve: Resolve | None = None) -> Mask:
    """The Mask of `spec` over `layout`. Files go to `resolve`; without one they are refused."""
    if isinstance(spec, Named):
        kind = KINDS[spec.name]
        require(spec, layout)
        mask: Mask = kind.build(layout, *spec.numbers)
        return mask
    if isinstance(spec, File):
        if resolve is None:
            raise MaskcliError(
                f"{spec.target!r} names a file, and files are not read here; write a kind such as causal"
            )
        return resolve(spec.target, layout)
    if isinstance(spec, Not):
        return ~build(spec.operand, layout, resolve)
    masks = (build(operand, layout, resolve) for operand in spec.operands)
    return functools.reduce(operator.and_ if spec.sign == "&" else operator.or_, masks)


def write(spec: Spec) -> str:
    """The shortest text that parses to `spec`."""
    if isinstance(spec, Named):
        numbers = ",".join(map(str, spec.numbers))
        return f"{spec.name}:{numbers}" if numbers else spec.name
    if isinstance(spec, File):
        return spec.target
    if isinstance(spec, Not):
        return f"~{_within(spec.operand, '&|')}"
    looser = "|" if spec.sign == "&" else ""
    return f" {spec.sign} ".join(_within(operand, looser) for operand in spec.operands)


def _within(spec: Spec, looser: str) -> str:
    """The text of an operand, in parentheses when it joins by a sign that binds looser."""
    text = write(spec)
    return f"({text})" if isinstance(spec, Joined) and spec.sign in looser else text


def joined(specs: Sequence[Spec], sign: str = "&") -> Spec:
    """Specs joined by a sign; a single one as it is."""
    return specs[0] if len(specs) == 1 else Joined(sign, tuple(specs))


def conjuncts(spec: Spec) -> tuple[Spec, ...]:
    """The masks that a spec joins by &; the spec itself when it joins none."""
    return tuple(_operands(spec, "&"))


def _operands(spec: Spec, sign: str) -> Iterator[Spec]:
    if isinstance(spec, Joined) and spec.sign == sign:
        for operand in spec.operands:
            yield from _operands(operand, sign)
    else:
        yield spec


def kinds_in(spec: Spec) -> set[str]:
    """The names of the kinds that `spec` uses."""
    return {leaf.name for leaf in _leaves(spec) if isinstance(leaf, Named)}


def needs(spec: Spec) -> set[str]:
    """The facts about the input that `spec` needs: padding, documents, source."""
    return {need for leaf in _leaves(spec) if isinstance(leaf, Named) and (need := _need(leaf))}


def names_files(spec: Spec) -> bool:
    """Whether `spec` has an operand that names a file."""
    return any(isinstance(leaf, File) for leaf in _leaves(spec))


def axes(spec: Spec) -> str:
    """The axes that `spec` varies along: any of "b" and "q" (files may vary along all)."""
    found = "".join("bhq" if isinstance(leaf, File) else KINDS[leaf.name].axes for leaf in _leaves(spec))
    return "".join(axis for axis in "bhq" if axis in found)


def require(spec: Named, layout: Layout) -> None:
    """Refuse a kind whose facts about the input are missing."""
    known = {
        "padding": layout.real is not None,
        "source": layout.real is not None and layout.cross,
        "documents": layout.documents is not None,
    }
    need = _need(spec)
    if need and not known[need]:
        raise MaskcliError(f"{spec.name!r} needs to know {_HINTS[need]}")


def _need(spec: Named) -> str | None:
    """What a kind needs; documents with lengths of their own need nothing."""
    return None if spec.numbers else KINDS[spec.name].needs


def _leaves(spec: Spec) -> Iterator[Named | File]:
    if isinstance(spec, (Named, File)):
        yield spec
    elif isinstance(spec, Not):
        yield from _leaves(spec.operand)
    else:
        for operand in spec.operands:
            yield from _leaves(operand)


def _tokens(text: str) -> Iterator[str]:
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        assert match is not None
        at = match.end()
        word = match[1] or match[2]
        yield _WORDS.get(word.lower(), word)


def _joins(tokens: list[str], at: int, text: str, depth: int, signs: str = "|&") -> tuple[Spec, int]:
    """The spec from token `at` on, and the token behind it; `signs` may join it, the loosest first."""
    if not signs:
        return _unary(tokens, at, text, depth)
    sign, tighter = signs[0], signs[1:]
    spec, at = _joins(tokens, at, text, depth, tighter)
    operands = list(_operands(spec, sign))
    while at < len(tokens) and tokens[at] == sign:
        spec, at = _joins(tokens, at + 1, text, depth, tighter)
        operands += _operands(spec, sign)
    return joined(operands, sign), at


def _unary(tokens: list[str], at: int, text: str, depth: int) -> tuple[Spec, int]:
    if depth > MAX_DEPTH:
        raise MaskcliError(
            f"this mask spec nests more than {MAX_DEPTH} levels deep; write it with fewer parentheses"
        )
    word = tokens[at] if at < len(tokens) else ""
    if word == "~":
        operand, at = _unary(tokens, at + 1, text, depth + 1)
        return Not(operand), at
    if word == "(":
        inner, at = _joins(tokens, at + 1, text, depth + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise MaskcliError(f"{text!r} opens a parenthesis that it does not close; add )")
        return inner, at + 1
    if word in ("", "&", "|", ")"):
        where = f"before {word!r}" if word else "at the end"
        raise MaskcliError(f"{text!r} lacks a mask {where}; write a kind such as causal or sliding:4 there")
    return _operand(word), at + 1


def _operand(word: str) -> Named | File:
    written, colon, rest = word.partition(":")
    is_path = "/" in word or "\\" in word
    if is_path or written.lower().endswith(FILE_SUFFIXES) or word.lower().endswith(FILE_SUFFIXES):
        return File(word)
    name = written.lower().replace("_", "-")
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, 1, 0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise MaskcliError(f"unknown mask kind {written!r}; {hint}known kinds: {', '.join(KINDS)}")
    return Named(name, _numbers(name, KINDS[name], rest if colon else None))


def _numbers(name: str, kind: Kind, rest: str | None) -> tuple[int, ...]:
    """The numbers behind a kind's colon; `rest` is None without a colon."""
    expected, any_number = len(kind.numbers), kind.numbers == ("...",)
    example = f"{name}:{','.join(_EXAMPLES.get(number, '4') for number in kind.numbers)}"
    if not expected and rest is not None:
        raise MaskcliError(f"{name!r} takes no number, but {name}:{rest} was given; write {name}")
    if rest is None and (any_number or not expected):
        return ()
    if not rest:
        what = "a size" if expected == 1 else f"{expected} numbers"
        raise MaskcliError(f"{name} needs {what}: {example}")

    parts = rest.split(",")
    if len(parts) != expected and not any_number:
        raise MaskcliError(
            f"{name} takes {expected} number(s), but {name}:{rest} has {len(parts)}; write {example}"
        )
    for part in parts:
        if not _is_number(part, kind.lowest):
            raise MaskcliError(
                f"{name}:{rest} has {part!r} where a whole number of at least {kind.lowest} belongs; "
                f"write {example}"
            )
    return tuple(map(int, parts))


def _is_number(text: str, lowest: int) -> bool:
    digits = text.isascii() and text.isdigit() and len(text) < 16
    return digits and int(text) >= lowest
