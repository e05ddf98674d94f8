"""What a probe found: the rules of behaviour run over what was measured, worst first."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from maskcli.diagnostics.behaviour import Behaviour, Seen
from maskcli.diagnostics.catalogue import PROBED
from maskcli.diagnostics.finding import SEVERITIES, Finding, Found
from maskcli.diagnostics.plain import counts_in_words, plain
from maskcli.diagnostics.rule import Rule
from maskcli.diagnostics.verdicts.called import bare
from maskcli.diagnostics.verdicts.measured import Judged, judged
from maskcli.displayed import Displayed
from maskcli.masks.words import counted

# Findings whose cells the mask of a single text shows: not those on padding and rows.
SHOWN = ("MSK601", "MSK603", "MSK604", "MSK608", "MSK611")

# Where commands look for the masks until a file is named.
USUAL_FILE = "measured.safetensors"


@dataclass(frozen=True, eq=False)
class ProbeReport(Displayed):
    """What a probe measured of a `target`, and its findings, worst first.

    `kept` is the file that holds the measured masks, None where none was written.
    """

    target: str
    behaviour: Behaviour
    findings: tuple[Finding, ...]
    kept: str | None = None

    def __str__(self) -> str:
        """A line for each finding, and one that counts them."""
        return plain(self.findings, self.closing)

    @property
    def closing(self) -> str:
        """Counts of findings, and of what was looked at."""
        seen, compared = self.behaviour.seen, self.behaviour.compared
        runs = {each.setting for each in seen}
        modules = {each.module for each in seen}
        looked = [f"{counted(len(modules), 'module')} in {counted(len(runs), 'run')}"] if modules else []
        looked += [f"{counted(len(compared), 'comparison')} of whole runs"] if compared else []
        return f"{counts_in_words(self.counts())}: {', '.join(looked) or 'nothing mixes positions'}"

    def counts(self) -> dict[str, int]:
        """How many findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def worst(self) -> str | None:
        """The worst severity found."""
        counts = self.counts()
        return next((severity for severity in SEVERITIES if counts[severity]), None)

    def save(self, path: str) -> None:
        """Write the measured masks to a file, by the paths of their modules (see `diagnostics.kept`)."""
        from maskcli.diagnostics.kept import keep

        keep(self.behaviour.seen, path)

    def kept_in(self, path: str) -> ProbeReport:
        """The same report with its masks in a file, which its findings name."""
        self.save(path)
        return ProbeReport(self.target, self.behaviour, findings_of(self.behaviour, self.target, path), path)


def report_of(behaviour: Behaviour, target: str) -> ProbeReport:
    """What was measured with its findings; `target` is what the user called the model."""
    return ProbeReport(target, behaviour, findings_of(behaviour, target))


def findings_of(behaviour: Behaviour, target: str, kept: str = USUAL_FILE) -> tuple[Finding, ...]:
    """The findings on a behaviour, worst first, each cause once; its masks are kept in a file, or will be."""
    found = [_finding(rule, each, behaviour, target, kept) for rule, each in _found(judged(behaviour))]
    return tuple(sorted(found, key=lambda finding: (SEVERITIES.index(finding.severity), finding.code)))


def _found(evidence: Judged) -> Iterator[tuple[Rule[Judged], Found]]:
    """What the rules find; of the whole model, only what no mask of a layer explains."""
    loud: set[str] = set()
    for rule in PROBED:
        for each in rule.check(evidence):
            assert isinstance(each, Found)
            explained = not each.tensors and loud & set(rule.explained_by)
            if not explained:
                loud |= {rule.code} if (each.severity or rule.severity) != "note" else set()
                yield rule, each


def _finding(rule: Rule[Judged], found: Found, behaviour: Behaviour, target: str, kept: str) -> Finding:
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=found.severity or rule.severity,
        file=target,
        tensors=found.tensors,
        message=found.message,
        fix=found.fix,
        see=_see(rule, found, behaviour, kept),
        where=found.where,
        evidence=found.evidence,
    )


def _see(rule: Rule[Judged], found: Found, behaviour: Behaviour, kept: str) -> str:
    """The command that shows the cells in the masks that -o FILE.safetensors keeps, where these have them."""
    from maskcli.diagnostics.kept import name_in

    setting = found.evidence.get("setting")
    if not found.tensors or "expected" not in found.evidence or rule.code not in SHOWN:
        return ""
    of_module = [seen for seen in behaviour.seen if seen.module == found.tensors[0]]
    seen = next(each for each in of_module if each.setting == setting)
    tensor = name_in(seen.module, None if seen.setting == of_module[0].setting else seen.setting)
    target = shlex.quote(f"{kept}:{tensor}")
    layout = seen.layout
    has_empty_slots = seen.keys == "cache" and layout.keys > layout.past + layout.queries
    past = f" --past {layout.past}" if has_empty_slots else ""
    return f"maskcli diff {target} {shlex.quote(_spec_of(seen))}{past}"


def _spec_of(seen: Seen) -> str:
    """The expected mask of the text that is kept: its documents by their lengths, and no padding."""
    assert seen.expected is not None
    spec = bare(seen.expected.spec)
    if seen.layout.documents is None:
        return spec
    text = np.broadcast_to(seen.layout.documents, (seen.layout.batch, seen.layout.keys))[0]
    edges = np.flatnonzero(np.diff(text, prepend=-1, append=-1))
    lengths = f"documents:{','.join(map(str, np.diff(edges)))}"
    return lengths if spec == "full" else f"{spec} & {lengths}"
