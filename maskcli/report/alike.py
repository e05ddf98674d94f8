"""Equal findings of several files, told once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from maskcli.diagnostics.finding import SEVERITIES, Finding

_NUMBER = re.compile(r"\d[\d.,]*")


class Alike(NamedTuple):
    """A finding, the files where it is just the same, and those where only its numbers are others."""

    finding: Finding
    same: tuple[str, ...]
    near: tuple[str, ...] = ()

    @property
    def files(self) -> int:
        """In how many files it was found."""
        return len(self.same) + len(self.near)

    def with_(self, other: Finding) -> Alike:
        """The same with the file of another finding."""
        if _place(other) == _place(self.finding):
            return self._replace(same=(*self.same, other.file))
        return self._replace(near=(*self.near, other.file))


def alike(findings: Iterable[Finding]) -> list[Alike]:
    """Findings, those of several files that differ in nothing but numbers as one; worst first."""
    groups: dict[object, Alike] = {}
    kinds: dict[object, object] = {}
    seen: Counter[object] = Counter()
    for finding in findings:
        kind = _kind(finding)
        kind = kinds.setdefault(kind, kind)
        # Two of one file are two: what differs between them is where they are.
        key = kind, seen[kind, finding.file]
        seen[kind, finding.file] += 1
        # Of those that are alike only the first is kept: there may be thousands of files.
        groups[key] = groups[key].with_(finding) if key in groups else Alike(finding, (finding.file,))
    return sorted(groups.values(), key=lambda each: SEVERITIES.index(each.finding.severity))


def _kind(finding: Finding) -> object:
    """A finding without its numbers."""
    message, fix = (_NUMBER.sub("#", text) for text in (finding.message, finding.fix))
    return finding.code, finding.severity, finding.tensors, message, fix, finding.traced


def _place(finding: Finding) -> object:
    """Its numbers."""
    return finding.message, finding.fix, finding.where, finding.places, finding.tokens
