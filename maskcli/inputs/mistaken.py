"""Texts that look like something else: a file, a mask, or the words of one text without quotes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from maskcli.errors import MaskcliError
from maskcli.masks.spec import parse

# So many texts of one word each are rarely meant.
WORDS = 3


def doubts(texts: Sequence[str]) -> tuple[str, ...]:
    """What texts of a command line were probably meant to be, a sentence each.

    >>> doubts(["The", "cat", "sat"])
    ("these are 3 texts of one word each; did you mean one text in quotes: 'The cat sat'?",)
    >>> doubts(["The cat sat", "Hello"])
    ()
    """
    taken = [sentence for text in dict.fromkeys(texts) if (sentence := _meant(text)) is not None]
    if len(texts) >= WORDS and all(len(text.split()) == 1 for text in texts):
        whole = shlex.quote(" ".join(texts))
        taken.append(
            f"these are {len(texts)} texts of one word each; did you mean one text in quotes: {whole}?"
        )
    return tuple(taken)


def _meant(text: str) -> str | None:
    """What a text is beside being one: the name of a file, or a mask; None where it is neither."""
    quoted, path = shlex.quote(text), _file_in(text)
    if path is not None and _holds_tensors(path):
        return (
            f"{text!r} was taken as a text; did you mean the mask in this file (-m {quoted}), "
            f"or maskcli inspect {shlex.quote(path)}?"
        )
    if path == text:
        return f"{text!r} was taken as a text, and is a file; did you mean --file {quoted}?"
    if _reads_as_mask(text):
        return f"{text!r} was taken as a text, and reads as a mask; did you mean -m {quoted}?"
    return None


def _file_in(text: str) -> str | None:
    """The file that a text names, as FILE or FILE:TENSOR; None where no such file is there."""
    return next((path for path in (text, text.partition(":")[0]) if os.path.isfile(path)), None)


def _holds_tensors(path: str) -> bool:
    """Whether a file is one of tensors, by its suffix."""
    from maskcli.tensors import readable, suffix_of

    return suffix_of(path) in readable()


def _reads_as_mask(text: str) -> bool:
    """Whether a text is a whole spec; one plain word, such as full, may well be a word."""
    if text.isalpha():
        return False
    try:
        parse(text)
    except MaskcliError:
        return False
    return True
