"""Findings: text for people, JSON for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from maskcli import __version__
from maskcli.diagnostics.diagnose import Report, Summary
from maskcli.diagnostics.finding import Finding, Traced, Where
from maskcli.report.shown import SCHEMA_VERSION
from maskcli.report.terminal import STYLES, clean, console, hang, json_text, output, write
from maskcli.tracing.checker import TraceReport

if TYPE_CHECKING:
    from rich.console import Console

# Tensor names listed with a finding before the rest is counted.
NAMES = 4


def show_trace(report: TraceReport, path: str | None, form: str, stream: TextIO) -> None:
    """Write the report of a running program to a file (`path`), else to `stream`, as text, concise or json."""
    with output(path) if path is not None else nullcontext(stream) as target:
        if form == "json":
            write(as_json(report), target)
        elif form == "concise":
            write([*concise(report.findings), _trace_closing(report)[0] + "\n"], target)
        else:
            screen = console(target)
            print_findings(report.findings, screen)
            print_lines(_trace_closing(report), screen)


def print_findings(findings: Iterable[Finding], console: Console) -> None:
    """One paragraph a finding."""
    from rich.text import Text

    for finding in findings:
        head = Text(f"{finding.code} {finding.name}", style=STYLES[finding.severity])
        head.append(f"  {finding.severity}", style="default not bold")
        head.append(f"  {clean(finding.file)}", style="dim not bold")
        console.print(head)
        lines = [
            ("", _sentence(finding.message)),
            ("where: ", _where(finding)),
            ("in:    ", _origin(finding.traced)),
            ("why:   ", _summary(finding)),
            ("fix:   ", _sentence(finding.fix)),
            ("see:   ", clean(finding.see)),
        ]
        for label, line in lines:
            if line:
                hang(console, "  " + label, line)
        console.print()


def print_lines(lines: Iterable[str], console: Console) -> None:
    """Lines as they are."""
    from rich.text import Text

    for line in lines:
        console.print(Text(line))


def closing(total: Summary) -> list[str]:
    """The last lines on some files: counts, what was checked, what was passed over and what could not be decided."""
    lines = [f"{_counted(total)} in {_many(total.roles.total(), 'tensor')} of {_many(total.files, 'file')}"]
    if total.worst() is None:
        lines.append(f"checked by {len(total.decided)} rules: {_roles(total)}")
    return lines + _left_open(total)


def _trace_closing(report: TraceReport) -> list[str]:
    """The last lines on a running program."""
    total = report.summary()
    lines = [
        f"{_counted(total)} in {report.looked:,} checked of {_many(report.calls, 'attention call')} "
        f"({_many(len(report.checked), 'module')}, {_many(report.steps, 'step')})"
    ]
    if report.changed:
        lines.append(f"tracing changed: {'; '.join(report.changed)}")
    return lines + _left_open(total)


def _left_open(total: Summary) -> list[str]:
    """What was passed over, and what could not be decided."""
    lines = [f"not checked: {clean(name)}: {clean(why)}" for name, why in total.unfit.items()]
    needs: dict[str, set[str]] = {}
    for group, codes in total.undecided.items():
        needs.setdefault(" and ".join(group), set()).update(codes)
    if needs:
        lines.append("could not be decided, for want of:")
        lines += [f"  {need}: {_ranges(sorted(codes))}" for need, codes in needs.items()]
    return lines


def concise(findings: Iterable[Finding]) -> Iterator[str]:
    """One line a finding: `file: CODE name severity: message (place)`."""
    for finding in findings:
        place = _where(finding)
        source = finding.traced.source if finding.traced else None
        at = f"{clean(source[0])}:{source[1]}" if source else clean(finding.file)
        yield f"{at}: {finding.code} {finding.name} {finding.severity}: {clean(finding.message)}"
        yield f" ({place})\n" if place else "\n"


def _counted(total: Summary) -> str:
    return ", ".join(_many(count, name) for name, count in total.counts.items() if count) or "nothing found"


def _roles(total: Summary) -> str:
    """How many tensors of each role were checked, in words."""
    named = (
        (role if role.endswith("s") else role.replace("_", " "), count) for role, count in total.roles.items()
    )
    return ", ".join(f"{count} {role}" for role, count in named)


def as_json(report: Report, errors: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
    """The JSON of `diagnose` and `trace`, one object; `errors` are the files that could not be checked, and why."""
    traced: dict[str, Any] = {}
    if isinstance(report, TraceReport):
        traced = {
            "calls": report.calls,
            "checked": report.looked,
            "steps": report.steps,
            "modules": len(report.checked),
        }
    yield json_text(
        {
            "schema_version": SCHEMA_VERSION,
            "maskcli": __version__,
            **_body(report),
            **({"changed": list(report.changed)} if isinstance(report, TraceReport) else {}),
            **({"errors": [{"file": file, "message": text} for file, text in errors]} if errors else {}),
            "summary": {**report.counts(), **(traced or _sizes(report))},
        }
    )
    yield "\n"


def file_line(file: str, report: Report | None, error: str | None) -> str:
    """The JSON of one file on a line: its findings, or the sentence that says why it could not be checked."""
    told = (
        {"error": error}
        if report is None
        else {**_body(report), "summary": {**report.counts(), **_sizes(report)}}
    )
    return json_text({"schema_version": SCHEMA_VERSION, "file": file, **told}) + "\n"


def _body(report: Report) -> dict[str, Any]:
    return {
        "findings": [_finding(finding) for finding in report.findings],
        "skipped": [
            {"code": skip.code, "name": skip.name, "file": skip.file, "needs": list(skip.needs)}
            for skip in report.skipped
        ],
    }


def _sizes(report: Report) -> dict[str, int]:
    return {"files": len(report.files), "tensors": len(report.checked)}


def _finding(finding: Finding) -> dict[str, Any]:
    found: dict[str, Any] = {
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
        found["places"] = [_place(place) for place in finding.places]
    if finding.tokens:
        found["tokens"] = list(finding.tokens)
    if finding.traced:
        modules, step, calls, source = finding.traced
        found |= {
            "module": modules[0] if modules else None,
            "modules": list(modules),
            "step": step,
            "calls": calls,
            "source": {"file": source[0], "line": source[1]} if source else None,
        }
    return found


def _place(where: Where) -> dict[str, Any]:
    return {
        "batch": None if where.batch is None else list(where.batch),
        "heads": None if where.heads is None else list(where.heads),
        "queries": None if where.queries is None else [list(run) for run in where.queries],
        "keys": None if where.keys is None else [list(run) for run in where.keys],
    }


def _where(finding: Finding) -> str:
    names = [clean(name) for name in finding.tensors if name]
    shown = ", ".join(names[:NAMES]) + (f" and {len(names) - NAMES} more" if len(names) > NAMES else "")
    where = finding.where
    parts = [shown] if shown else []
    for label, items in (("samples", where.batch), ("heads", where.heads)):
        if items is not None:
            parts.append(f"{label} {', '.join(map(str, items[:12]))}{' …' if len(items) > 12 else ''}")
    for label, runs in (("queries", where.queries), ("keys", where.keys)):
        if runs:
            parts.append(
                f"{label} {', '.join(f'{a}..{b}' for a, b in runs[:4])}{' …' if len(runs) > 4 else ''}"
            )
    if finding.tokens:
        parts.append("tokens " + " ".join(clean(token) for token in finding.tokens))
    return "; ".join(parts)


def _origin(traced: Traced | None) -> str:
    """Where a running program showed a finding: modules, the first step, and the user's own line."""
    if traced is None:
        return ""
    parts = []
    if traced.modules:
        shown = ", ".join(clean(name) for name in traced.modules[:NAMES])
        parts.append(
            shown + (f" and {len(traced.modules) - NAMES} more" if len(traced.modules) > NAMES else "")
        )
    parts.append(f"from step {traced.step} on, {_many(traced.calls, 'checked call')}")
    if traced.source:
        parts.append(f"{clean(traced.source[0])}:{traced.source[1]}")
    return "; ".join(parts)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def _summary(finding: Finding) -> str:
    from maskcli.diagnostics.catalogue import rule

    return rule(finding.code).summary


def _sentence(text: str) -> str:
    text = clean(text)
    # A line of code keeps its first letter.
    return text[:1].upper() + text[1:] if text.partition(" ")[0].rstrip(",;:").isalpha() else text


def _ranges(codes: list[str]) -> str:
    """Codes with neighbours folded: "MSK101, MSK103 to MSK108"."""
    parts: list[list[str]] = []
    for code in codes:
        if parts and int(code[3:]) == int(parts[-1][-1][3:]) + 1:
            parts[-1].append(code)
        else:
            parts.append([code])
    return ", ".join(
        part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(part)
        for part in parts
    )
