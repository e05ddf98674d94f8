"""Equal findings, folded over the steps and modules of a running program."""

from __future__ import annotations

import dataclasses

from maskcli.diagnostics.finding import SEVERITIES, Finding, Traced
from maskcli.tracing.calls import Place

# What these come from when it was found in another step: a mask that hides nearly all, padding in the middle.
_IN_RUNS = {
    "MSK101": ("MSK102", "MSK201"),
    "MSK205": ("MSK102", "MSK201"),
    "MSK206": ("MSK102", "MSK201"),
    "MSK207": ("MSK102", "MSK201"),
    "MSK203": ("MSK403",),
}
# What is told of the padding's side, whichever tensor tells where that is.
_OF_SIDES = frozenset({"MSK403"})


class Folded:
    """Findings of one rule and severity, in tensors of the same part, that the same line led to, are one."""

    def __init__(self) -> None:
        self._findings: dict[object, Finding] = {}

    def holds(self, finding: Finding, place: Place) -> bool:
        """Whether an equal finding was there before."""
        return _key(finding, place) in self._findings

    def add(self, finding: Finding, place: Place) -> None:
        """Count a finding; of equal ones the first is kept, with the modules of all of them."""
        key = _key(finding, place)
        first = self._findings.get(key, finding)
        traced = first.traced or Traced((), place.step, 0, place.source)
        modules = dict.fromkeys(name for name in (*traced.modules, place.module) if name)
        traced = traced._replace(modules=tuple(modules), calls=traced.calls + 1)
        self._findings[key] = dataclasses.replace(first, traced=traced)

    def join(self, finding: Finding) -> None:
        """Count a finding of another process with those here."""
        traced = finding.traced or Traced((), 0, 1, None)
        key = _key(finding, Place("", "self", traced.step, traced.source))
        first = self._findings.setdefault(key, finding)
        if first is not finding and first.traced is not None:
            modules = tuple(dict.fromkeys((*first.traced.modules, *traced.modules)))
            together = first.traced._replace(modules=modules, calls=first.traced.calls + traced.calls)
            self._findings[key] = dataclasses.replace(first, traced=together)

    def findings(self) -> tuple[Finding, ...]:
        """All so far, worst first, without those that another one explains at all of their places."""
        every = tuple(self._findings.values())
        told = (finding for finding in every if not any(_explains(other, finding) for other in every))
        return tuple(sorted(told, key=lambda finding: (SEVERITIES.index(finding.severity), finding.code)))


def _explains(other: Finding, finding: Finding) -> bool:
    """Whether a finding of another step explains one, in the same places; one in tokens explains all.

    In one call diagnose has told causes from what follows; another call may have a bug of its own.
    """
    if other.code not in _IN_RUNS.get(finding.code, ()):
        return False
    there = _places(other)
    return not there or _places(finding) <= there


def _places(finding: Finding) -> set[object]:
    """The modules of a finding, or the line where it is in none; nothing for one in tokens."""
    traced = finding.traced
    if traced is None:
        return set()
    return set(traced.modules) or ({traced.source} if traced.source else set())


def _key(finding: Finding, place: Place) -> object:
    if finding.code in _OF_SIDES:
        return finding.code, finding.severity
    parts = tuple(name.rpartition(".")[2] for name in finding.tensors)
    return finding.code, finding.severity, parts, place.source
