"""Findings: text for people, JSON for scripts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maskcli import __version__
from maskcli.diagnostics.diagnose import Report, Summary
from maskcli.diagnostics.finding import Finding, Traced, Where
from maskcli.diagnostics.unchecked import Unchecked
from maskcli.diagnostics.words import listed
from maskcli.masks.mask import Runs
from maskcli.masks.words import LISTED_RUNS, counted, first
from maskcli.report.forms import SCHEMA_VERSION
from maskcli.report.terminal import STYLES, clean, hang, json_text
from maskcli.tracing.results import TraceReport

if TYPE_CHECKING:
    from rich.console import Console

# Tensor names listed with a finding before the rest is counted, and batch items and heads before it is cut
# off.
NAMES, INDICES = 4, 12


def print_findings(findings: Iterable[Finding], console: Console) -> None:
    """One paragraph a finding."""
    from rich.text import Text

    for finding in findings:
        head = Text(f"{finding.code} {finding.name}", style=STYLES[finding.severity])
        head.append(f"  {finding.severity}", style="default not bold")
        head.append(f"  {clean(finding.file)}", style="dim not bold")
        console.print(head)
        lines = [
            ("", sentence(finding.message)),
            ("where: ", place_in_words(finding)),
            ("in:    ", _origin(finding.traced)),
            ("known: ", clean("; ".join(finding.known))),
            ("why:   ", why(finding.code)),
            ("fix:   ", sentence(finding.fix)),
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
    """The last lines on some files: counts, what was checked, passed over, and not decided."""
    lines = [total.closing]
    if total.worst() is None:
        lines.append(f"checked by {len(total.decided)} rules: {_roles(total)}")
    return lines + undecided(total.undecided)


def trace_opening(report: TraceReport) -> list[str]:
    """The first lines on a running program: what of it was not seen or not followed."""
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


def trace_closing(report: TraceReport, verbose: bool = False) -> list[str]:
    """The last lines on a running program; with `verbose`, all that could not be decided and why."""
    total = report.summary()
    lines = [report.closing]
    if report.changed:
        lines.append(f"tracing changed: {'; '.join(report.changed)}")
    lines += [f"not checked: {clean(name)}: {clean(why)}" for name, why in total.unfit.items()]
    return lines + (undecided(total.undecided) if verbose else _more_options(total))


def _more_options(total: Summary) -> list[str]:
    """The options that would let more rules decide. What a program does not have is not asked for."""
    asked = " ".join(need for group in total.undecided for need in group)
    options = dict.fromkeys(re.findall(r"--[a-z-]+", asked))
    return [f"more could be decided with {', '.join(options)}; --verbose says what"] if options else []


def not_checked(report: Report) -> list[str]:
    """The first lines on a file: what is there and was not looked at, and why."""
    return [
        f"{clean(each.file)}: not checked: {_passed_over(each)}: {clean(each.why)}"
        for each in report.unchecked
    ]


def _passed_over(each: Unchecked) -> str:
    """Tensors that were not looked at: "all weights (attentions)", "hidden_states.0 to .9 (10 tensors)"."""
    names = clean(listed(each.tensors))
    if each.what is None:
        return names
    return f"{'all ' if each.every else ''}{each.what} ({names})"


def undecided(
    missing: Mapping[tuple[str, ...], frozenset[str]], title: str = "could not be decided, for want of:"
) -> list[str]:
    """What could not be decided: for each set of needs, the codes of the rules."""
    needs: dict[str, set[str]] = {}
    for group, codes in missing.items():
        needs.setdefault(" and ".join(group), set()).update(codes)
    lines = [f"  {need}: {_ranges(sorted(codes))}" for need, codes in needs.items()]
    return [title, *lines] if lines else []


def concise(findings: Iterable[Finding]) -> Iterator[str]:
    """One line a finding: `file: CODE name severity: message (place)`."""
    for finding in findings:
        place = place_in_words(finding)
        source = finding.traced.source if finding.traced else None
        at = f"{clean(source[0])}:{source[1]}" if source else clean(finding.file)
        yield f"{at}: {finding.code} {finding.name} {finding.severity}: {clean(finding.message)}"
        yield f" ({place})\n" if place else "\n"


def _roles(total: Summary) -> str:
    """How many tensors of each role were checked, in words."""
    return ", ".join(
        f"{count} {role if role.endswith('s') else role.replace('_', ' ')}"
        for role, count in total.roles.items()
    )


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
            {"code": skip.code, "name": skip.name, "file": skip.file, "needs": list(skip.needs)}
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


def place_in_words(finding: Finding) -> str:
    """The place in words: tensors, samples, heads, queries, keys, and the tokens that stand there."""
    where = finding.where
    parts = [_named(finding.tensors)]
    parts += [_indices("samples", where.batch), _indices("heads", where.heads)]
    parts += [_spans("queries", where.queries), _spans("keys", where.keys)]
    if finding.tokens:
        parts.append("tokens " + " ".join(map(clean, finding.tokens)))
    return "; ".join(filter(None, parts))


def _named(names: Iterable[str]) -> str:
    """The first few names."""
    shown = [clean(name) for name in names if name]
    more = len(shown) - NAMES
    return ", ".join(shown[:NAMES]) + (f" and {more} more" if more > 0 else "")


def _indices(label: str, indices: tuple[int, ...] | None) -> str:
    return "" if indices is None else f"{label} {first(map(str, indices), INDICES)}"


def _spans(label: str, runs: Runs | None) -> str:
    if not runs:
        return ""
    return f"{label} {first((f'{start}..{stop}' for start, stop in runs), LISTED_RUNS)}"


def _origin(traced: Traced | None) -> str:
    """Where a running program showed a finding: modules, the first step, and the user's own line."""
    if traced is None:
        return ""
    parts = [_named(traced.modules)]
    parts.append(f"from step {traced.step} on, {counted(traced.calls, 'checked call')}")
    if traced.source:
        file, line = traced.source
        parts.append(f"{clean(file)}:{line}")
    return "; ".join(filter(None, parts))


def why(code: str) -> str:
    """What comes of what a rule finds, in a sentence."""
    from maskcli.diagnostics.catalogue import named

    return named(code).why


def sentence(text: str) -> str:
    """A message with a capital letter, as a terminal may see it."""
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
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(part) for part in parts)
