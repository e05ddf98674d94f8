"""Sequences from files and standard input."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maskcli.errors import MaskcliError
from maskcli.text import files, read_lines, split_lines


def test_each_line_is_a_sequence(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffthe cat\r\n  naïve\x0ccafé\u2028x \n\n".encode())
    assert read_lines(str(path)) == (("the cat", "  naïve\x0ccafé\u2028x "), ())


def test_blank_lines_inside_are_skipped_and_said() -> None:
    assert split_lines("a\n\n \nb\n") == (
        ("a", "b"),
        ("skipped 2 blank lines of 'standard input' (lines 2, 3)",),
    )
    assert split_lines("\na").warnings == ("skipped 1 blank line of 'standard input' (line 1)",)


def test_a_text_without_words_is_an_error() -> None:
    with pytest.raises(MaskcliError, match="'standard input' holds no text"):
        split_lines("\n \n")


@pytest.mark.parametrize(
    ("data", "message"), [(b"\x7fELF\x00", "binary"), (b"ab\xff", "not UTF-8.*0xff at offset 2")]
)
def test_what_is_not_text_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(data)
    with pytest.raises(MaskcliError, match=message):
        read_lines(str(path))


def test_what_is_not_a_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (("pipe", "pipe or socket"), ("", "directory"), ("none", "no such file")):
        with pytest.raises(MaskcliError, match=message):
            read_lines(str(tmp_path / path))
    with pytest.raises(MaskcliError, match="null"):
        read_lines("a\0b")


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.truncate(files.MAX_TEXT_BYTES + 1)
    with pytest.raises(MaskcliError, match="at most 16 MiB"):
        read_lines(str(path))
