"""Markdown: a summary for a comment, or for the page of a workflow's run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from maskcli.report.entries import Entry, Results, rest_in_words
from maskcli.report.terminal import clean

# A comment holds 65,536 characters.
MOST = 50
_MARKS = re.compile(r"([\\`*_\[\]<>|~#$])")


def tell(results: Results) -> Iterator[str]:
    """What was found as a table, worst first, under the line that counts it."""
    entries = results.entries
    yield f"**maskcli**: {_escaped(results.closing)}\n"
    if entries:
        yield "\n| | finding | what | where | fix |\n|---|---|---|---|---|\n"
    for entry in entries[:MOST]:
        yield _row(entry)
    if len(entries) > MOST:
        yield f"\nand {rest_in_words(entries[MOST:])}\n"
    if results.errors:
        yield "\n"
    for part in results.errors:
        yield f"- {_escaped(part.name)} could not be checked: {_escaped(part.error)}\n"


def _row(entry: Entry) -> str:
    at = f"{entry.file}:{entry.line}" if entry.line else entry.file
    where = "; ".join(filter(None, (at, entry.place)))
    cells = (entry.severity, entry.title, entry.message, where, entry.fix)
    return f"| {' | '.join(map(_escaped, cells))} |\n"


def _escaped(text: object) -> str:
    """Text that Markdown sets as it is, and that calls nobody by an @."""
    plain = clean(text).replace("&", "&amp;")
    return _MARKS.sub(r"\\\1", plain).replace("@", "@<!-- -->")
