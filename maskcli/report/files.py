"""What was found in files, written as they are checked: text, a line for each finding, JSON, or a line of JSON for each file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TextIO

from maskcli.diagnostics.diagnose import Report, Summary, together
from maskcli.inputs.many_files import Checked
from maskcli.report.findings import as_json, closing, concise, file_line, print_findings, print_lines
from maskcli.report.terminal import console, write


class Outcome(NamedTuple):
    """What is left when all is written: the summary, and the files that could not be checked with a sentence each."""

    total: Summary
    errors: list[tuple[str, str]]


def write_files(files: Iterable[Checked], form: str, stream: TextIO) -> Outcome:
    """Write what becomes of each file when it is known; only `json`, which is one object, waits for all of them.

    Files that could not be checked have lines of their own in `jsonl` and a list in `json`; to the others they are left.
    """
    total, errors = Summary(), list[tuple[str, str]]()
    kept: list[Report] = []
    screen = console(stream) if form == "text" else None
    for checked in files:
        if form == "jsonl":
            stream.write(file_line(*checked))
            stream.flush()
        if checked.report is None:
            errors.append((checked.file, checked.error or ""))
            continue
        total += checked.report.summary()
        if form == "json":
            kept.append(checked.report)
        elif form == "concise":
            write(concise(checked.report.findings), stream)
        elif screen is not None:
            print_findings(checked.report.findings, screen)
        stream.flush()
    if not total.files:
        return Outcome(total, errors)
    if form == "json":
        write(as_json(together(kept), errors), stream)
    elif form == "concise":
        stream.write(closing(total)[0] + "\n")
    elif screen is not None:
        print_lines(closing(total), screen)
    return Outcome(total, errors)
