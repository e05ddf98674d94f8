"""Texts and configurations from files: UTF-8 and JSON, and one clear sentence when they are not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from maskcli.errors import MaskcliError
from maskcli.text.numbers import first_of, plural
from maskcli.text.tokenizer import quoted
from maskcli.untrusted import MEBIBYTE, json_object, read_bytes, read_stream

# Far above anything published (vocabularies reach 40 MiB, configurations 5 MiB), far below what would hurt.
MAX_VOCABULARY_BYTES = 256 * MEBIBYTE
MAX_CONFIG_BYTES = 32 * MEBIBYTE
# A text of a million tokens has 5 MiB.
MAX_TEXT_BYTES = 16 * MEBIBYTE
# What is piped in takes its time to be made, but not for ever.
STREAM_SECONDS = 120.0


class Lines(NamedTuple):
    """The sequences of a text and what was odd about it."""

    texts: tuple[str, ...]
    warnings: tuple[str, ...]


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; an empty one when there is no such file."""
    if not path.exists():
        return {}
    try:
        return json_object(read_bytes(path, MAX_CONFIG_BYTES))
    except ValueError as reason:
        raise MaskcliError(
            f"{quoted(str(path))} {reason}; repair it or save the tokenizer again with save_pretrained"
        ) from None


def read_lines(path: str) -> Lines:
    """One text per line of a UTF-8 file."""
    return split_lines(read_text(path), path)


def read_text(path: str) -> str:
    """A UTF-8 file."""
    return _decoded(read_bytes(Path(path), MAX_TEXT_BYTES), quoted(path))


def read_standard_input() -> str:
    """All of standard input as UTF-8."""
    if sys.stdin is None:
        raise MaskcliError("standard input is closed; pass texts, or --file FILE")
    return _decoded(read_stream(sys.stdin.buffer, MAX_TEXT_BYTES, STREAM_SECONDS), "standard input")


def _decoded(data: bytes, named: str) -> str:
    """The text of a file or stream."""
    if b"\0" in data[:8192]:
        raise MaskcliError(f"{named} is binary; pass UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MaskcliError(
            f"{named} is not UTF-8 (byte {data[error.start]:#04x} at offset {error.start}); "
            "save it as UTF-8 text"
        ) from None


def split_lines(text: str, source: str = "standard input") -> Lines:
    """One text per line; blank lines are skipped, and those inside the text with a warning.

    Only line feeds (with or without a carriage return) end a line; form feeds belong to the text.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    texts = tuple(line for line in lines if line.strip())
    if not texts:
        raise MaskcliError(f"{quoted(source)} holds no text; write one text per line")
    blank = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if not blank:
        return Lines(texts, ())
    skipped = f"skipped {len(blank)} blank {plural('line', len(blank))} of {quoted(source)}"
    return Lines(texts, (f"{skipped} ({first_of('line', blank)})",))
