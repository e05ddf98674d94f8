"""Equal findings, folded over the steps and modules of a running program."""

from __future__ import annotations

import dataclasses

from maskcli.diagnostics.finding import SEVERITIES, Finding, Traced
from maskcli.tracing.calls import Place


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
        """All so far, worst first."""
        return tuple(sorted(self._findings.values(), key=lambda f: (SEVERITIES.index(f.severity), f.code)))


def _key(finding: Finding, place: Place) -> object:
    parts = tuple(name.rpartition(".")[2] for name in finding.tensors)
    return finding.code, finding.severity, parts, place.source
