"""The report on a running program: the table of forms of `trace`, and a writer for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from maskcli.report.forms import Form
from maskcli.report.terminal import console, write

# The command line asks for the names of the forms: what they write is imported when they do.
if TYPE_CHECKING:
    from maskcli.tracing.results import TraceReport

    Writer = Callable[[TraceReport, TextIO, bool], None]


def _text(report: TraceReport, stream: TextIO, verbose: bool) -> None:
    from maskcli.report.findings import print_findings, print_lines, trace_closing, trace_opening
    from maskcli.report.probed import print_behaviour

    screen = console(stream)
    print_lines(trace_opening(report), screen)
    for each in report.measured:
        print_behaviour(each, screen)
    print_findings(report.findings, screen)
    print_lines(trace_closing(report, verbose), screen)


def _concise(report: TraceReport, stream: TextIO, _: bool) -> None:
    from maskcli.report.findings import concise, trace_closing, trace_opening

    lines = [f"{line}\n" for line in trace_opening(report)]
    write([*lines, *concise(report.findings), trace_closing(report)[0] + "\n"], stream)


def _json(report: TraceReport, stream: TextIO, _: bool) -> None:
    from maskcli.report.findings import as_json

    write(as_json(report), stream)


FORMS: tuple[Form[Writer], ...] = (
    Form("text", (".txt",), _text),
    Form("concise", (), _concise),
    Form("json", (".json",), _json),
)
