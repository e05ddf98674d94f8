"""Check the attention calls of a running program with the rules of diagnose."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from maskcli.diagnostics.catalogue import OF_ATTENTION, OF_TOKENS, named
from maskcli.diagnostics.diagnose import Report, diagnose
from maskcli.diagnostics.finding import SEVERITIES, Finding, Skipped, Where
from maskcli.errors import MaskcliError
from maskcli.inputs.operands import resolver
from maskcli.meant.facts import FULL, Declared
from maskcli.tensors import Roled, TensorFile
from maskcli.tensors.storage import InMemory
from maskcli.tracing.added import INVERTED
from maskcli.tracing.caches import Caches
from maskcli.tracing.calls import Call, Place, Torch, has_nan, quietly, roled
from maskcli.tracing.encoders import READ, is_causal, reads_whole
from maskcli.tracing.folded import Folded
from maskcli.tracing.gradients import Gradients
from maskcli.tracing.habits import Habits
from maskcli.tracing.keeping import Keeping
from maskcli.tracing.pooled import Pooled
from maskcli.tracing.remaining import TWICE, with_remaining
from maskcli.tracing.results import Missed, Options, SoFar, Told, TraceReport
from maskcli.tracing.saving import Folder, see
from maskcli.tracing.steps import NEXT, Step
from maskcli.tracing.waiting import Shown, Waiting
from maskcli.tracing.windows import Windows

# Elements of tensors that wait for their step to end, at most: 256 MiB of float32.
KEPT = 2**26


@dataclass(eq=False)
class _Tally:
    """What a report says beside its findings, so far."""

    calls: int = 0
    looked: int = 0
    steps: int = 0
    modules: dict[str, None] = field(default_factory=dict)
    missed: Counter[tuple[str, tuple[int, ...]]] = field(default_factory=Counter)
    unseen: dict[str, None] = field(default_factory=dict)
    threads: set[int] = field(default_factory=set)
    processes: int = 1
    lost: int = 0
    unfollowed: dict[str, None] = field(default_factory=dict)
    changed: dict[str, None] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)
    decided: set[str] = field(default_factory=set)

    def add(self, report: Report) -> None:
        """What one look could decide, and what not."""
        self.skipped = {skip.code: skip for skip in report.skipped} | self.skipped
        self.decided |= report.decided
        self.unfit.update(report.unfit)

    def undecided(self) -> list[Skipped]:
        """What no look could decide, by code."""
        return [skip for code, skip in sorted(self.skipped.items()) if code not in self.decided]


class Checker:
    """The rules over the calls of a program, as they are made."""

    def __init__(self, program: str, options: Options, told: Told | None = None) -> None:
        self.program, self.options, self._told = program, options, told
        self._resolve = resolver(options.declared.convention)
        self._tally, self._folded, self._folder = _Tally(), Folded(), Folder(options.save)
        self._gradients = Gradients(program, self._folded.add, self.trouble)
        self._habits, self._windows, self._pooled = Habits(), Windows(), Pooled(self.trouble)
        self._waiting: list[Waiting] = []
        self._caches, self._kept = Caches(), Keeping(options)
        self._broken = False

    def report(self) -> TraceReport:
        """All that was found so far, worst first."""
        tally = self._tally
        weights = [f"{module}.weights".removeprefix(".") for module in tally.modules]
        patterns = [expected.pattern for expected in self.options.declared.expect]
        unmatched = {
            f"--expect {pattern}": "it matches no attention call"
            for pattern in patterns
            if pattern is not None and not any(fnmatchcase(name, pattern) for name in weights)
        }
        return TraceReport(
            findings=self._findings_so_far(),
            skipped=tuple(skip for skip in tally.undecided() if self._is_wanted(skip.code)),
            decided=frozenset(tally.decided),
            files=(self.program,),
            checked=tuple(tally.modules),
            unfit={**tally.unfit, **unmatched},
            calls=tally.calls,
            looked=tally.looked,
            steps=tally.steps,
            changed=tuple(tally.changed),
            missed=tuple(Missed(*at, count) for at, count in sorted(tally.missed.items())),
            unseen=tuple(tally.unseen),
            threads=max(len(tally.threads), 1),
            processes=tally.processes,
            lost=tally.lost,
            unfollowed=tuple(tally.unfollowed),
            kept=self._kept.calls(),
        )

    def so_far(self) -> SoFar:
        """What a line tells while the program runs."""
        found = self._findings_so_far()
        counts = Counter(each.severity for each in found)
        codes = dict.fromkeys(each.code for each in found)
        by_severity = {severity: counts[severity] for severity in SEVERITIES}
        return SoFar(max(self._tally.steps - 1, 0), self._tally.calls, by_severity, tuple(codes))

    def _findings_so_far(self) -> tuple[Finding, ...]:
        return tuple(filter(self._windows.stands, self._folded.findings()))

    # What a Watch tells.

    def wants(self, module: str) -> bool:
        """Whether a module's calls are to be looked at."""
        patterns = self.options.modules
        return not patterns or any(fnmatchcase(module, pattern) for pattern in patterns)

    def attention(self, call: Call, place: Place, step: Step, padding: Torch | None) -> None:
        """A call has returned: check it when it is its turn, or when it is the first with NaN."""
        self._tally.calls += 1
        self._tally.threads.add(threading.get_ident())
        self._tally.steps = max(self._tally.steps, step.number + 1)
        if self._told is not None:
            self._told(self.so_far)
        self._gradients.follow(call, place)
        self._pooled.follow(call, place.kind, step)
        broken, again = has_nan(call.operands["output"]), self._broken
        if broken and again and call.inherits_nan():
            return
        self._broken |= broken
        like = _like(place, step, padding, call.signature)
        saved = self.options.save_all and self._in_turn(step)
        due = (broken and not again) or self._due(step, place.module, like)
        if not due and not saved:
            return
        place = place.here()
        tensors = roled(call, place, step.samples(call.weights.shape))
        past = self._caches.past(call, place.module)
        self._waiting.append(
            Waiting(
                step, place, tensors, padding, past, like, call.signature, call.twice, call.added, due, saved
            )
        )
        if broken or sum(each.size for each in self._waiting) > KEPT:
            self.settle(step)

    def settle(self, step: Step) -> None:
        """All that the step will tell of its calls is told: look at those that wait."""
        waiting = [call for call in self._waiting if call.step is step]
        self._waiting = [call for call in self._waiting if call.step is not step]
        step.read_whole |= reads_whole([call.tensors for call in waiting if call.place.kind == "cross"])
        for call in waiting:
            shown = call.shown(self.options.declared)
            if call.saved:
                stem = f"{call.place.step:05d}-{call.place.module}"
                self._folder.write(shown.tensors + shown.tokens, stem)
            if call.due:
                self._look(shown, step, call)

    def step_ends(self, step: Step) -> None:
        """The step is over: check what it said of its tokens, with one of its attention calls beside it."""
        self.settle(step)
        self._pooled.step_ends(step)
        like = ("tokens", *step.tokens)
        if not step.tokens or not self._due(step, "", like):
            return
        declared = step.declared(self.options.declared)
        moved = step.shift is not None and step.shift >= NEXT
        if step.aligned and declared.loss_shift is None and (moved or is_causal(step.shown)):
            declared = dataclasses.replace(declared, loss_shift="data")
        place = Place("", "self", max(step.number, 0), None)
        shown = Shown(place, step.shown, step.roled("self", None))
        self._note(self._findings(shown, declared, of_tokens=True), shown, (like,), step)

    def changed(self, what: str) -> None:
        """Watching made the program take another way."""
        self._tally.changed[what] = None

    def missed(self, module: str, shape: tuple[int, ...]) -> None:
        """A softmax over [Q, K] whose values were not met: it may have been attention."""
        self._tally.missed[module, shape] += 1

    def unseen(self, modules: Iterable[str]) -> None:
        """Modules that look like attention ran and showed none."""
        self._tally.unseen.update(dict.fromkeys(modules))

    def unfollowed(self, why: str) -> None:
        """A child process was started that is not watched."""
        self._tally.unfollowed[why] = None

    def join(self, reports: Iterable[TraceReport], lost: int) -> None:
        """Add what child processes found; `lost` of them left no report."""
        tally = self._tally
        tally.lost += lost
        for report in reports:
            tally.processes += 1
            tally.calls += report.calls
            tally.looked += report.looked
            tally.steps = max(tally.steps, report.steps)
            tally.modules.update(dict.fromkeys(report.checked))
            tally.unseen.update(dict.fromkeys(report.unseen))
            tally.unfollowed.update(dict.fromkeys(report.unfollowed))
            tally.changed.update(dict.fromkeys(report.changed))
            tally.missed.update({(each.module, each.shape): each.softmaxes for each in report.missed})
            tally.add(report)
            for finding in report.findings:
                self._folded.join(finding)

    def trouble(self, error: Exception) -> None:
        """A call could not be looked at; the reason is told once."""
        if os.environ.get("MASKCLI_DEBUG"):
            raise error
        what, why = "some calls", f"{type(error).__name__}: {error}"
        if isinstance(error, MaskcliError):
            what, why = "attention", str(error)
        self._tally.unfit.setdefault(what, why.splitlines()[0][:300])

    # What is done about it.

    def _in_turn(self, step: Step) -> bool:
        looked = self._tally.looked + sum(call.due for call in self._waiting)
        within = self.options.limit is None or looked < self.options.limit
        return within and max(step.number, 0) % self.options.every == 0

    def _due(self, step: Step, place: str, like: Hashable) -> bool:
        """Whether it is the turn of what happens in a place: always, until it has ended alike."""
        return self._in_turn(step) and self._habits.due(place, like)

    def _look(self, shown: Shown, step: Step, call: Waiting) -> None:
        """Check a call; the first of self-attention stands for the step."""
        module = shown.place.module
        self._tally.looked += 1
        self._tally.modules[module] = None
        declared = step.declared(self.options.declared).over(Declared(past=call.past))
        if shown.place.kind == "encoder" and step.read_whole and step.ids("encoder") is not None:
            declared = self.options.declared.over(dataclasses.replace(declared, at_most=(FULL, READ)))
        findings = self._findings(shown, declared, of_tokens=False)
        if call.twice:
            findings = self._twice(findings, shown)
        findings = with_remaining(
            findings,
            shown.tensors,
            lambda tensors: self._findings(shown._replace(tensors=tensors), declared, of_tokens=False),
        )
        if call.added:
            findings = self._inverted(call, declared) or findings
        # The step may have told more since, as a loss does: calls that know as much are like this one.
        told = _like(call.place, step, call.padding, call.signature)
        likes = dict.fromkeys((call.like, told))
        self._windows.note(findings, step.facts, shown.place.kind, shown.tensors[0].tensor.shape[-1])
        self._note([_renamed(finding, module) for finding in findings], shown, likes, step, declared)
        if not step.shown and shown.place.kind in ("self", "decoder"):
            step.shown = tuple(filter(_is_kept, shown.tensors))

    def _findings(self, shown: Shown, declared: Declared, of_tokens: bool) -> list[Finding]:
        """What is found in the tokens alone, or in the tensors of attention."""
        rules = OF_TOKENS if of_tokens else OF_ATTENTION
        report = self._diagnose(shown.tensors + shown.tokens, declared, rules)
        self._tally.add(report)
        names = {roled.tensor.name for roled in shown.tensors}
        return [finding for finding in report.findings if names.isdisjoint(finding.tensors) == of_tokens]

    def _inverted(self, call: Waiting, declared: Declared) -> list[Finding]:
        """Whether the mask of a call with added keys is inverted, which those hide: they are always seen."""
        findings = self._findings(call.masks_alone(), declared, of_tokens=False)
        return [finding for finding in findings if finding.code == INVERTED]

    def _twice(self, findings: list[Finding], shown: Shown) -> list[Finding]:
        """A softmax of a softmax, seen as it was computed, explains whatever its weights show."""
        rest = [finding for finding in findings if not finding.code.startswith("MSK2")]
        double = Finding(
            code=TWICE,
            name=named(TWICE).name,
            severity="warning",
            file=self.program,
            tensors=(shown.tensors[0].tensor.name,),
            message="the program takes the softmax of a softmax: no key can weigh more than e times another",
            fix="apply the softmax once",
            see=f"maskcli rule {TWICE}",
            where=Where(),
            evidence={},
        )
        return [*rest, double]

    def _diagnose(self, tensors: tuple[Roled, ...], declared: Declared, rules: Collection[str]) -> Report:
        file = TensorFile(self.program, ())
        with quietly():
            return diagnose(file, declared, tensors, self._resolve, self.options.token, rules)

    def _is_wanted(self, code: str) -> bool:
        """Whether findings of a rule are reported; the others still explain what they explain."""
        return self.options.codes is None or code in self.options.codes

    def _note(
        self,
        findings: list[Finding],
        shown: Shown,
        likes: Iterable[Hashable],
        step: Step,
        meant: Declared | None = None,
    ) -> None:
        """Fold findings; tensors of new ones are saved, and kept for drawing with what was `meant`."""
        place = shown.place
        outcome = sorted((finding.code, finding.severity) for finding in findings)
        for like in likes:
            self._habits.ended(place.module, like, outcome)
        for finding in findings:
            if not self._is_wanted(finding.code):
                continue
            if not self._folded.holds(finding, place):
                if meant is not None:
                    self._kept.keep(shown, meant)
                stem = f"{place.step:05d}-{finding.code}-{place.module or 'tokens'}"
                path = self._folder.write(shown.tensors + shown.tokens, stem)
                command = f"maskcli rule {finding.code}" if path is None else see(finding, path)
                known = step.facts.known_for(finding.code, self.options.declared, step.texts, step.generates)
                finding = dataclasses.replace(finding, see=command, known=known)
            self._folded.add(finding, place)


def _like(place: Place, step: Step, padding: Torch | None, signature: Hashable) -> Hashable:
    """What calls that are checked alike have in common: what is known beside them, and their signature."""
    told = tuple(step.tokens), padding is not None, step.generates, *step.facts.signature()
    return place.kind, step.two_sided, told, signature


def _renamed(finding: Finding, module: str) -> Finding:
    """A finding that calls tensors by their part: the module is told beside it; folded findings share it."""
    if not module:
        return finding
    message, fix = (text.replace(f"{module}.", "") for text in (finding.message, finding.fix))
    return dataclasses.replace(finding, message=message, fix=fix)


def _is_kept(roled: Roled) -> bool:
    """Whether a tensor may stand beside the tokens at the end of the step."""
    return roled.role in ("weights", "mask") and isinstance(roled.tensor.storage, InMemory)
