"""Rows as JSON, one a line: pieces of a file as parts, lists of numbers read by numpy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

from maskcli.errors import MaskcliError
from maskcli.tables.columns import Chunk, Look, Part, Wanted
from maskcli.tables.compressed import expanded
from maskcli.tables.gather import chunk_of, words
from maskcli.tables.json_rows import quick_rows, read_row
from maskcli.tables.limits import BLOCK, MAX_LINE, MAX_VALUES, PART, SAMPLE
from maskcli.tables.places import size_of

BOM = b"\xef\xbb\xbf"


def look(path: str, form: str) -> Look:
    """Its pieces of about PART bytes, and the columns of its first rows; a packed file is one piece."""
    with expanded(path) as file:
        plain = file.seekable()
        sample = list(lines(path, file, (0, SAMPLE)))
    rows = _rows(sample, path, 0, exact=False)
    size = size_of(path)
    cuts = [*range(0, size, PART)][: None if plain else 1] or [0]
    ends = [*cuts[1:], size if plain else -1]
    parts = (
        Part(path, form, (begin, end), size=end - begin if plain else size)
        for begin, end in zip(cuts, ends, strict=True)
    )
    return Look(tuple(parts), words(rows))


def read(part: Part, wanted: Wanted) -> Iterator[Chunk]:
    """The rows whose lines begin in a piece of the file."""
    begin, end = part.piece
    row = 0
    with expanded(part.path) as file:
        for block in _blocks(lines(part.path, file, (begin, end)), wanted.rows):
            numbers = [number for number, _ in block]

            def place(at: int, numbers: list[int] = numbers) -> str:
                return _place(part.path, begin, numbers[at])

            rows = _rows(block, part.path, begin, exact=bool(wanted.others))
            yield chunk_of(rows, row, wanted, place)
            row += len(rows)


def lines(path: str, file: BinaryIO, piece: tuple[int, int]) -> Iterator[tuple[int, bytes]]:
    """(number, line) of the lines that begin in a piece of a file and are not blank, counted from its first.

    An end of -1 is that of the file.
    """
    begin, end = piece
    at = begin
    if begin:
        file.seek(begin - 1)
        at += len(_line(path, file)) - 1
    number = 0
    while end < 0 or at < end:
        line = _line(path, file)
        if not line:
            return
        text = line.removeprefix(BOM) if at == 0 else line
        if text and not text.isspace():
            yield number, text
        at += len(line)
        number += 1


def _line(path: str, file: BinaryIO) -> bytes:
    line = file.readline(MAX_LINE + 1)
    if len(line) > MAX_LINE:
        raise MaskcliError(
            f"{path!r} has a line of more than {MAX_LINE} bytes, expected a row of JSON; check it"
        )
    if len(line) > MAX_VALUES and line.count(b",") > MAX_VALUES:
        raise MaskcliError(f"{path!r} has a line of more than {MAX_VALUES} numbers; check what it is")
    return line


def _blocks(lines: Iterator[tuple[int, bytes]], rows: int) -> Iterator[list[tuple[int, bytes]]]:
    """Lines in blocks of about BLOCK bytes and at most so many rows."""
    block, size = list[tuple[int, bytes]](), 0
    for line in lines:
        block.append(line)
        size += len(line[1])
        if size >= BLOCK or len(block) == rows:
            yield block
            block, size = [], 0
    if block:
        yield block


def _rows(block: list[tuple[int, bytes]], path: str, begin: int, exact: bool) -> list[dict[str, Any]]:
    """The lines of a block as rows; with `exact`, all of a row are Python's own values."""
    quick = [None] * len(block) if exact else quick_rows([line for _, line in block])
    return [
        row if row is not None else read_row(line, partial(_place, path, begin, number))
        for row, (number, line) in zip(quick, block, strict=True)
    ]


def _place(path: str, begin: int, number: int) -> str:
    """Which line the `number`th is of those that begin behind byte `begin`, in words."""
    before = 0
    if begin:
        with expanded(path) as file:
            left, before = begin - 1, 1
            while block := file.read(min(BLOCK, left)):
                before += block.count(b"\n")
                left -= len(block)
    return f"line {before + number + 1} of {path!r}"
