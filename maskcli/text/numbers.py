"""Numbers as people write them: rows of ids "5 3 2; 7 4", lengths "5,3,7", and the first of many."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from maskcli.errors import MaskcliError
from maskcli.text.tokenizer import quoted

# How many numbers of a list a sentence names.
NAMED = 5


def parse_ids(rows: str | Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows of ids, between semicolons or on lines of their own (one at the end is no row); none is empty."""
    if isinstance(rows, str):
        parsed = [_integers(row, "id") for row in re.split(r"[;\n]", rows.strip().rstrip(";"))]
    else:
        parsed = [_checked(row, "id") for row in rows]
    if not parsed or not all(parsed):
        raise MaskcliError(f"a row of {quoted(rows)} has no ids; write rows such as '5 3 2 0 0; 7 4 8 6 0'")
    return parsed


def parse_lengths(lengths: str | Sequence[int]) -> list[int]:
    """Lengths of 1 or more."""
    parsed = _integers(lengths, "length") if isinstance(lengths, str) else _checked(lengths, "length")
    if not parsed or 0 in parsed:
        raise MaskcliError(f"the lengths {quoted(lengths)} must all be 1 or more; write them such as 5,3,7")
    return parsed


def first_of(what: str, numbers: Sequence[int]) -> str:
    """The first numbers in words, such as `rows 1, 4, ...`; `what` is the word for one."""
    named = ", ".join(map(str, numbers[:NAMED]))
    return f"{plural(what, len(numbers))} {named}{', ...' if len(numbers) > NAMED else ''}"


def plural(what: str, count: int) -> str:
    """The word for so many."""
    return what if count == 1 else f"{what}s"


def _integers(text: str, what: str) -> list[int]:
    """Integers between spaces or commas."""
    words = text.replace(",", " ").split()
    for word in words:
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", word):
            raise MaskcliError(
                f"the {what} {quoted(word)} is not a whole number; write {what}s such as 5 3 7 or 5,3,7"
            )
    return _checked(map(int, words), what)


def _checked(values: Iterable[object], what: str) -> list[int]:
    """The values as Python integers of 0 or more."""
    numbers = []
    for value in values:
        if not isinstance(value, SupportsIndex) or not 0 <= value.__index__() < 2**63:
            raise MaskcliError(
                f"the {what} {quoted(value)} is out of range; {what}s are whole numbers from 0 to 2**63 - 1"
            )
        numbers.append(value.__index__())
    return numbers
