"""`trace --measure`: the masks of a program's models, measured from behaviour once the program has ended.

The first arguments of each outermost module are kept, and the module with them. By the end all facts are
known, such as that a loss asks for the next token, and whatever a measurement does to a model no longer
matters.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from maskcli.diagnostics.finding import SEVERITIES, Finding
from maskcli.diagnostics.probed import ProbeReport, report_of
from maskcli.errors import MaskcliError
from maskcli.meant.facts import Declared
from maskcli.padding import edge_padding
from maskcli.probing.axes import with_axes
from maskcli.probing.caches import copy_cache, is_cache
from maskcli.probing.plan import ROWS, Plan
from maskcli.probing.probe import measure, undisturbed
from maskcli.probing.runs import given
from maskcli.probing.subject import Subject, subject_of, unwrapped
from maskcli.tracing.calls import quietly
from maskcli.tracing.results import TraceReport
from maskcli.tracing.steps import Step

# Models that are kept at most; a program makes no more by design.
MOST = 4
# What was not measured stands in the first lines of a trace.
NOT_COVERED = "MSK613"


class _Kept(NamedTuple):
    """A module and its first arguments, by name, and the step in which it was called."""

    module: Any
    arguments: dict[str, Any]
    step: Step


@dataclass(eq=False)
class Models:
    """The outermost modules of a program, until they are measured."""

    kept: list[_Kept] = field(default_factory=list)

    def keep(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], step: Step) -> None:
        """A model is called: its first call is kept, of a few rows."""
        module = unwrapped(module)
        if len(self.kept) >= MOST or any(each.module is module for each in self.kept):
            return
        try:
            named = inspect.signature(module.forward).bind(*args, **kwargs)
        except (TypeError, ValueError):
            return
        arguments = dict(named.arguments)
        for name, parameter in named.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name, {})
            if parameter.kind is parameter.VAR_POSITIONAL and len(arguments.get(name, ())) == 1:
                arguments[name] = arguments[name][0]
        self.kept.append(_Kept(module, _some_rows(arguments), step))

    def measured(self, declared: Declared) -> tuple[tuple[ProbeReport, ...], tuple[str, ...]]:
        """What is measured of them, and in words what could not be."""
        reports, failed = [], []
        for each in self.kept:
            try:
                with quietly(), _at_rest(each.module), undisturbed(each.module):
                    reports.append(_measured(each, declared))
            except MaskcliError as error:
                failed.append(str(error))
        self.kept.clear()
        return tuple(reports), tuple(failed)


def _some_rows(arguments: dict[str, Any]) -> dict[str, Any]:
    """Copies of arguments, of the first rows of a batch where all tensors have as many."""
    import torch

    tensors = [value for value in arguments.values() if torch.is_tensor(value) and value.dim() > 1]
    counts = {value.shape[0] for value in tensors}
    whole = any(is_cache(value) for value in arguments.values()) or len(counts) != 1
    rows = slice(None) if whole else slice(ROWS)

    def kept(value: Any) -> Any:
        if is_cache(value):
            return copy_cache(value)
        if not torch.is_tensor(value):
            return value
        part = value[rows] if value.dim() > 1 else value
        return part.detach().clone()

    return {name: kept(value) for name, value in arguments.items()}


@contextmanager
def _at_rest(module: Any) -> Iterator[None]:
    """A module in eval() mode; in its own mode again afterwards."""
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        yield
    finally:
        for each in training:
            each.training = True


def _measured(kept: _Kept, declared: Declared) -> ProbeReport:
    name = type(kept.module).__name__
    subject = with_axes(subject_of(kept.module, kept.arguments, name))
    facts = kept.step.declared(declared)
    subject = dataclasses.replace(subject, config=facts.model, real=_real(subject, facts))
    return report_of(measure(subject, Plan(declared=facts)), name)


def _real(subject: Subject, facts: Declared) -> Any:
    """Which tokens are real by the pad id, where no mask among the arguments tells."""
    run = given(subject)
    if run.real is not None or facts.pad_id is None:
        return None
    ids = run.arguments[run.content[0]]
    if ids.is_floating_point():
        return None
    real = edge_padding(ids.cpu().numpy(), facts.pad_id)
    return None if real.all() else real


def with_measured(
    report: TraceReport, reports: tuple[ProbeReport, ...], unmeasured: tuple[str, ...]
) -> TraceReport:
    """A report and what was measured, without findings on modules of which a call has shown one already."""
    shown = {
        module
        for finding in report.findings
        if finding.traced is not None and finding.severity != "note"
        for module in finding.traced.modules
    }
    found = [finding for each in reports for finding in each.findings if not _is_shown(finding, shown)]
    wanted = (finding for finding in found if finding.code != NOT_COVERED)
    told = (dataclasses.replace(finding, see=f"maskcli rule {finding.code}") for finding in wanted)
    every = [*report.findings, *told]
    findings = tuple(sorted(every, key=lambda finding: SEVERITIES.index(finding.severity)))
    missing = (*unmeasured, *(why for each in reports for why in each.behaviour.unmeasured))
    return dataclasses.replace(report, findings=findings, measured=reports, unmeasured=missing)


def _is_shown(finding: Finding, shown: set[str]) -> bool:
    """Whether all modules of a finding, which may stand above or below those that called attention, were
    named.
    """
    return bool(finding.tensors) and all(
        any(
            name == module or name.startswith(f"{module}.") or module.startswith(f"{name}.") for name in shown
        )
        for module in finding.tensors
    )
