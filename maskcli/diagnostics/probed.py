"""What a probe found: the rules of behaviour run over what was measured, worst first."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from maskcli.diagnostics.behaviour import Behaviour
from maskcli.diagnostics.catalogue import PROBED
from maskcli.diagnostics.finding import SEVERITIES, Finding, Found
from maskcli.diagnostics.rule import Rule
from maskcli.diagnostics.verdicts.called import bare
from maskcli.diagnostics.verdicts.measured import Judged, judged

# Findings whose cells the mask of a single text shows: not those on padding, documents and rows.
SHOWN = ("MSK601", "MSK603", "MSK611")


@dataclass(frozen=True, eq=False)
class ProbeReport:
    """What a probe measured of a `target`, and its findings, worst first."""

    target: str
    behaviour: Behaviour
    findings: tuple[Finding, ...]

    def counts(self) -> dict[str, int]:
        """How many findings of each severity."""
        counted = Counter(finding.severity for finding in self.findings)
        return {severity: counted[severity] for severity in SEVERITIES}

    def worst(self) -> str | None:
        """The worst severity found."""
        counts = self.counts()
        return next((severity for severity in SEVERITIES if counts[severity]), None)

    def save(self, path: str) -> None:
        """Write the measured masks to a file, by the paths of their modules (see `diagnostics.kept`)."""
        from maskcli.diagnostics.kept import keep

        keep(self.behaviour.seen, path)


def report_of(behaviour: Behaviour, target: str) -> ProbeReport:
    """What was measured with its findings; `target` is what the user called the model."""
    return ProbeReport(target, behaviour, findings_of(behaviour, target))


def findings_of(behaviour: Behaviour, target: str) -> tuple[Finding, ...]:
    """The findings on a behaviour, worst first, each cause once."""
    found = [_finding(rule, each, behaviour, target) for rule, each in _found(judged(behaviour))]
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


def _finding(rule: Rule[Judged], found: Found, behaviour: Behaviour, target: str) -> Finding:
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=found.severity or rule.severity,
        file=target,
        tensors=found.tensors,
        message=found.message,
        fix=found.fix,
        see=_see(rule, found, behaviour),
        where=found.where,
        evidence=found.evidence,
    )


def _see(rule: Rule[Judged], found: Found, behaviour: Behaviour) -> str:
    """The command that shows the cells in the masks that -o FILE.safetensors keeps, where these have them."""
    from maskcli.diagnostics.kept import name_in

    expected, setting = found.evidence.get("expected"), found.evidence.get("setting")
    if not found.tensors or expected is None or rule.code not in SHOWN:
        return ""
    module = found.tensors[0]
    first = next(seen.setting for seen in behaviour.seen if seen.module == module)
    tensor = name_in(module, None if setting == first else str(setting))
    target = shlex.quote(f"measured.safetensors:{tensor}")
    return f"maskcli diff {target} {shlex.quote(bare(str(expected)))}"
