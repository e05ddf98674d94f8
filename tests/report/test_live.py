"""The live line of trace: what a program writes to its terminal stands there as it would without the line."""

import io
import os
import re

import pytest

from maskcli.report import live
from maskcli.tracing.results import SoFar

FOUND = SoFar(
    3, 1200, {"error": 2, "warning": 0, "note": 1}, ("MSK101", "MSK202", "MSK203", "MSK401", "MSK402")
)


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        """It is."""
        return True


def screen(text):
    """The lines of a terminal that obeys: carriage returns, up, and clear to the end of the line."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[A":
            row -= 1
        elif part == "\x1b[K":
            lines[row] = lines[row][:column]
        elif part[0] != "\x1b":
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return lines, (row, column)


def followed(texts, monkeypatch):
    """What stands on a terminal after each text of a program, and at the end."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(live, "PAUSE", 0.0)
    seen = []
    with live.live("train.py") as told:
        for text in texts:
            terminal.write(text)
            told(lambda: FOUND)
            seen.append("\n".join(screen(terminal.getvalue())[0]))
    return seen, terminal.getvalue(), terminal


@pytest.mark.parametrize(
    "texts",
    [
        ["one\n", "two\n"],
        ["no end", " of line", "\n", "next\n"],
        ["\r 10%", "\r 20%", "\r100%", "\n", "end\n"],
        ["\r 10%", "\r      \r", "after\n"],
        ["\r 10%", "interrupted\n", "\r 20%"],
        ["bar\n\r 10%", "\r" + "x" * 200, "\n"],
        ["\x1b[31mred", "\x1b[0m\n", "\r\x1b[32m 1%\x1b[0m", "\n"],
        ["a\nb", "\nc\r", "d\n", ""],
    ],
)
def test_the_program_has_its_terminal_to_itself(texts, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    seen, text, terminal = followed(texts, monkeypatch)
    # A line that is empty in the end is where the live line was.
    lines, cursor = screen(text)
    alone, at = screen("".join(texts))
    assert [line.rstrip() for line in lines if line] == [line.rstrip() for line in alone if line]
    assert cursor == at
    assert any("1,200 attention calls" in each for each in seen)
    assert "write" not in vars(terminal)


def test_the_line_fits_and_names_what_was_found(monkeypatch):
    for columns in (20, 60, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        seen, _, _ = followed(["\n"], monkeypatch)
        line = seen[0].splitlines()[-1]
        assert len(line) < columns
        whole = "trace: step 3, 1,200 attention calls, 2 errors, 1 note: MSK101, MSK202, MSK203 and 2 more"
        assert line == (whole if columns == 120 else whole[: len(line) - 1].rstrip() + "…")


def test_a_fork_writes_as_ever(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with live.live("train.py") as told:
        before, ours = terminal.getvalue(), os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: ours + 1)
        told(lambda: FOUND)
        terminal.write("child")
        assert terminal.getvalue() == before + "child"
        monkeypatch.undo()


def test_nobody_to_see_it(monkeypatch):
    for stream, wanted, kind in (
        (io.StringIO(), True, "xterm"),
        (Terminal(), False, "xterm"),
        (Terminal(), True, "dumb"),
    ):
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("TERM", kind)
        with live.live("train.py", wanted) as told:
            assert told is None
        assert stream.getvalue() == ""
