"""The page of `probe`: whom each layer sees in each run, beside whom it should see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from maskcli.diagnostics.behaviour import Seen
from maskcli.diagnostics.finding import Finding
from maskcli.diagnostics.probed import ProbeReport
from maskcli.diagnostics.verdicts.called import meant_by
from maskcli.diagnostics.verdicts.cells import allowed, asking, looked
from maskcli.masks.spec import parse
from maskcli.report.page.data import Drawn, Side, card
from maskcli.report.page.pages import save
from maskcli.report.terminal import lines
from maskcli.scene.forbidden import forbidden

# The model itself, as a module.
WHOLE = "the model itself"
# Columns of the report beside the maps.
COLUMNS = 100
SILENT = (
    "What a move cannot tell is drawn as it should be: a query's own key, queries that are padding, and keys "
    "that were not measured."
)


def save_probed(report: ProbeReport, path: str | None, megabytes: int | None = None) -> None:
    """Write the page."""
    cards = [measured_card(finding) for finding in report.findings]
    drawn = maps_of(report)
    save(f"maskcli probe: {report.target}", drawn, path, megabytes, findings=cards, text=text_of(report))


def text_of(report: ProbeReport) -> list[str]:
    """What was measured, in lines."""
    from maskcli.report.probed import print_behaviour

    told = lines(lambda console: print_behaviour(report, console), COLUMNS)
    return [*told, "", report.closing, *([SILENT] if report.behaviour.seen else [])]


def measured_card(finding: Finding) -> dict[str, Any]:
    """A finding, which is shown in the run where it is worst."""
    named = replace(finding, tensors=tuple(name or WHOLE for name in finding.tensors))
    return {**card(named), "file": str(finding.evidence.get("setting", ""))}


def maps_of(report: ProbeReport) -> list[Drawn]:
    """A map for each layer in each run, run by run."""
    seen = report.behaviour.seen
    runs = dict.fromkeys(each.setting for each in seen)
    return [_map(each) for run in runs for each in seen if each.setting == run]


def _map(seen: Seen) -> Drawn:
    meant, layout = seen.expected, seen.layout
    tells, may = looked(seen), allowed(seen)
    mask = (seen.reached & tells) | (may - tells)
    reasons = () if meant is None else forbidden(may, layout, parse(meant.spec), meant_by(meant, seen))
    # Where not all that may be seen has to be, what is not seen is no difference.
    should = may if meant is not None and meant.whole else may & mask
    return Drawn(
        file=seen.setting,
        name=seen.module or WHOLE,
        role="mask",
        shape=seen.reached.shape,
        mask=mask,
        meant=should,
        reasons=reasons,
        queries=Side(real=None if layout.cross else asking(layout)),
        keys=Side(real=layout.real, documents=layout.documents),
        past=0 if layout.cross else layout.past,
        words=("measured", "should be"),
    )
