"""Findings as text: a paragraph each, or a line."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from maskcli.diagnostics.diagnose import Report
from maskcli.diagnostics.finding import Finding, Traced
from maskcli.diagnostics.unchecked import Unchecked
from maskcli.diagnostics.words import listed
from maskcli.masks.runs import Runs
from maskcli.masks.words import LISTED_RUNS, counted, first
from maskcli.report.alike import Alike, alike
from maskcli.report.excerpts import print_excerpt
from maskcli.report.terminal import STYLES, clean, hang

if TYPE_CHECKING:
    from rich.console import Console

# Tensor names listed with a finding before the rest is counted, and batch items and heads before it is cut
# off.
NAMES, INDICES = 4, 12
_DIGITS = re.compile(r"\d+")


# What was looked at in each file: its maps, or the modules of a program.
Looked = Mapping[str, Collection[str]]


def print_findings(findings: Iterable[Finding], console: Console, looked: Looked | None = None) -> None:
    """One paragraph a finding, equal ones of several files together; the finding is what is bright."""
    from rich.text import Text

    for each in alike(findings):
        finding = each.finding
        every = (looked or {}).get(finding.file, ())
        name = (f"{finding.code} {finding.name}", STYLES[finding.severity])
        console.print(Text.assemble(name, f"  {finding.severity}  ", (_whose(each), "dim")))
        lines = [
            ("", sentence(finding.message), "bold"),
            ("files: ", _files(each), "dim"),
            ("where: ", place_in_words(finding, every), "dim"),
            ("in:    ", origin(finding.traced, every), "dim"),
            ("known: ", clean("; ".join(finding.known)), "dim"),
            ("why:   ", why(finding.code), "dim"),
            ("fix:   ", sentence(finding.fix), ""),
        ]
        for label, line, style in lines:
            if line:
                hang(console, "  " + label, Text(line, style))
        if finding.excerpt is not None:
            print_excerpt(finding.excerpt, console)
        if finding.see:
            # In one line, whatever the width: it is there to be copied.
            console.print(Text.assemble(("  see:   ", "dim"), clean(finding.see)), soft_wrap=True)
        console.print()


def _whose(each: Alike) -> str:
    return clean(each.finding.file) if each.files == 1 else f"{each.files} files"


def _files(each: Alike) -> str:
    """The files of a finding that was made in several."""
    if each.files == 1:
        return ""
    near = f"; with other numbers {_named(each.near)}" if each.near else ""
    return _named(each.same) + near


def print_lines(lines: Iterable[str], console: Console) -> None:
    """Lines as they are."""
    from rich.text import Text

    for line in lines:
        console.print(Text(line))


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


def concise(findings: Iterable[Finding]) -> Iterator[str]:
    """One line a finding: `file: CODE name severity: message (place)`."""
    for finding in findings:
        place = place_in_words(finding)
        source = finding.traced.source if finding.traced else None
        at = f"{clean(source[0])}:{source[1]}" if source else clean(finding.file)
        yield f"{at}: {finding.code} {finding.name} {finding.severity}: {clean(finding.message)}"
        yield f" ({place})\n" if place else "\n"


def place_in_words(finding: Finding, every: Collection[str] = ()) -> str:
    """The place in words: tensors, samples, heads, queries, keys, and the tokens that stand there."""
    where = finding.where
    parts = [_all_of(finding.tensors, every) or _named(finding.tensors)]
    parts += [_indices("sample", where.batch), _indices("head", where.heads)]
    parts += [_spans("queries", where.queries), _spans("keys", where.keys)]
    if finding.tokens:
        parts.append("tokens " + " ".join(map(clean, finding.tokens)))
    return "; ".join(filter(None, parts))


def _named(names: Iterable[str]) -> str:
    """The first few names."""
    shown = [clean(name) for name in names if name]
    more = len(shown) - NAMES
    return ", ".join(shown[:NAMES]) + (f" and {more} more" if more > 0 else "")


def _all_of(names: Collection[str], every: Collection[str]) -> str:
    """Names that are all there are, by their number: "all 6 layers" where each has one of its own."""
    if len(names) < 2 or set(names) != set(every):
        return ""
    layers = {tuple(_DIGITS.findall(name)) for name in names}
    return f"all {len(names)} {'layers' if set(map(len, layers)) == {1} else 'of them'}"


def _indices(one: str, indices: tuple[int, ...] | None) -> str:
    """The first few samples or heads."""
    if not indices:
        return ""
    return f"{one if len(indices) == 1 else one + 's'} {first(map(str, indices), INDICES)}"


def _spans(label: str, runs: Runs | None) -> str:
    if not runs:
        return ""
    return f"{label} {first((f'{start}..{stop}' for start, stop in runs), LISTED_RUNS)}"


def origin(traced: Traced | None, every: Collection[str] = ()) -> str:
    """Where a running program showed a finding: modules, the first step, and the user's own line."""
    if traced is None:
        return ""
    parts = [_all_of(traced.modules, every) or _named(traced.modules)]
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
