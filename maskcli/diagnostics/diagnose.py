"""Run the rules over the tensors of a file: findings that no other finding explains, and what could not be decided."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from maskcli.diagnostics import catalogue
from maskcli.diagnostics.finding import SEVERITIES, Finding, Found, Skipped, Undecided, Where
from maskcli.diagnostics.needs import NEEDS, met_by
from maskcli.diagnostics.rule import Rule
from maskcli.masks.mask import Runs
from maskcli.masks.spec import Resolve
from maskcli.meant.facts import Declared, from_metadata
from maskcli.scene.assemble import build_scenes
from maskcli.scene.scene import Scene
from maskcli.tensors import TensorFile
from maskcli.tensors.roles import Roled, roles_of

# Token texts quoted with a finding.
QUOTED = 3


@dataclass(frozen=True)
class Report:
    """What diagnose found in some files, worst first.

    `checked` are the tensors that rules read and `roles` what each of them is, `unfit` those passed over and
    why, `decided` the codes of the rules that could decide.
    """

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    files: tuple[str, ...]
    checked: tuple[str, ...]
    unfit: dict[str, str]
    roles: tuple[str, ...] = ()
    decided: frozenset[str] = frozenset()

    def counts(self) -> dict[str, int]:
        """How many findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def worst(self) -> str | None:
        """The worst severity found."""
        return next((severity for severity in SEVERITIES if self.counts()[severity]), None)

    def summary(self) -> Summary:
        """The report without its findings."""
        open_: dict[tuple[str, ...], frozenset[str]] = {}
        for skip in self.skipped:
            open_[skip.needs] = open_.get(skip.needs, frozenset()) | {skip.code}
        roles = Counter(self.roles)
        return Summary(self.counts(), len(self.files), roles, self.unfit, self.decided, open_)


@dataclass(frozen=True)
class Summary:
    """What reports come to without their findings: all that is kept of files by the thousand.

    `counts` are findings by severity, `roles` checked tensors by role, `unfit` the tensors passed over and
    why, `decided` the codes that could decide, `undecided` for each set of needs the codes that could not.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SEVERITIES, 0))
    files: int = 0
    roles: Counter[str] = field(default_factory=Counter)
    unfit: dict[str, str] = field(default_factory=dict)
    decided: frozenset[str] = frozenset()
    undecided: dict[tuple[str, ...], frozenset[str]] = field(default_factory=dict)

    def worst(self) -> str | None:
        """The worst severity found."""
        return next((severity for severity in SEVERITIES if self.counts[severity]), None)

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            {severity: count + other.counts[severity] for severity, count in self.counts.items()},
            self.files + other.files,
            self.roles + other.roles,
            self.unfit | other.unfit,
            self.decided | other.decided,
            self.undecided
            | {
                needs: self.undecided.get(needs, frozenset()) | codes
                for needs, codes in other.undecided.items()
            },
        )


def diagnose(
    file: TensorFile,
    declared: Declared | None = None,
    roled: tuple[Roled, ...] | None = None,
    resolve: Resolve | None = None,
    token: Callable[[int], str] | None = None,
    rules: Collection[str] | None = None,
) -> Report:
    """Check the tensors of one file. `roled` replaces the roles that names, shapes and values give; options
    win over the file's metadata; `resolve` reads the files that a declared spec names; `token` turns an id
    into text; of `rules` only these codes are reported (None: all), though the others still explain what they
    explain.
    """
    facts = (declared or Declared()).over(from_metadata(file.metadata, file.path)).with_model()
    scenes = build_scenes(file.path, roled if roled is not None else roles_of(file), facts, resolve)
    outcomes = [(scene, _check(scene)) for scene in scenes]
    findings = [
        _finding(rule, found, scene, token)
        for scene, outcome in outcomes
        for rule, found in outcome.found
        if rules is None or rule.code in rules
    ]
    decided = {code for _, outcome in outcomes for code in outcome.decided}
    needs = {code: said for _, outcome in outcomes for code, said in outcome.needs.items()}
    skipped = (
        rule
        for rule in catalogue.RULES
        if rule.code in needs.keys() - decided and (rules is None or rule.code in rules)
    )
    unfit = {name: why for scene in scenes for name, why in scene.unfit.items()}
    checked = {name: role for scene in scenes for name, role in _checked(scene) if name not in unfit}
    return Report(
        tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.code, f.tensors))),
        tuple(
            Skipped(rule.code, rule.name, file.path, needs[rule.code])
            for rule in sorted(skipped, key=lambda rule: rule.code)
        ),
        (file.path,),
        tuple(checked),
        unfit,
        tuple(checked.values()),
        frozenset(code for code in decided if rules is None or code in rules),
    )


def together(reports: list[Report]) -> Report:
    """The reports of several files as one."""
    findings = (finding for report in reports for finding in report.findings)
    return Report(
        tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity))),
        tuple(skip for report in reports for skip in report.skipped),
        tuple(file for report in reports for file in report.files),
        tuple(each for report in reports for each in report.checked),
        {name: why for report in reports for name, why in report.unfit.items()},
        tuple(role for report in reports for role in report.roles),
        frozenset().union(*(report.decided for report in reports)),
    )


class _Outcome(NamedTuple):
    """What all rules say of a scene: what they found, what each of the others needs to decide, and the codes that decided."""

    found: list[tuple[Rule, Found]]
    needs: dict[str, tuple[str, ...]]
    decided: set[str]


def _check(scene: Scene) -> _Outcome:
    outcome = _Outcome([], {}, set())
    maps = {attention.name for attention in scene.attentions}
    met = met_by(scene)
    for rule in catalogue.RULES:
        if missing := [group for group in rule.needs if not set(group) & met]:
            outcome.needs[rule.code] = tuple(
                " or ".join(NEEDS[name].asked for name in group) for group in missing
            )
            continue
        earlier = [found for other, found in outcome.found if other.code in rule.explained_by]
        said = list(rule.check(scene))
        kept = [
            each
            for each in said
            if isinstance(each, Found) and not any(_explains(other, each, maps) for other in earlier)
        ]
        outcome.found.extend((rule, each) for each in kept)
        asked = [each.needs for each in said if isinstance(each, Undecided)]
        if asked and not kept:
            outcome.needs[rule.code] = tuple(dict.fromkeys(asked))
        else:
            outcome.decided.add(rule.code)
    return outcome


def _explains(earlier: Found, later: Found, maps: set[str]) -> bool:
    """Whether two findings are of one place; those of attention maps must share a map as well."""
    apart = (
        set(earlier.tensors) <= maps
        and set(later.tensors) <= maps
        and not set(earlier.tensors) & set(later.tensors)
    )
    return not apart and _overlap(earlier.where, later.where)


def _finding(rule: Rule, found: Found, scene: Scene, token: Callable[[int], str] | None) -> Finding:
    return Finding(
        rule.code,
        rule.name,
        found.severity or rule.severity,
        scene.file,
        found.tensors,
        found.message,
        found.fix,
        _see(scene, found),
        found.where,
        found.evidence,
        found.places,
        _quoted(scene, found.places[0] if found.places else found.where, token),
    )


def _checked(scene: Scene) -> list[tuple[str, str]]:
    weights = [(attention.name, "weights") for attention in scene.attentions]
    masks = [(saved.given.tensor.name, "mask") for saved in scene.masks]
    others = [
        (roled.tensor.name, roled.role)
        for roled in scene.tensors
        if roled.role not in (None, "weights", "mask")
    ]
    return weights + masks + [(name, role) for name, role in others if role is not None]


def _overlap(a: Where, b: Where) -> bool:
    """Whether two places share a batch item and a query."""
    items = a.batch is None or b.batch is None or bool(set(a.batch) & set(b.batch))
    return items and (a.queries is None or b.queries is None or _meet(a.queries, b.queries))


def _meet(a: Runs, b: Runs) -> bool:
    return any(x[0] < y[1] and y[0] < x[1] for x in a for y in b)


def _see(scene: Scene, found: Found) -> str:
    """The command that shows the place. What is said of tokens [B, L] has its batch items as rows and its tokens as keys."""
    tensor = found.tensors[0] if found.tensors else ""
    parts = ["maskcli", "inspect", shlex.quote(f"{scene.file}:{tensor}" if tensor else scene.file)]
    spot = found.places[0] if found.places else found.where
    if any(roled.tensor.name == tensor and _flat(roled, scene) for roled in scene.tensors):
        items = ((spot.batch[0], spot.batch[0] + 1),) if spot.batch else None
        spot = Where(None, None, items, spot.keys or spot.queries)
    if spot.batch:
        parts.append(f"--batch {spot.batch[0]}")
    if spot.heads:
        parts.append(f"--head {spot.heads[0]}")
    for option, runs in (("--rows", spot.queries), ("--keys", spot.keys)):
        if runs:
            parts.append(f"{option} {runs[0][0]}:{runs[-1][1]}")
    return " ".join(parts)


def _flat(roled: Roled, scene: Scene) -> bool:
    return len(roled.tensor.shape) < 3 and any(
        roled.tensor.name in tokens.names.values() for tokens in scene.tokens
    )


def _quoted(scene: Scene, where: Where, token: Callable[[int], str] | None) -> tuple[str, ...]:
    """The first few tokens at the place: its keys, else its queries."""
    runs = where.keys or where.queries
    if token is None or not runs:
        return ()
    item = where.batch[0] if where.batch else 0
    for tokens in scene.tokens:
        if tokens.ids is not None and item < len(tokens.ids) and runs[0][0] < tokens.ids.shape[1]:
            start, stop = runs[0][0], min(runs[0][1], runs[0][0] + QUOTED)
            return tuple(token(int(each)) for each in tokens.ids[item, start:stop])
    return ()
