"""Run the rules over the tensors of a file: findings that no other finding explains, and what could not be decided."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from maskcli.diagnostics.assemble import build_scenes
from maskcli.diagnostics.catalogue import RULES
from maskcli.diagnostics.facts import Declared, from_metadata
from maskcli.diagnostics.finding import SEVERITIES, Finding, Found, Rule, Runs, Skipped, Where
from maskcli.diagnostics.scene import Scene
from maskcli.masks.spec import Resolve
from maskcli.tensors import TensorFile
from maskcli.tensors.roles import Roled, roles_of

# Token texts quoted with a finding.
QUOTED = 3


@dataclass(frozen=True)
class Report:
    """What diagnose found in some files, worst first. `checked` are the tensors that rules read; `unfit` those passed over."""

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    files: tuple[str, ...]
    checked: tuple[str, ...]
    unfit: dict[str, str]

    def counts(self) -> dict[str, int]:
        """How many findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def worst(self) -> str | None:
        """The worst severity found."""
        return next((severity for severity in SEVERITIES if self.counts()[severity]), None)


def diagnose(
    file: TensorFile,
    declared: Declared | None = None,
    roled: tuple[Roled, ...] | None = None,
    resolve: Resolve | None = None,
    token: Callable[[int], str] | None = None,
) -> Report:
    """Check the tensors of one file. `roled` replaces the roles that names, shapes and values give; options win over the
    file's metadata; `resolve` reads the files that a declared spec names; `token` turns an id into text.
    """
    facts = (declared or Declared()).over(from_metadata(file.metadata, file.path))
    scenes = build_scenes(file.path, roled if roled is not None else roles_of(file), facts, resolve)
    findings = [finding for scene in scenes for finding in _findings(scene, token)]
    skipped = {skip.code: skip for scene in scenes for skip in _skipped(scene)}
    decided = {rule.code for scene in scenes for rule in RULES if not _missing(rule, scene)}
    unfit = {name: why for scene in scenes for name, why in scene.unfit.items()}
    checked = dict.fromkeys(name for scene in scenes for name in _checked(scene))
    return Report(
        tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.code, f.tensors))),
        tuple(skip for code, skip in sorted(skipped.items()) if code not in decided),
        (file.path,),
        tuple(name for name in checked if name not in unfit),
        unfit,
    )


def together(reports: list[Report]) -> Report:
    """The reports of several files as one."""
    findings = (finding for report in reports for finding in report.findings)
    return Report(
        tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity))),
        tuple(skip for report in reports for skip in report.skipped),
        tuple(file for report in reports for file in report.files),
        tuple(name for report in reports for name in report.checked),
        {name: why for report in reports for name, why in report.unfit.items()},
    )


def _findings(scene: Scene, token: Callable[[int], str] | None) -> list[Finding]:
    found: dict[str, list[Found]] = {}
    findings = []
    for rule in RULES:
        if _missing(rule, scene):
            continue
        earlier = [one for code in rule.explained_by for one in found.get(code, ())]
        for one in rule.check(scene):
            if any(_overlap(one.where, other.where) for other in earlier):
                continue
            found.setdefault(rule.code, []).append(one)
            findings.append(_finding(rule, one, scene, token))
    return findings


def _finding(rule: Rule, found: Found, scene: Scene, token: Callable[[int], str] | None) -> Finding:
    return Finding(
        rule.code,
        rule.name,
        found.severity or rule.severity,
        scene.file,
        found.tensors,
        found.message,
        found.fix,
        _see(scene.file, found),
        found.where,
        found.evidence,
        found.places,
        _quoted(scene, found.where, token),
    )


def _missing(rule: Rule, scene: Scene) -> list[tuple[str, ...]]:
    return [group for group in rule.needs if not set(group) & scene.has]


def _skipped(scene: Scene) -> list[Skipped]:
    """Rules that lack a tensor or a fact; `a or b` where either would do."""
    skips = ((rule, _missing(rule, scene)) for rule in RULES)
    return [
        Skipped(rule.code, rule.name, scene.file, tuple(" or ".join(_asked(name) for name in group) for group in missing))
        for rule, missing in skips
        if missing
    ]


def _asked(need: str) -> str:
    """A need as the user would meet it: the tensor to save or the option to pass."""
    return {
        "padding": "attention_mask (or input_ids with --pad-id)",
        "padding_mask": "attention_mask",
        "expectation": "--expect",
        "causal expectation": "--expect causal (or a causal mask)",
        "convention": "--from",
        "pad_id": "--pad-id",
    }.get(need, need)


def _checked(scene: Scene) -> list[str]:
    weights = [attention.name for attention in scene.attentions]
    masks = [saved.given.tensor.name for saved in scene.masks]
    others = [roled.tensor.name for roled in scene.tensors if roled.role not in (None, "weights", "mask")]
    return weights + masks + others


def _overlap(a: Where, b: Where) -> bool:
    """Whether two places share a batch item and a query."""
    items = a.batch is None or b.batch is None or bool(set(a.batch) & set(b.batch))
    return items and (a.queries is None or b.queries is None or _meet(a.queries, b.queries))


def _meet(a: Runs, b: Runs) -> bool:
    return any(x[0] < y[1] and y[0] < x[1] for x in a for y in b)


def _see(file: str, found: Found) -> str:
    """The command that shows the place."""
    tensor = found.tensors[0] if found.tensors else ""
    parts = ["maskcli", "inspect", shlex.quote(f"{file}:{tensor}" if tensor else file)]
    spot = found.places[0] if found.places else found.where
    if spot.batch:
        parts.append(f"--batch {spot.batch[0]}")
    if spot.heads:
        parts.append(f"--head {spot.heads[0]}")
    for option, runs in (("--rows", spot.queries), ("--keys", spot.keys)):
        if runs:
            parts.append(f"{option} {runs[0][0]}:{runs[-1][1]}")
    return " ".join(parts)


def _quoted(scene: Scene, where: Where, token: Callable[[int], str] | None) -> tuple[str, ...]:
    """The first few tokens at the place: its keys, else its queries."""
    runs = where.keys or where.queries
    if token is None or not runs:
        return ()
    item = where.batch[0] if where.batch else 0
    for tokens in scene.tokens:
        if item < len(tokens.ids) and runs[0][0] < tokens.ids.shape[1]:
            start, stop = runs[0][0], min(runs[0][1], runs[0][0] + QUOTED)
            return tuple(token(int(each)) for each in tokens.ids[item, start:stop])
    return ()
