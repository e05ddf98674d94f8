"""Findings as JSON, for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from maskcli import __version__
from maskcli.diagnostics.diagnose import Report
from maskcli.diagnostics.finding import Finding, Where
from maskcli.diagnostics.unchecked import Unchecked
from maskcli.report.forms import SCHEMA_VERSION
from maskcli.report.terminal import json_text
from maskcli.tracing.results import TraceReport


def as_json(report: Report, errors: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
    """The JSON of `diagnose` and `trace`, one object; `errors` are files that could not be checked."""
    from maskcli.report.probed import measured_body

    whole = {"schema_version": SCHEMA_VERSION, "maskcli": __version__, **_body(report)}
    if isinstance(report, TraceReport):
        whole["changed"] = list(report.changed)
        whole["not_followed"] = [
            {"module": each.module, "shape": list(each.shape), "softmaxes": each.softmaxes}
            for each in report.missed
        ]
        whole["unseen"] = list(report.unseen)
        if report.measured or report.unmeasured:
            whole["measured"] = list(map(measured_body, report.measured))
            whole["unmeasured"] = list(report.unmeasured)
        whole["processes"] = {
            "followed": report.processes,
            "lost": report.lost,
            "not_followed": list(report.unfollowed),
            "threads": report.threads,
        }
    if errors:
        whole["errors"] = [{"file": file, "message": text} for file, text in errors]
    whole["summary"] = {**report.counts(), **_sizes(report)}
    yield json_text(whole)
    yield "\n"


def file_line(file: str, report: Report | None, error: str | None) -> str:
    """The JSON of one file on a line: its findings, or the sentence that says why it could not be checked."""
    whole: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "file": file}
    if report is None:
        whole["error"] = error
    else:
        whole |= {**_body(report), "summary": {**report.counts(), **_sizes(report)}}
    return json_text(whole) + "\n"


def _body(report: Report) -> dict[str, Any]:
    """What both JSON forms say of a report."""
    return {
        "findings": list(map(finding_entry, report.findings)),
        "skipped": [
            {
                "code": skip.code,
                "name": skip.name,
                "file": skip.file,
                "needs": list(skip.needs),
                "options": list(skip.options),
            }
            for skip in report.skipped
        ],
        **({} if isinstance(report, TraceReport) else {"unchecked": list(map(_unchecked, report.unchecked))}),
    }


def _unchecked(each: Unchecked) -> dict[str, Any]:
    return {
        "file": each.file,
        "what": each.what,
        "tensors": list(each.tensors),
        "why": each.why,
        "every": each.every,
    }


def _sizes(report: Report) -> dict[str, int]:
    """How much was checked."""
    if not isinstance(report, TraceReport):
        return {"files": len(report.files), "tensors": len(report.checked)}
    return {
        "calls": report.calls,
        "checked": report.looked,
        "steps": report.steps,
        "modules": len(report.checked),
    }


def finding_entry(finding: Finding) -> dict[str, Any]:
    """A finding as JSON."""
    entry: dict[str, Any] = {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity,
        "file": finding.file,
        "tensors": list(finding.tensors),
        "message": finding.message,
        "fix": finding.fix,
        "see": finding.see,
        "where": _place(finding.where),
        "evidence": finding.evidence,
    }
    if finding.places:
        entry["places"] = [_place(place) for place in finding.places]
    if finding.tokens:
        entry["tokens"] = list(finding.tokens)
    if finding.known:
        entry["known"] = list(finding.known)
    if finding.traced:
        modules, step, calls, source = finding.traced
        entry |= {
            "module": modules[0] if modules else None,
            "modules": list(modules),
            "step": step,
            "calls": calls,
            "source": {"file": source[0], "line": source[1]} if source else None,
        }
    return entry


def _place(where: Where) -> dict[str, Any]:
    return {
        "batch": None if where.batch is None else list(where.batch),
        "heads": None if where.heads is None else list(where.heads),
        "queries": None if where.queries is None else [list(run) for run in where.queries],
        "keys": None if where.keys is None else [list(run) for run in where.keys],
    }
