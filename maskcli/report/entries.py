"""What every form for CI tells: findings in words, each with its place, of whatever was checked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from maskcli.diagnostics.finding import SEVERITIES, Finding
from maskcli.diagnostics.plain import counts_in_words
from maskcli.report.findings import place_in_words, sentence

if TYPE_CHECKING:
    from maskcli.api.comparing import Comparison
    from maskcli.diagnostics.diagnose import Report
    from maskcli.diagnostics.probed import ProbeReport
    from maskcli.inputs.many_files import Checked
    from maskcli.report.audited import Audits
    from maskcli.tracing.results import TraceReport


class Entry(NamedTuple):
    """A finding in words. `file` and `line` are where an editor would go; `names` what it is about there.

    `code` is that of its rule; of what no rule finds there is none.
    """

    code: str
    name: str
    severity: str
    message: str
    fix: str
    file: str
    line: int | None = None
    place: str = ""
    names: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Code and name."""
        return f"{self.code} {self.name}".strip()


class Part(NamedTuple):
    """What was checked by itself, a file, a set, a model or a program: its findings, and who could look.

    `error` is why it could not be checked.
    """

    name: str
    entries: tuple[Entry, ...] = ()
    decided: frozenset[str] = frozenset()
    error: str | None = None


class Results(NamedTuple):
    """All that was checked, and the line that counts it."""

    parts: tuple[Part, ...]
    closing: str

    @property
    def entries(self) -> list[Entry]:
        """All findings, worst first."""
        entries = (entry for part in self.parts for entry in part.entries)
        return sorted(entries, key=lambda entry: SEVERITIES.index(entry.severity))

    @property
    def errors(self) -> list[Part]:
        """What could not be checked."""
        return [part for part in self.parts if part.error is not None]


def rest_in_words(entries: Iterable[Entry]) -> str:
    """What is not listed any more: "12 more: 2 errors, 10 notes"."""
    counts = Counter(entry.severity for entry in entries)
    told = counts_in_words({severity: counts[severity] for severity in SEVERITIES})
    return f"{counts.total():,} more: {told}"


def of_files(files: Iterable[Checked]) -> tuple[Part, ...]:
    """The parts of a diagnosis: its files."""
    return tuple(_file(*checked) for checked in files)


def _file(name: str, report: Report | None, error: str | None) -> Part:
    if report is None:
        return Part(name, error=error)
    blind = "; ".join(each.sentence for each in report.blind)
    return Part(name, tuple(map(_entry, report.findings)), report.decided, blind or None)


def of_trace(report: TraceReport) -> Results:
    """A running program."""
    name = next(filter(None, report.files), "")
    entries = tuple(map(_entry, report.findings))
    return Results((Part(name, entries, report.decided),), report.closing)


def of_probe(report: ProbeReport) -> Results:
    """A model whose layers were measured."""
    return Results((Part(report.target, tuple(map(_entry, report.findings))),), report.closing)


def of_audits(audits: Audits, closing: str) -> Results:
    """Training sets."""
    return Results((*_sets(audits), *(Part(name, error=why) for name, why in audits.errors)), closing)


def _sets(audits: Audits) -> Iterator[Part]:
    for audited in audits.sets:
        entries = tuple(
            Entry(
                told.code,
                told.name,
                told.severity,
                sentence(told.message),
                sentence(told.fix),
                audited.name,
                place=f"{told.rows:,} of {told.of:,} rows",
            )
            for told in audited.findings
        )
        yield Part(audited.name, entries, audited.decided)


def of_comparison(compared: Comparison) -> Results:
    """Two masks, or sets of weights: a finding for each way in which they differ."""
    regions = [f"{region.cells:,} cells: {region.meaning}" for region in compared.regions]
    unequal = [pair for pair in (*compared.tensors, compared.biases) if pair and not pair.difference.equal]
    values = [f"{pair.difference.cells:,} values of {pair.a} and {pair.b} differ" for pair in unequal]
    entries = tuple(_difference(told, compared.a) for told in (*regions, *values))
    names = f"{compared.a} and {compared.b}"
    closing = f"{names} are equal" if compared.equal else f"{names} differ"
    return Results((Part(names, entries),), closing)


def _difference(message: str, file: str) -> Entry:
    return Entry("", "masks-differ", "error", sentence(message), "", file.partition(":")[0])


def _entry(finding: Finding) -> Entry:
    source = finding.traced.source if finding.traced else None
    file, line = source or (finding.file, None)
    modules = finding.traced.modules if finding.traced else ()
    return Entry(
        finding.code,
        finding.name,
        finding.severity,
        sentence(finding.message),
        sentence(finding.fix),
        _from_here(file),
        line,
        place_in_words(finding),
        modules or finding.tensors,
    )


def _from_here(path: str) -> str:
    """A path as a checkout has it, where it lies in the current folder; of FILE.py:NAME the file."""
    file, suffix, _ = path.rpartition(".py:")
    path = f"{file}.py" if suffix else path
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    return path if relative.startswith(os.pardir) else relative
