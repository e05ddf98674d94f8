"""The report of a probe: the table of forms of `probe`, and a writer for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from maskcli.report.ci import Tell, ci_forms
from maskcli.report.forms import PAGES, SCHEMA_VERSION, Form, in_pieces, on_screen

# The command line asks for the names of the forms: what they write is imported when they do.
if TYPE_CHECKING:
    from rich.console import Console

    from maskcli.diagnostics.behaviour import Compared, Seen
    from maskcli.diagnostics.probed import ProbeReport

Writer = Callable[..., None]


def _text(report: ProbeReport, console: Console) -> None:
    from maskcli.report.findings import print_findings, print_lines

    print_behaviour(report, console)
    console.print()
    print_findings(report.findings, console)
    print_lines([report.closing, *_hints(report)], console)


def print_behaviour(report: ProbeReport, console: Console) -> None:
    """What was measured: a table of the layers, and lines on the whole model."""
    from maskcli.report.measured import layers_of, opening, print_layers, whole_model
    from maskcli.report.terminal import hang

    hang(console, "", opening(report.behaviour))
    layers = layers_of(report.behaviour)
    if layers:
        print_layers(layers, console)
    for line in whole_model(report.behaviour):
        hang(console, "  " if line.startswith(" ") else "", line.strip())


def _concise(report: ProbeReport) -> Iterator[str]:
    from maskcli.report.findings import concise

    yield from concise(report.findings)
    yield f"{report.closing}\n"


def _hints(report: ProbeReport) -> Iterator[str]:
    """What a report leaves open, and the option that helps."""
    behaviour = report.behaviour
    if behaviour.seen and not any(seen.expected for seen in behaviour.seen):
        yield "no mask was expected: --expect SPEC, such as causal, says which"
    if report.kept is None and any(finding.see for finding in report.findings):
        yield "-o measured.safetensors keeps the masks"


def as_json(report: ProbeReport) -> Iterator[str]:
    """The JSON of a probe, one object."""
    from maskcli import __version__
    from maskcli.report.objects import finding_entry
    from maskcli.report.terminal import json_text

    whole = {
        "schema_version": SCHEMA_VERSION,
        "maskcli": __version__,
        **measured_body(report),
        "findings": list(map(finding_entry, report.findings)),
        "summary": report.counts(),
    }
    yield json_text(whole)
    yield "\n"


def measured_body(report: ProbeReport) -> dict[str, Any]:
    """What was measured of one model, as JSON."""
    behaviour = report.behaviour
    reach = behaviour.reach
    return {
        "target": report.target,
        "model": behaviour.model,
        "calls": behaviour.calls,
        "forwards": behaviour.forwards,
        "mixing": list(behaviour.mixing),
        "layers": list(map(_layer, behaviour.seen)),
        "reach": None if reach is None else reach._asdict(),
        "compared": list(map(_comparison, behaviour.compared)),
        "unmeasured": list(behaviour.unmeasured),
        "notes": list(behaviour.notes),
    }


def _layer(seen: Seen) -> dict[str, Any]:
    """One layer in one run."""
    from maskcli.diagnostics.verdicts.called import called_by
    from maskcli.diagnostics.verdicts.cells import extra, lacking

    called, meant = called_by(seen), seen.expected
    return {
        "module": seen.module,
        "kind": seen.kind,
        "attention": seen.attention,
        "setting": seen.setting,
        "keys_of": seen.keys,
        "shape": list(seen.reached.shape),
        "past": seen.layout.past,
        "measured": called.spec,
        "wrong_cells": called.wrong,
        "columns": None if seen.columns is None else list(seen.columns),
        "expected": None if meant is None else {"spec": meant.spec, "told": meant.told, "whole": meant.whole},
        "more": extra(seen).attended,
        "fewer": lacking(seen).attended,
        "soft": seen.soft.attended,
        "noise": seen.noise,
        "rows": [list(pair) for pair in seen.rows],
    }


def _comparison(each: Compared) -> dict[str, Any]:
    """Two runs of the whole model; an infinite difference, as of NaN, is null."""
    return {
        "test": each.test,
        "what": each.what,
        "setting": each.setting,
        "difference": each.difference if math.isfinite(each.difference) else None,
        "limit": each.limit,
        "agrees": each.agrees,
        "cells": [list(cell) for cell in each.cells],
    }


def _for_ci(tell: Tell) -> Writer:
    def tell_report(report: ProbeReport) -> Iterator[str]:
        from maskcli.report.entries import of_probe

        return tell(of_probe(report))

    return in_pieces(tell_report)


def _page(report: ProbeReport, path: str | None, megabytes: int | None = None) -> None:
    from maskcli.report.page.probed import save_probed

    save_probed(report, path, megabytes)


FORMS: tuple[Form[Writer], ...] = (
    Form("text", (".txt",), on_screen(_text)),
    Form("concise", (), in_pieces(_concise)),
    Form("json", (".json",), in_pieces(as_json)),
    *ci_forms(_for_ci),
    Form(None, PAGES, _page),
)
