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


def alike(findings: Iterable[Finding]) -> list[Alike]:
    """Findings, those of several files that differ in nothing but numbers as one; worst first."""
    groups: dict[object, list[Finding]] = {}
    seen: Counter[object] = Counter()
    for finding in findings:
        kind = _kind(finding)
        # Two of one file are two: what differs between them is where they are.
        times = seen[kind, finding.file]
        seen[kind, finding.file] += 1
        groups.setdefault((kind, times), []).append(finding)
    told = map(_together, groups.values())
    return sorted(told, key=lambda each: SEVERITIES.index(each.finding.severity))


def _together(group: list[Finding]) -> Alike:
    first = group[0]
    same = tuple(each.file for each in group if _place(each) == _place(first))
    near = tuple(each.file for each in group if _place(each) != _place(first))
    return Alike(first, same, near)


def _kind(finding: Finding) -> object:
    """A finding without its numbers."""
    message, fix = (_NUMBER.sub("#", text) for text in (finding.message, finding.fix))
    return finding.code, finding.severity, finding.tensors, message, fix, finding.traced


def _place(finding: Finding) -> object:
    """Its numbers."""
    return finding.message, finding.fix, finding.where, finding.places, finding.tokens
