"""Workflow commands: what GitHub shows beside the lines of a change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from maskcli.report.entries import Entry, Results, rest_in_words
from maskcli.report.terminal import clean

# GitHub shows no more of a step.
MOST = 10
LEVELS = {"error": "error", "warning": "warning", "note": "notice"}


def tell(results: Results) -> Iterator[str]:
    """An annotation for each finding, ten at most, then what is left in numbers, and the line that counts."""
    broken = [Entry("", "not-checked", "error", part.error or "", "", part.name) for part in results.errors]
    entries = [*broken, *results.entries]
    for entry in entries[:MOST]:
        yield _annotation(entry) + "\n"
    if len(entries) > MOST:
        yield f"and {rest_in_words(entries[MOST:])}\n"
    yield f"maskcli: {clean(results.closing)}\n"


def _annotation(entry: Entry) -> str:
    """`::error file=FILE,line=LINE,title=TITLE::MESSAGE`."""
    told = "; ".join(filter(None, (entry.message, entry.fix and f"fix: {entry.fix}", entry.place)))
    properties = {"file": entry.file, "line": entry.line, "title": f"maskcli: {entry.title}"}
    return f"::{LEVELS[entry.severity]} {_properties(properties)}::{_escaped(told)}"


def _properties(values: Mapping[str, object]) -> str:
    """Those that are there; colons and commas end one."""
    texts = {name: _escaped(value) for name, value in values.items() if value}
    return ",".join(f"{name}={text.replace(':', '%3A').replace(',', '%2C')}" for name, text in texts.items())


def _escaped(text: object) -> str:
    """Text of an annotation: a percent sign would begin an escape, a line end would end it."""
    return clean(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
