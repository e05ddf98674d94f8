"""Results as plain text: what print() shows of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from maskcli.masks.words import counted
from maskcli.untrusted import clean


def plain(findings: Iterable[object], closing: str) -> str:
    """A line for each finding, then the counts. What stands in files reaches no terminal raw."""
    return "\n".join(clean(line) for line in [*findings, closing])


def counts_in_words(counts: Mapping[str, int]) -> str:
    """Findings by severity: "2 errors, 1 note", or "nothing found"."""
    return ", ".join(counted(count, name) for name, count in counts.items() if count) or "nothing found"
