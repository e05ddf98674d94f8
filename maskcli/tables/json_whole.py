"""JSON that is no line a row: one list of rows, read row by row, or one object of columns."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

from maskcli.errors import MaskcliError
from maskcli.tables.batches import batch_size, chunks_of, words_of
from maskcli.tables.columns import Chunk, Look, Part, Wanted
from maskcli.tables.compressed import expanded
from maskcli.tables.json_rows import checked
from maskcli.tables.limits import BLOCK, MAX_WHOLE
from maskcli.tables.places import size_of

# Rows of a list that tell its columns.
HEAD = 100
SPACE = re.compile(r"[ \t\r\n]*")
# Letters that json may need behind an error to see that there is none: those of a literal, or an escape.
LITERAL = 12


def look(path: str, form: str) -> Look:
    """One part, and the columns that its first rows have."""
    words = words_of(islice(_items(path), HEAD), path)
    return Look((Part(path, form, size=size_of(path)),), words)


def read(part: Part, wanted: Wanted) -> Iterator[Chunk]:
    """The rows of the file."""
    return chunks_of(_items(part.path), part.path, wanted)


def is_columns(path: str) -> bool:
    """Whether a file that begins with an object has its columns in it, and no row a line."""
    with expanded(path) as file:
        line = file.readline(MAX_WHOLE)
        alone = not file.read(BLOCK).strip()
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        # An object over several lines, or a line that its reader will name.
        return line.strip() == b"{"
    return alone and isinstance(row, dict) and batch_size(row) is not None


def _items(path: str) -> Iterator[Any]:
    """The rows of a list, or the columns of an object as one batch."""
    with expanded(path) as file:
        letters = _Letters(path, file)
        if letters.skip("["):
            yield from _listed(letters)
        else:
            yield letters.value("the object")
        if letters.rest():
            raise MaskcliError(f"{path!r} has more behind its end, expected one list or object of JSON")


def _listed(letters: _Letters) -> Iterator[Any]:
    """What a list holds, one after the other, from behind its bracket on."""
    row = 0
    while not letters.skip("]"):
        place = f"row {row} of {letters.path!r}"
        if row and not letters.skip(","):
            raise MaskcliError(f"{place} does not follow a comma, expected a list of rows as JSON")
        yield checked(letters.value(f"row {row}"), partial(str, place))
        row += 1


class _Letters:
    """The text of a file, of which no more is held than the value that is read from it."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.held, self.at = "", 0

    def more(self) -> bool:
        """Read on, at least as much as is held; whether there was more."""
        block = self.file.read(max(BLOCK, len(self.held) - self.at))
        try:
            text = self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise MaskcliError(f"{self.path!r} is not UTF-8 ({error.reason}); save it as UTF-8") from None
        self.held, self.at = self.held[self.at :] + text, 0
        return bool(block)

    def rest(self) -> bool:
        """Whether anything but space follows."""
        while True:
            self.at = SPACE.match(self.held, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.held):
                return True
            if not self.more():
                return False

    def skip(self, letter: str) -> bool:
        """Pass over space, and over a letter if it follows; whether it did."""
        found = self.rest() and self.held[self.at] == letter
        self.at += found
        return found

    def value(self, what: str) -> Any:
        """The next value, of at most MAX_WHOLE letters."""
        self.rest()
        while True:
            try:
                value, self.at = json.JSONDecoder().raw_decode(self.held, self.at)
                return value
            except RecursionError:
                raise MaskcliError(f"{what} of {self.path!r} nests its values too deep") from None
            except ValueError as error:
                cut_off = not isinstance(error, json.JSONDecodeError) or _is_cut_off(error)
                if len(self.held) - self.at > MAX_WHOLE:
                    raise MaskcliError(
                        f"{what} of {self.path!r} has more than {MAX_WHOLE} letters; save one row a line"
                    ) from None
                if not cut_off or not self.more():
                    said = getattr(error, "msg", str(error))
                    raise MaskcliError(
                        f"{what} of {self.path!r} is not JSON ({said}); expected a list of objects"
                    ) from None


def _is_cut_off(error: json.JSONDecodeError) -> bool:
    """Whether what is wrong may be only that the text ends too early."""
    return error.pos > len(error.doc) - LITERAL or error.msg.startswith("Unterminated string")
