"""A row of JSON: by json alone, or in half the time with its lists of numbers read by numpy."""

from __future__ import annotations

import json
import re
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tables.limits import MAX_COLUMNS

# A string, which is passed over; or a flat list of numbers, of which the group is what its brackets hold.
STRING_OR_NUMBERS = re.compile(rb'"(?:[^"\\]|\\.)*"|\[([-+0-9.eE, ]+)\]')
LIMITS = np.iinfo(np.int64)


def read_row(line: bytes, place: Callable[[], str]) -> dict[str, Any]:
    """A line as a row; `place` words which line it is, for the MaskcliError of one that is none."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise MaskcliError(
            f"{place()} is not UTF-8 (byte {line[error.start]:#04x} at place {error.start}); save it as UTF-8"
        ) from None
    except RecursionError:
        raise MaskcliError(f"{place()} nests its values too deep, expected a row of columns") from None
    except ValueError as error:
        raise MaskcliError(f"{place()} is not JSON ({error}); expected an object a line") from None
    return checked(row, place)


def checked(row: Any, place: Callable[[], str]) -> dict[str, Any]:
    """A row, once it is known to be one."""
    if not isinstance(row, dict):
        raise MaskcliError(
            f"{place()} holds a JSON {type(row).__name__}, expected an object such as "
            '{"input_ids": [...], "labels": [...]}'
        )
    if len(row) > MAX_COLUMNS:
        raise MaskcliError(f"{place()} has {len(row)} columns, expected at most {MAX_COLUMNS}")
    return row


def quick_rows(lines: list[bytes]) -> list[dict[str, Any] | None]:
    """Lines as rows with arrays for flat lists of numbers; None for a line that `read_row` has to read.

    To json, each such list is the one constant that JSON lacks, NaN, whose values it asks for in their order.
    """
    arrays = deque[Array]()
    decode = json.JSONDecoder(parse_constant=lambda _: arrays.popleft()).decode

    def taken(match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            return match[0]
        arrays.append(_numbers(match[1]))
        return b"NaN"

    def quick(line: bytes) -> dict[str, Any] | None:
        arrays.clear()
        if b"NaN" in line or b"Infinity" in line:
            return None
        try:
            row = decode(STRING_OR_NUMBERS.sub(taken, line).decode())
        except (ValueError, RecursionError, DeprecationWarning):
            return None
        return row if isinstance(row, dict) and len(row) <= MAX_COLUMNS else None

    with warnings.catch_warnings():
        # numpy only warns of text behind the last number that it could read.
        warnings.simplefilter("error", DeprecationWarning)
        return [quick(line) for line in lines]


def _numbers(text: bytes) -> Array:
    """A list's numbers; ValueError where they are none, or beyond 64 bits."""
    whole = not any(mark in text for mark in (b".", b"e", b"E"))
    values: Array = np.fromstring(text, np.int64 if whole else np.float64, sep=",")
    if values.size != text.count(b",") + 1:
        raise ValueError("a number is missing")
    if whole and (values.max() == LIMITS.max or values.min() == LIMITS.min):
        raise ValueError("numbers may have been cut to 64 bits")
    return values
