"""The page of `trace`: the calls in which something was found first, and the masks that were measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maskcli.diagnostics.diagnose import scenes_of
from maskcli.diagnostics.finding import Finding
from maskcli.inputs.operands import resolver
from maskcli.report.findings import origin
from maskcli.report.page.data import Drawn, card
from maskcli.report.page.pages import of_scene, page
from maskcli.report.page.probed import maps_of, measured_card, text_of
from maskcli.report.traced import beside, opening
from maskcli.tensors import TensorFile
from maskcli.tracing.results import TraceReport


def traced(report: TraceReport, megabytes: int | None) -> Iterator[str]:
    """The page, in pieces."""
    cards = list(map(_card, report.findings))
    measured = [each for probed in report.measured for each in maps_of(probed)]
    text = [*opening(report), report.closing, *beside(report)]
    text += [line for probed in report.measured for line in ("", *text_of(probed))]
    title = f"maskcli trace: {', '.join(filter(None, report.files))}"
    return page(title, [*_calls(report), *measured], megabytes, findings=cards, text=text)


def _card(finding: Finding) -> dict[str, Any]:
    """A finding, which is shown in the step where it was first."""
    if finding.traced is None:
        return measured_card(finding)
    made = card(finding)
    parts = [made["place"], origin(finding.traced)]
    return {**made, "file": _step(finding.traced.step), "place": "; ".join(filter(None, parts))}


def _step(number: int) -> str:
    return f"step {number}"


def _calls(report: TraceReport) -> Iterator[Drawn]:
    """The maps of calls that were kept."""
    for call in report.kept:
        file = TensorFile(_step(call.step), ())
        findings = [each for each in report.findings if each.traced and each.traced.step == call.step]
        for scene in scenes_of(file, call.declared, call.tensors, resolver(call.declared.convention)):
            yield from of_scene(scene, findings, call.token)
