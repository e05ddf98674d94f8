"""What a shell offers behind the cursor: kinds, conventions, rules, pages, tensors of a file."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any

Completer = Callable[[Any, list[str], str], list[str]]

# What stands before the kind that is being written.
BEFORE = re.compile(r".*[&|~(\s]")
# What a kind needs behind its name, and a file before one of its tensors.
SIZED = COLON = ":"
# What stands before the cursor's word, where bash took one apart.
KEPT = "_MASKCLI_KEPT"


def offering(offers: Callable[[str], Iterable[str]]) -> Completer:
    """A completer of what `offers` gives for the word so far; one that fails offers nothing."""

    def complete(ctx: Any, args: list[str], incomplete: str) -> list[str]:
        kept = os.environ.get(KEPT, "")
        word = kept + incomplete
        try:
            return [each[len(kept) :] for each in offers(word) if each.startswith(word)]
        except Exception:
            return []

    return complete


def join_words() -> None:
    """Put together what bash took apart: a colon ends its words, and it is offered what follows."""
    words, at = os.environ.get("COMP_WORDS", "").split("\n"), os.environ.get("COMP_CWORD", "")
    if COLON not in words[1:] or not at.isdecimal() or int(at) >= len(words):
        return
    joined: list[str] = []
    for word in words[: int(at) + 1]:
        behind = joined[1:] and (word == COLON or joined[-1].endswith(COLON))
        joined[-1:] = [joined[-1] + word] if behind else [*joined[-1:], word]
    before, colon, last = joined[-1].rpartition(COLON)
    # Of the word at the cursor bash knows the last part alone.
    os.environ[KEPT] = before + colon
    os.environ.update(COMP_WORDS="\n".join([*joined[:-1], last]), COMP_CWORD=str(len(joined) - 1))


def words_asked() -> list[str]:
    """The words of the command line that a shell wants completed; none where nothing is completed."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    try:
        return shlex.split(line)[1:]
    except ValueError:
        return line.split()[1:]


@offering
def kinds(word: str) -> list[str]:
    """Kinds of masks, also behind &, | and ~; those that need a number with their colon."""
    from maskcli.masks.kinds import KINDS

    written = BEFORE.match(word)
    before = written[0] if written else ""
    sized = {name for name, kind in KINDS.items() if len(kind.numbers) > kind.optional}
    return [f"{before}{name}{SIZED if name in sized else ''}" for name in KINDS]


@offering
def conventions(word: str) -> list[str]:
    """Conventions of masks."""
    from maskcli.masks.conventions import CONVENTIONS

    return list(CONVENTIONS)


@offering
def targets(word: str) -> list[str]:
    """What a mask can be converted to."""
    from maskcli.masks.arguments import TARGETS
    from maskcli.masks.conventions import CONVENTIONS

    return [*CONVENTIONS, *TARGETS]


@offering
def rules(word: str) -> list[str]:
    """Codes and names of rules; behind a comma the next."""
    from maskcli.diagnostics.catalogue import in_code_order

    before = word[: word.rfind(",") + 1]
    named = [(rule.code, rule.name) for rule in in_code_order()]
    return [before + each for pair in zip(*named, strict=True) for each in pair]


@offering
def pages(word: str) -> list[str]:
    """Pages of the documentation."""
    from maskcli.report.pages import names

    return names()


@offering
def tensors(word: str) -> list[str]:
    """The tensors of the file before a colon; files themselves are the shell's to offer."""
    from maskcli.tensors import open_tensors, split_target

    path = split_target(word)[0]
    if not os.path.isfile(path) or not word.startswith(f"{path}:"):
        return []
    return [f"{path}:{tensor.name}" for tensor in open_tensors(path).tensors]


def masks(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    """The tensors of a file, or kinds."""
    return tensors(ctx, args, incomplete) or kinds(ctx, args, incomplete)
