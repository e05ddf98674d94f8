"""Run the rules over a file: findings that no other finding explains, and what could not be decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, TypeVar

from maskcli.arrays import for_any_numbers
from maskcli.diagnostics import catalogue
from maskcli.diagnostics.excerpt import excerpt
from maskcli.diagnostics.finding import SEVERITIES, Finding, Found, Skipped, Undecided, Where
from maskcli.diagnostics.needs import met_by, settled_by, unmet
from maskcli.diagnostics.over_steps import Told, over_steps
from maskcli.diagnostics.plain import counts_in_words, plain
from maskcli.diagnostics.rule import Rule
from maskcli.diagnostics.rules.hits import in_words
from maskcli.diagnostics.see import in_its_rows, see
from maskcli.diagnostics.unchecked import Unchecked, unchecked, unpaired
from maskcli.displayed import Displayed
from maskcli.masks.runs import Runs
from maskcli.masks.spec import Resolve
from maskcli.masks.words import counted
from maskcli.meant.facts import Declared
from maskcli.meant.metadata import from_metadata
from maskcli.scene.assemble import build_scenes
from maskcli.scene.scene import Scene
from maskcli.tensors import Roled, TensorFile, role_by_name, roles_of

Key = TypeVar("Key")

# Token texts quoted with a finding.
QUOTED = 3


@dataclass(frozen=True)
class Report(Displayed):
    """What diagnose found in some files, worst first.

    `checked` are the tensors that rules read and `roles` what each of them is, `unfit` those passed over and
    why, `decided` the codes of the rules that could decide, `unchecked` what no rule looked at, in groups.
    """

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    files: tuple[str, ...]
    checked: tuple[str, ...]
    unfit: dict[str, str]
    roles: tuple[str, ...] = ()
    decided: frozenset[str] = frozenset()
    unchecked: tuple[Unchecked, ...] = ()

    @property
    def blind(self) -> tuple[Unchecked, ...]:
        """Evidence that is there and of which nothing could be checked: all weights, or all masks."""
        return tuple(each for each in self.unchecked if each.every)

    @property
    def maps(self) -> list[str]:
        """The attention weights that rules read."""
        return [name for name, role in zip(self.checked, self.roles, strict=True) if role == "weights"]

    def __str__(self) -> str:
        """A line for each finding, and one that counts them."""
        closing = self.summary().closing
        if not self.findings:
            closing += f", by {counted(len(self.decided), 'rule')}"
        return plain(self.findings, closing)

    def counts(self) -> dict[str, int]:
        """How many findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def worst(self) -> str | None:
        """The worst severity found."""
        return self.summary().worst()

    def summary(self) -> Summary:
        """The report without its findings."""
        files = sum(map(bool, self.files))
        whole = Summary(self.counts(), files, Counter(self.roles), self.unfit, self.decided)
        for skip in self.skipped:
            _add(whole.undecided, skip.needs, {skip.code})
            for option in skip.options:
                _add(whole.options, option, {skip.code})
        return whole


@dataclass(frozen=True)
class Summary:
    """What reports come to without their findings: all that is kept of files by the thousand.

    `counts` are findings by severity, `roles` checked tensors by role, `unfit` the tensors passed over and
    why, `decided` the codes that could decide, `undecided` for each set of needs the codes that could not,
    `options` for each option the codes that it alone would let decide.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SEVERITIES, 0))
    files: int = 0
    roles: Counter[str] = field(default_factory=Counter)
    unfit: dict[str, str] = field(default_factory=dict)
    decided: frozenset[str] = frozenset()
    undecided: dict[tuple[str, ...], frozenset[str]] = field(default_factory=dict)
    options: dict[str, frozenset[str]] = field(default_factory=dict)

    @property
    def asked(self) -> frozenset[str]:
        """The codes of all rules that were asked, whether or not they could decide."""
        return self.decided.union(*self.undecided.values())

    def worst(self) -> str | None:
        """The worst severity found."""
        return next((severity for severity in SEVERITIES if self.counts[severity]), None)

    @property
    def closing(self) -> str:
        """Counts of findings, and of what was looked at."""
        looked = counted(self.roles.total(), "tensor")
        # Arrays in memory are of no file.
        if self.files:
            looked += f" of {counted(self.files, 'file')}"
        return f"{counts_in_words(self.counts)} in {looked}"

    def __add__(self, other: Summary) -> Summary:
        undecided, options = dict(self.undecided), dict(self.options)
        for needs, codes in other.undecided.items():
            _add(undecided, needs, codes)
        for option, codes in other.options.items():
            _add(options, option, codes)
        return Summary(
            counts={severity: count + other.counts[severity] for severity, count in self.counts.items()},
            files=self.files + other.files,
            roles=self.roles + other.roles,
            unfit=self.unfit | other.unfit,
            decided=self.decided | other.decided,
            undecided=undecided,
            options=options,
        )


def _add(codes: dict[Key, frozenset[str]], key: Key, more: Collection[str]) -> None:
    """More codes to those of a key."""
    codes[key] = codes.get(key, frozenset()).union(more)


@for_any_numbers
def diagnose(
    file: TensorFile,
    declared: Declared | None = None,
    roled: tuple[Roled, ...] | None = None,
    resolve: Resolve | None = None,
    token: Callable[[int], str] | None = None,
    rules: Collection[str] | None = None,
) -> Report:
    """Check the tensors of one file.

    `roled` replaces the roles that names, shapes and values give; options win over the file's metadata;
    `resolve` reads the files that a declared spec names; `token` turns an id into text; of `rules` only these
    codes are reported (None: all), though others still explain what they explain.
    """
    roled = roles_of(file) if roled is None else roled
    scenes = scenes_of(file, declared or Declared(), roled, resolve)
    chosen = [rule for rule in catalogue.RULES if rules is None or rule.code in rules]
    codes = {rule.code for rule in chosen}
    outcomes = [_check(scene, chosen) for scene in scenes]

    unfit = _refused(roled)
    for scene in scenes:
        unfit |= scene.unfit
    checked = dict(chain.from_iterable(map(_checked, scenes)))
    checked = {name: role for name, role in checked.items() if name not in unfit}
    explained = {name for outcome in outcomes for _, found in outcome.found for name in found.tensors}
    return Report(
        findings=_findings(outcomes, file, roled, token),
        skipped=_skipped(outcomes, chosen, file.path),
        files=(file.path,),
        checked=tuple(checked),
        unfit=unfit,
        roles=tuple(checked.values()),
        decided=frozenset(codes & _decided(outcomes)),
        unchecked=unchecked(file.path, unfit, roled, checked) + unpaired(scenes, explained),
    )


def scenes_of(
    file: TensorFile, declared: Declared, roled: tuple[Roled, ...], resolve: Resolve | None
) -> tuple[Scene, ...]:
    """The scenes of a file; options win over its metadata."""
    facts = declared.over(from_metadata(file.metadata, file.path)).with_model()
    return build_scenes(file.path, roled, facts, resolve)


def _findings(
    outcomes: list[_Outcome], file: TensorFile, roled: tuple[Roled, ...], token: Callable[[int], str] | None
) -> tuple[Finding, ...]:
    """What was found, steps folded, worst first."""
    told = (
        Told(rule, in_words(found), outcome.scene) for outcome in outcomes for rule, found in outcome.found
    )
    origins = {each.tensor.name: each.origin for each in roled if each.origin is not None}
    findings = [_finding(*each, token, file, origins) for each in over_steps(told, roled)]
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.code, f.tensors)))


def together(reports: list[Report]) -> Report:
    """The reports of several files as one."""
    findings = chain.from_iterable(report.findings for report in reports)
    unfit: dict[str, str] = {}
    for report in reports:
        unfit |= report.unfit
    return Report(
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        skipped=tuple(chain.from_iterable(report.skipped for report in reports)),
        files=tuple(chain.from_iterable(report.files for report in reports)),
        checked=tuple(chain.from_iterable(report.checked for report in reports)),
        unfit=unfit,
        roles=tuple(chain.from_iterable(report.roles for report in reports)),
        decided=frozenset(chain.from_iterable(report.decided for report in reports)),
        unchecked=tuple(chain.from_iterable(report.unchecked for report in reports)),
    )


class _Outcome(NamedTuple):
    """What rules say of a scene: which needs it meets, what they found, and what each of the others needs.

    `found` has what is reported, by rule in order, `asked` what any rule found that nothing explains, by
    code; `decided` are those who could decide.
    """

    scene: Scene
    met: frozenset[str]
    found: list[tuple[Rule[Scene], Found]]
    asked: dict[str, list[Found]]
    needs: dict[str, tuple[str, ...]]
    decided: set[str]


def _check(scene: Scene, rules: list[Rule[Scene]]) -> _Outcome:
    outcome = _Outcome(scene, met_by(scene), [], {}, {}, set())
    for rule in rules:
        outcome.found.extend((rule, found) for found in _ask(rule, outcome))
    return outcome


def _ask(rule: Rule[Scene], outcome: _Outcome) -> list[Found]:
    """What a rule finds in a scene and no cause explains; causes are asked once there is something to."""
    if rule.code in outcome.asked:
        return outcome.asked[rule.code]
    new = outcome.asked[rule.code] = list[Found]()
    missing = unmet(rule.needs, outcome.met, outcome.scene)
    if missing:
        outcome.needs[rule.code] = missing
        return new

    needed, found = list[str](), list[Found]()
    for answer in rule.check(outcome.scene):
        if isinstance(answer, Undecided):
            needed.append(answer.needs)
        elif isinstance(answer, Found):
            found.append(answer)
    if found:
        maps = {attention.name for attention in outcome.scene.attentions}
        causes = [cause for each in catalogue.CAUSES[rule.code] for cause in _ask(each, outcome)]
        for answer in found:
            if not any(_explains(cause, answer, maps) for cause in causes if weighs(cause, answer, rule)):
                new.append(answer)

    if needed and not new:
        outcome.needs[rule.code] = tuple(dict.fromkeys(needed))
    else:
        outcome.decided.add(rule.code)
    return new


def _refused(tensors: tuple[Roled, ...]) -> dict[str, str]:
    """Tensors that are named for a role and cannot be read, and why."""
    named = (each.tensor for each in tensors if each.role is None and role_by_name(each.tensor.name)[0])
    return {tensor.name: tensor.refusal for tensor in named if tensor.refusal is not None}


def _decided(outcomes: list[_Outcome]) -> set[str]:
    """Rules that could decide in some scene."""
    return set().union(*(outcome.decided for outcome in outcomes))


def _skipped(outcomes: list[_Outcome], chosen: list[Rule[Scene]], file: str) -> tuple[Skipped, ...]:
    """Rules that could decide in no scene, by code, with what the last one lacked."""
    needs: dict[str, tuple[str, ...]] = {}
    for outcome in outcomes:
        needs |= outcome.needs
    open_codes = needs.keys() - _decided(outcomes)
    rules = sorted((rule for rule in chosen if rule.code in open_codes), key=lambda rule: rule.code)
    return tuple(
        Skipped(rule.code, rule.name, file, needs[rule.code], _options(rule, outcomes)) for rule in rules
    )


def _options(rule: Rule[Scene], outcomes: list[_Outcome]) -> tuple[str, ...]:
    """The options of which each alone would let a rule decide in some scene."""
    settled = (option for outcome in outcomes for option in settled_by(rule.needs, outcome.met))
    return tuple(dict.fromkeys(settled))


def weighs(cause: Found, answer: Found, rule: Rule[Scene]) -> bool:
    """Whether a finding can be the cause of another: what is harmless is none of what is not."""
    return cause.severity != "note" or (answer.severity or rule.severity) == "note"


def _explains(earlier: Found, later: Found, maps: set[str]) -> bool:
    """Whether two findings are of one place; those of attention maps must share a map as well."""
    first, second = set(earlier.tensors), set(later.tensors)
    apart = first <= maps and second <= maps and not first & second
    return not apart and _overlap(earlier.explains or earlier.where, later.where)


def _overlap(a: Where, b: Where) -> bool:
    """Whether two places share a batch item and a query."""
    items = a.batch is None or b.batch is None or bool(set(a.batch) & set(b.batch))
    return items and (a.queries is None or b.queries is None or _meet(a.queries, b.queries))


def _meet(a: Runs, b: Runs) -> bool:
    return any(x[0] < y[1] and y[0] < x[1] for x in a for y in b)


def _finding(
    rule: Rule[Scene],
    found: Found,
    scene: Scene,
    token: Callable[[int], str] | None,
    file: TensorFile,
    origins: dict[str, str],
) -> Finding:
    """A Found as it is reported: `origins` is the FILE[:TENSOR] of tensors that lie in other files."""
    spot = found.places[0] if found.places else found.where
    tensor = found.tensors[0] if found.tensors else ""
    shown = in_its_rows(scene, tensor, spot)
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=found.severity or rule.severity,
        file=scene.file,
        tensors=tuple(origins.get(name, name) for name in found.tensors),
        message=found.message,
        fix=found.fix,
        see=see(scene, tensor, shown, file, origins.get(tensor)),
        where=found.where,
        evidence=found.evidence,
        places=found.places,
        tokens=() if token is None else _quoted(scene, spot, token),
        excerpt=excerpt(scene, tensor, shown, token),
    )


def _checked(scene: Scene) -> Iterator[tuple[str, str]]:
    """Tensors that rules read, and their roles."""
    for attention in scene.attentions:
        yield attention.name, "weights"
    for saved in scene.masks:
        yield saved.given.tensor.name, "mask"
    for roled in scene.tensors:
        if roled.role not in (None, "weights", "mask"):
            yield roled.tensor.name, str(roled.role)


def _quoted(scene: Scene, spot: Where, token: Callable[[int], str]) -> tuple[str, ...]:
    """The first few tokens at the place: its keys, else its queries."""
    runs = spot.keys or spot.queries
    item = spot.batch[0] if spot.batch else 0
    if not runs:
        return ()
    start, stop = runs[0]
    for tokens in scene.tokens:
        if tokens.ids is not None and item < len(tokens.ids) and start < tokens.ids.shape[1]:
            ids = tokens.ids[item, start : min(stop, start + QUOTED)]
            return tuple(token(int(each)) for each in ids)
    return ()
