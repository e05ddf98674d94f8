"""What was found in files, written as they are checked: the forms of `diagnose`, and their writers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from maskcli.report.ci import Tell, ci_forms
from maskcli.report.forms import PAGES, PICTURES, Form, Look

# The command line asks for the names of the forms: what they write is imported when they do.
if TYPE_CHECKING:
    from maskcli.diagnostics.diagnose import Report, Summary
    from maskcli.diagnostics.finding import Finding
    from maskcli.inputs.many_files import Checked
    from maskcli.scene.scene import Scene

    Scenes = Callable[[], Iterable[Scene]]
    Writer = Callable[..., None]


@dataclass
class Outcome:
    """What is known when all is written: the summary, and a sentence for each file that could not be checked.

    `blind` are files of which all weights, or all masks, could not be; `written` says whether anything was.
    `scenes` looks at the files again and `token` turns an id into text, for a page that draws them.
    """

    total: Summary
    scenes: Scenes | None = None
    token: Callable[[int], str] | None = None
    errors: list[tuple[str, str]] = field(default_factory=list)
    blind: list[tuple[str, str]] = field(default_factory=list)
    written: bool = False


def write_files(
    files: Iterable[Checked],
    writer: Writer,
    stream: TextIO,
    verbose: bool = False,
    scenes: Scenes | None = None,
    token: Callable[[int], str] | None = None,
) -> Outcome:
    """Write what becomes of files: each when it is known, or all when all are.

    Files that could not be checked have lines of their own in `jsonl` and a list in `json`; to the others
    they are left.
    """
    from maskcli.diagnostics.diagnose import Summary

    outcome = Outcome(Summary(), scenes, token)
    writer(_counted(files, outcome), outcome, stream, verbose)
    return outcome


def _counted(files: Iterable[Checked], outcome: Outcome) -> Iterator[Checked]:
    """The files, which are counted on their way."""
    for checked in files:
        if checked.report is None:
            outcome.errors.append((checked.file, checked.error or ""))
        else:
            outcome.total += checked.report.summary()
            outcome.blind += [(checked.file, each.sentence) for each in checked.report.blind]
            outcome.written = True
        yield checked


def _reports(files: Iterable[Checked]) -> Iterator[Report]:
    return (checked.report for checked in files if checked.report is not None)


def _text(files: Iterable[Checked], outcome: Outcome, stream: TextIO, verbose: bool) -> None:
    """What was found, equal findings of all files together."""
    from maskcli.report.closing import print_closing
    from maskcli.report.findings import not_checked, print_findings, print_lines
    from maskcli.report.terminal import console

    screen = console(stream)
    maps: dict[str, list[str]] = {}

    def findings() -> Iterator[Finding]:
        for report in _reports(files):
            print_lines(not_checked(report), screen)
            maps.update({finding.file: report.maps for finding in report.findings})
            yield from report.findings

    print_findings(findings(), screen, maps)
    if outcome.written:
        print_closing(outcome.total.closing, outcome.total, screen, verbose)


def _concise(files: Iterable[Checked], outcome: Outcome, stream: TextIO, _: bool) -> None:
    from maskcli.report.findings import concise, not_checked
    from maskcli.report.terminal import write

    for report in _reports(files):
        write((f"{line}\n" for line in not_checked(report)), stream)
        write(concise(report.findings), stream)
        stream.flush()
    if outcome.written:
        stream.write(outcome.total.closing + "\n")


def _json(files: Iterable[Checked], outcome: Outcome, stream: TextIO, _: bool) -> None:
    from maskcli.diagnostics.diagnose import together
    from maskcli.report.objects import as_json
    from maskcli.report.terminal import write

    reports = list(_reports(files))
    if reports:
        write(as_json(together(reports), outcome.errors), stream)


def _jsonl(files: Iterable[Checked], outcome: Outcome, stream: TextIO, _: bool) -> None:
    from maskcli.report.objects import file_line

    for checked in files:
        stream.write(file_line(*checked))
        stream.flush()
        outcome.written = True


def _for_ci(tell: Tell) -> Writer:
    """A writer of a form for CI, which waits for all files."""

    def write_all(files: Iterable[Checked], outcome: Outcome, stream: TextIO, _: bool) -> None:
        from maskcli.report.entries import Results, of_files
        from maskcli.report.terminal import write

        parts = of_files(files)
        if outcome.written:
            write(tell(Results(parts, outcome.total.closing)), stream)

    return write_all


def nothing(files: Iterable[Checked], outcome: Outcome, stream: TextIO, _: bool) -> None:
    """Check the files and write nothing."""
    for _checked in files:
        pass


def _picture(files: Iterable[Checked], outcome: Outcome, stream: TextIO, _: bool, look: Look) -> None:
    from maskcli.diagnostics.diagnose import together
    from maskcli.report.pictures.canvas import write
    from maskcli.report.pictures.findings import figure_of_findings

    reports = list(_reports(files))
    if not reports:
        return
    findings, closing = together(reports).findings, outcome.total.closing
    scenes = outcome.scenes() if outcome.scenes is not None else ()
    figure = figure_of_findings(findings, closing, scenes, outcome.token or str, look)
    write(figure, stream.buffer, stream.name)


def _page(
    files: Iterable[Checked], outcome: Outcome, stream: TextIO, _: bool, megabytes: int | None = None
) -> None:
    from maskcli.diagnostics.diagnose import together
    from maskcli.report.findings import not_checked
    from maskcli.report.page.pages import diagnosed
    from maskcli.report.terminal import write

    reports = list(_reports(files))
    if not reports:
        return
    report = together(reports)
    text = [*not_checked(report), outcome.total.closing]
    scenes = outcome.scenes() if outcome.scenes is not None else ()
    write(diagnosed(scenes, report, outcome.token, text, megabytes), stream)


FORMS: tuple[Form[Writer], ...] = (
    Form("text", (".txt",), _text),
    Form("concise", (), _concise),
    Form("json", (".json",), _json),
    Form("jsonl", (".jsonl",), _jsonl),
    *ci_forms(_for_ci),
    Form(None, PICTURES, _picture),
    Form(None, PAGES, _page),
)
