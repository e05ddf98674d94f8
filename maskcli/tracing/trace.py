"""Trace a program from within: `with maskcli.trace() as report:` checks every attention call made inside."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from maskcli.diagnostics.finding import Finding
from maskcli.displayed import Displayed
from maskcli.extras import require
from maskcli.tracing.checker import Checker
from maskcli.tracing.children import Children, children_of
from maskcli.tracing.imports import after_import
from maskcli.tracing.results import Options, Told, TraceReport
from maskcli.tracing.watch import Watch

if TYPE_CHECKING:
    from maskcli.diagnostics.probed import ProbeReport


class Trace(Displayed):
    """Attention calls made while this is entered are checked; what is found can be read at any time."""

    def __init__(
        self,
        options: Options,
        program: str | None = None,
        children: Children | None = None,
        told: Told | None = None,
    ) -> None:
        require("torch", "trace")
        self._checker = Checker(program if program is not None else sys.argv[0] or "python", options, told)
        self._watch = Watch(self._checker)
        self._children = children
        self._measured: tuple[tuple[ProbeReport, ...], tuple[str, ...]] = ((), ())
        self._call_off: Callable[[], None] = lambda: None

    def __enter__(self) -> Trace:
        if self._children is None:
            self._children = children_of(self._checker.program, self._checker.options)
        self._watch.children = self._children
        self._call_off = after_import("torch", self._watch.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._call_off()
        self._watch.stop()
        children = self._children
        if children is None:
            return
        if children.is_child:
            children.leave(self._watch.watcher.report())
            return
        reports, lost = children.reports()
        self._checker.join(reports, lost)
        children.close()
        if self._watch.models is not None:
            self._measured = self._watch.models.measured(self._checker.options.declared)

    def __str__(self) -> str:
        """The report so far as text."""
        return str(self.report)

    @property
    def report(self) -> TraceReport:
        """All so far: findings worst first, what could not be decided, and how much was checked."""
        report = self._watch.watcher.report()
        if self._watch.models is None:
            return report
        from maskcli.tracing.measured import with_measured

        return with_measured(report, *self._measured)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings so far, worst first."""
        return self.report.findings
