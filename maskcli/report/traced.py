"""The report on a running program: the table of forms of `trace`, and a writer for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from maskcli.report.ci import Tell, ci_forms
from maskcli.report.forms import PAGES, Form
from maskcli.report.terminal import console, write

# The command line asks for the names of the forms: what they write is imported when they do.
if TYPE_CHECKING:
    from maskcli.tracing.results import TraceReport

    Writer = Callable[..., None]

# Modules that a line names before it counts the rest.
NAMES = 4


def _text(report: TraceReport, stream: TextIO, verbose: bool) -> None:
    from maskcli.report.closing import print_closing
    from maskcli.report.findings import print_findings, print_lines
    from maskcli.report.probed import print_behaviour

    screen = console(stream)
    print_lines(opening(report), screen)
    for each in report.measured:
        print_behaviour(each, screen)
    looked = {finding.file: report.checked for finding in report.findings}
    print_findings(report.findings, screen, looked)
    print_closing(report.closing, report.summary(), screen, verbose)
    print_lines(beside(report), screen)


def _concise(report: TraceReport, stream: TextIO, _: bool) -> None:
    from maskcli.report.findings import concise

    lines = [f"{line}\n" for line in opening(report)]
    write([*lines, *concise(report.findings), report.closing + "\n"], stream)


def _json(report: TraceReport, stream: TextIO, _: bool) -> None:
    from maskcli.report.objects import as_json

    write(as_json(report), stream)


def opening(report: TraceReport) -> list[str]:
    """The first lines on a running program: what of it was not seen or not followed."""
    from maskcli.masks.words import first
    from maskcli.report.terminal import clean

    lines = []
    for shape in dict.fromkeys(each.shape for each in report.missed):
        missed = [each for each in report.missed if each.shape == shape]
        count = sum(each.softmaxes for each in missed)
        softmaxes = f"{count:,} softmaxes" if count > 1 else "1 softmax"
        modules = first((each.module or "outside of modules" for each in missed), NAMES, " and {} more")
        lines.append(f"not followed to values: {softmaxes} over {list(shape)} ({clean(modules)})")
    if report.unseen:
        silent = clean(first(report.unseen, NAMES, " and {} more"))
        lines.append(f"no attention was seen in modules that look like it: {silent}")
    if report.threads > 1:
        lines.append(f"attention was called in {report.threads} threads")
    if report.processes > 1:
        lines.append(f"attention was followed in {_children(report.processes - 1)}")
    lines += [f"not measured: {clean(why)}" for why in report.unmeasured]
    lines += [f"child processes were not followed: {why}" for why in report.unfollowed]
    if report.lost:
        lines.append(f"{_children(report.lost)} left no report of the attention that began there")
    return lines


def _children(count: int) -> str:
    return f"{count:,} child processes" if count > 1 else "1 child process"


def beside(report: TraceReport) -> list[str]:
    """What watching changed, and what was asked for and fits nothing."""
    from maskcli.report.terminal import clean

    changed = [f"tracing changed: {'; '.join(report.changed)}"] if report.changed else []
    return changed + [f"not checked: {clean(name)}: {clean(why)}" for name, why in report.unfit.items()]


def _for_ci(tell: Tell) -> Writer:
    def write_whole(report: TraceReport, stream: TextIO, _: bool) -> None:
        from maskcli.report.entries import of_trace

        write(tell(of_trace(report)), stream)

    return write_whole


def _page(report: TraceReport, stream: TextIO, _: bool, megabytes: int | None = None) -> None:
    from maskcli.report.page.traced import traced

    write(traced(report, megabytes), stream)


FORMS: tuple[Form[Writer], ...] = (
    Form("text", (".txt",), _text),
    Form("concise", (), _concise),
    Form("json", (".json",), _json),
    *ci_forms(_for_ci),
    Form(None, PAGES, _page),
)
