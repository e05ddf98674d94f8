"""Mask specs: the text "causal & sliding:4" to a Mask.

spec := kind | spec & spec | spec "|" spec | ~spec | (spec) | per-document(spec), with ~ before & before |;
`not`, `and`, `or` are the same.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from maskcli.errors import MaskcliError
from maskcli.masks.kinds import KINDS
from maskcli.masks.layout import Layout
from maskcli.masks.leaves import PER_DOCUMENT, axes_of, build_kind, leaf, leaf_text, reads_file
from maskcli.masks.leaves import File as File
from maskcli.masks.leaves import Named as Named
from maskcli.masks.mask import Mask
from maskcli.masks.packed import by_document

# Deeper nesting or longer texts are nobody's mask, and a spec can come from a file's metadata.
MAX_LENGTH, MAX_DEPTH = 100_000, 50
_WORDS = {"and": "&", "or": "|", "not": "~", "&&": "&", "||": "|", "!": "~"}
_TOKEN = re.compile(r"\s*(?:(&&?|\|\|?|[~!()])|([^\s&|~!()]+))")
# What is to be known, and how to say it.
_HINTS = {
    "padding": "which keys are padding; pass a padding mask, or ids with --pad-id",
    "source": "the source; pass its text with --source",
    "documents": "where documents begin; pass --packed, or write their lengths (documents:5,3,7)",
}

Resolve = Callable[[str, Layout], Mask]


@dataclass(frozen=True)
class Not:
    """~operand."""

    operand: Spec


@dataclass(frozen=True)
class Joined:
    """Operands joined by one sign, & or |."""

    sign: str
    operands: tuple[Spec, ...]


@dataclass(frozen=True)
class PerDocument:
    """The operand in every packed document by itself: those of the input, or of these lengths."""

    operand: Spec
    lengths: tuple[int, ...] = ()


Spec = Named | File | Not | Joined | PerDocument


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
        require(spec, layout)
        return build_kind(spec, layout)
    if isinstance(spec, File):
        if resolve is None:
            raise MaskcliError(
                f"{spec.target!r} names a file, and files are not read here; write a kind such as causal"
            )
        return resolve(spec.target, layout)
    if isinstance(spec, Not):
        return ~build(spec.operand, layout, resolve)
    if isinstance(spec, PerDocument):
        return in_each_document(spec, layout, lambda part: build(spec.operand, part, resolve))
    masks = (build(operand, layout, resolve) for operand in spec.operands)
    return functools.reduce(operator.and_ if spec.sign == "&" else operator.or_, masks)


def in_each_document(spec: PerDocument, layout: Layout, build_part: Callable[[Layout], Mask]) -> Mask:
    """A mask of each document by itself, of what its operand is; nothing across documents.

    Only what reads tokens has to be built anew for documents of one length.
    """
    require(Named("documents", spec.lengths), layout)
    # What varies between samples, or reads tensors or files, differs between documents as well.
    alike = "b" not in axes(spec.operand) and not tensors_in(spec.operand)
    return by_document(layout, spec.lengths, build_part, alike)


def write(spec: Spec) -> str:
    """The shortest text that parses to `spec`."""
    if isinstance(spec, (Named, File)):
        return leaf_text(spec)
    if isinstance(spec, Not):
        return f"~{_within(spec.operand, '&|')}"
    if isinstance(spec, PerDocument):
        lengths = ",".join(map(str, spec.lengths))
        return f"{PER_DOCUMENT}{':' if lengths else ''}{lengths}({write(spec.operand)})"
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
    return {part.name for part in leaves(spec) if isinstance(part, Named)}


def tensors_in(spec: Spec) -> set[str]:
    """The tensors that `spec` reads, by name."""
    return {part.tensor for part in leaves(spec) if isinstance(part, Named) and part.tensor is not None}


def needs(spec: Spec) -> set[str]:
    """The facts about the input that `spec` needs: padding, documents, source."""
    return {need for part in leaves(spec) if isinstance(part, Named) and (need := _need(part))}


def names_files(spec: Spec) -> bool:
    """Whether `spec` names a file, as an operand or for a tensor that it reads."""
    return any(map(reads_file, leaves(spec)))


def axes(spec: Spec) -> str:
    """The axes that `spec` varies along: any of "b" and "q" (files may vary along all)."""
    found = "".join(map(axes_of, leaves(spec)))
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


def leaves(spec: Spec) -> Iterator[Named | File]:
    """The operands of a spec; the documents of per-document are one of them."""
    if isinstance(spec, (Named, File)):
        yield spec
    elif isinstance(spec, Joined):
        for operand in spec.operands:
            yield from leaves(operand)
    else:
        if isinstance(spec, PerDocument):
            yield Named("documents", spec.lengths)
        yield from leaves(spec.operand)


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
    if tokens[at + 1 : at + 2] == ["("]:
        return _per_document(tokens, at, text, depth)
    if word in ("", "&", "|", ")"):
        where = f"before {word!r}" if word else "at the end"
        raise MaskcliError(f"{text!r} lacks a mask {where}; write a kind such as causal or sliding:4 there")
    return leaf(word), at + 1


def _per_document(tokens: list[str], at: int, text: str, depth: int) -> tuple[Spec, int]:
    """per-document(SPEC), or per-document:5,3,7(SPEC)."""
    name, colon, lengths = tokens[at].partition(":")
    if name.lower().replace("_", "-") != PER_DOCUMENT:
        raise MaskcliError(
            f"{text!r} does not read as a mask: {tokens[at]!r} stands before a parenthesis; "
            f"join masks with & or |, or write {PER_DOCUMENT}(SPEC)"
        )
    numbers = leaf(f"documents:{lengths}") if colon else Named("documents")
    assert isinstance(numbers, Named)
    operand, end = _unary(tokens, at + 1, text, depth + 1)
    return PerDocument(operand, numbers.numbers), end
