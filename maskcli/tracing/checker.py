"""Check the attention calls of a running program with the rules of diagnose, and fold what is found over steps and modules."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from maskcli.diagnostics.catalogue import rule
from maskcli.diagnostics.diagnose import Report, diagnose
from maskcli.diagnostics.finding import SEVERITIES, Finding, Skipped, Traced, Where
from maskcli.errors import MaskcliError
from maskcli.inputs.operands import resolver
from maskcli.meant.facts import Declared
from maskcli.tensors import Roled, TensorFile, from_array, role_of, source_of, write_tensors
from maskcli.tensors.storage import InMemory
from maskcli.tracing.calls import Call, Place, Torch, quietly, roled
from maskcli.tracing.steps import Step

# A call like two of its module that ended alike is only sampled: one of so many is checked.
ALIKE, SAMPLED = 2, 32
# Files that --save-all writes at most; a disk is full sooner than a long run is over.
MAX_SAVED = 10_000


@dataclass(frozen=True)
class Options:
    """What of a program is checked, and what is kept of it.

    Every `every`-th step, `limit` calls at most, the modules whose path matches one of `modules` (shell globs; none: all).
    `save` is a folder for the tensors of findings, with `save_all` those of every call.
    """

    declared: Declared = Declared()
    token: Callable[[int], str] | None = None
    codes: Collection[str] | None = None
    every: int = 1
    limit: int | None = None
    modules: tuple[str, ...] = ()
    save: str | None = None
    save_all: bool = False


@dataclass(frozen=True)
class TraceReport(Report):
    """What was found in a running program. `checked` are the modules whose calls were; `changed` says what watching changed.

    `calls` is how many attention calls were seen in `steps` steps, `looked` how many of them were checked.
    """

    calls: int = 0
    looked: int = 0
    steps: int = 0
    changed: tuple[str, ...] = ()


@dataclass(eq=False)
class _Folded:
    finding: Finding
    modules: dict[str, None]
    calls: int


class Checker:
    """The rules over the calls of a program, as they are made."""

    def __init__(self, program: str, options: Options) -> None:
        self.program, self.options = program, options
        self._resolve = resolver(options.declared.convention)
        self._folded: dict[object, _Folded] = {}
        self._skipped: dict[str, Skipped] | None = None
        self._unfit: dict[str, str] = {}
        self._changed: dict[str, None] = {}
        self._modules: dict[str, None] = {}
        self._matched: set[str] = set()
        self._alike: dict[object, tuple[object, int]] = {}
        self._seen: Counter[object] = Counter()
        self._calls = self._looked = self._steps = self._saved = 0
        self._first: tuple[Roled, ...] = ()
        self._aligned = False
        self._broken = self._gradient_broken = False

    def report(self) -> TraceReport:
        """All that was found so far, worst first."""
        findings = [dataclasses.replace(each.finding, traced=_traced(each)) for each in self._folded.values()]
        unmatched = {
            f"--expect {each.pattern}": "it matches no attention call"
            for each in self.options.declared.expect
            if each.pattern is not None and each.pattern not in self._matched
        }
        return TraceReport(
            tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.code))),
            tuple(self._skipped[code] for code in sorted(self._skipped or {})) if self._skipped else (),
            (self.program,),
            tuple(self._modules),
            {**self._unfit, **unmatched},
            calls=self._calls,
            looked=self._looked,
            steps=self._steps,
            changed=tuple(self._changed),
        )

    # What a Watch tells.

    def wants(self, module: str) -> bool:
        """Whether a module's calls are to be looked at."""
        return not self.options.modules or any(
            fnmatchcase(module, pattern) for pattern in self.options.modules
        )

    def attention(self, call: Call, place: Place, step: Step, padding: Torch | None) -> None:
        """Check a call, when it is its turn or when it is the first with NaN."""
        self._calls += 1
        self._steps = max(self._steps, step.number + 1)
        self._follow_gradients(call, place)
        broken = _has_nan(call.output)
        if broken and self._broken and _inherits(call):
            return
        key = (
            place.module,
            place.kind,
            step.two_sided,
            tuple(step.tokens),
            padding is not None,
            *call.signature,
        )
        saving = self.options.save_all and self._in_turn(step)
        due = (broken and not self._broken) or (self._in_turn(step) and self._samples(key))
        self._broken = self._broken or broken
        if not due and not saving:
            return
        tensors = roled(call, place, step.batch)
        tokens = self._tokens(step, place, padding)
        if saving:
            self._save(tensors, tokens, f"{place.step:05d}-{place.module}")
        if not due:
            return
        self._looked += 1
        self._modules[place.module] = None
        self._note_patterns(tensors)
        report = self._diagnose((*tensors, *tokens), self._declared(step))
        own = {each.tensor.name for each in tensors}
        found = [finding for finding in report.findings if own & set(finding.tensors)]
        self._ended(key, found)
        for finding in found:
            self._add(_renamed(finding, place.module), place, (tensors, tokens))
        if not self._first and place.kind in ("self", "decoder"):
            self._first = tuple(
                each
                for each in tensors
                if each.role in ("weights", "mask") and isinstance(each.tensor.storage, InMemory)
            )

    def loss(self, target: Torch, ignored: int, step: Step) -> None:
        """Labels at the loss: as many as tokens (beside the logits that are to predict them), or one fewer a sample."""
        ids = next(
            (
                step.tokens[key][1]
                for key in (("input_ids", "decoder"), ("input_ids", "self"))
                if key in step.tokens
            ),
            None,
        )
        if ids is None or any(role == "labels" for role, _ in step.tokens):
            return
        batch, length = ids.shape
        with quietly():
            if target.numel() == batch * length:
                labels = target.reshape(batch, length)
            elif length > 1 and target.numel() == batch * (length - 1):
                labels = target.new_full((batch, length), ignored)
                labels[:, :-1] = target.reshape(batch, length - 1)
            else:
                return
        step.note("labels", "self", "labels", labels)
        self._aligned = True

    def step_ends(self, step: Step) -> None:
        """Check what the step said of its tokens, with one of its attention calls beside it."""
        first, aligned, self._first, self._aligned = self._first, self._aligned, (), False
        key = ("tokens", *step.tokens)
        if not step.tokens or not self._in_turn(step) or not self._samples(key):
            return
        declared = self._declared(step)
        if aligned and declared.loss_shift is None and _is_causal(first):
            declared = dataclasses.replace(declared, loss_shift="data")
        place = Place("", "self", max(step.number, 0), None)
        tokens = self._tokens(step, place, None)
        report = self._diagnose((*first, *tokens), declared)
        own = {each.tensor.name for each in first}
        found = [finding for finding in report.findings if not own & set(finding.tensors)]
        self._ended(key, found)
        for finding in found:
            self._add(finding, place, (first, tokens))

    def changed(self, what: str) -> None:
        """Watching made the program take another way."""
        self._changed[what] = None

    def trouble(self, error: Exception) -> None:
        """A call could not be looked at; the reason is told once."""
        text = str(error) if isinstance(error, MaskcliError) else f"{type(error).__name__}: {error}"
        if os.environ.get("MASKCLI_DEBUG"):
            raise error
        self._unfit.setdefault(
            "some calls" if not isinstance(error, MaskcliError) else "attention", text.splitlines()[0][:300]
        )

    # What is done about it.

    def _in_turn(self, step: Step) -> bool:
        within = self.options.limit is None or self._looked < self.options.limit
        return within and max(step.number, 0) % self.options.every == 0

    def _samples(self, key: object) -> bool:
        """Whether a call like this is looked at: always, until enough of them have ended alike."""
        self._seen[key] += 1
        return self._alike.get(key, (None, 0))[1] < ALIKE or self._seen[key] % SAMPLED == 0

    def _ended(self, key: object, found: Sequence[Finding]) -> None:
        outcome = tuple(sorted((finding.code, finding.severity) for finding in found))
        before, count = self._alike.get(key, (None, 0))
        self._alike[key] = (outcome, count + 1 if outcome == before else 1)

    def _diagnose(self, tensors: tuple[Roled, ...], declared: Declared) -> Report:
        with quietly():
            report = diagnose(
                TensorFile(self.program, ()),
                declared,
                tensors,
                self._resolve,
                self.options.token,
                self.options.codes,
            )
        now = {skip.code: skip for skip in report.skipped}
        self._skipped = (
            now
            if self._skipped is None
            else {code: skip for code, skip in self._skipped.items() if code in now}
        )
        self._unfit.update(report.unfit)
        return report

    def _declared(self, step: Step) -> Declared:
        """What the user declared. A decoder whose texts all start with the pad token (T5's do) starts with a real token."""
        declared = self.options.declared
        _, ids = step.tokens.get(("input_ids", "decoder"), ("", None))
        if ids is None or declared.pad_id is None or not bool((ids[:, 0] == declared.pad_id).all()):
            return declared
        return dataclasses.replace(declared, bos_ids=(*declared.bos_ids, declared.pad_id))

    def _tokens(self, step: Step, place: Place, padding: Torch | None) -> tuple[Roled, ...]:
        """What the step says of its tokens; a module's own padding mask where the step says nothing of that side."""
        said = [(role, kind, name, tensor) for (role, kind), (name, tensor) in step.tokens.items()]
        sides = ("encoder", "cross") if place.kind == "cross" else (place.kind, "self")
        if padding is not None and not any(
            role == "padding_mask" and kind in sides for role, kind, _, _ in said
        ):
            said.append(("padding_mask", place.kind, "key_padding_mask", padding.detach()))
        return tuple(
            dataclasses.replace(
                role_of(from_array(name, tensor)), role=role, why="trace", group="", kind=kind
            )
            for role, kind, name, tensor in said
        )

    def _note_patterns(self, tensors: tuple[Roled, ...]) -> None:
        weights = tensors[0].tensor.name
        self._matched |= {
            each.pattern
            for each in self.options.declared.expect
            if each.pattern is not None and fnmatchcase(weights, each.pattern)
        }

    def _add(
        self, finding: Finding, place: Place, tensors: tuple[tuple[Roled, ...], tuple[Roled, ...]] | None
    ) -> None:
        """Fold a finding with equal ones: of the same rule and severity, in tensors of the same part, led to by the same line."""
        roles = tuple(name.rpartition(".")[2] for name in finding.tensors)
        key = (finding.code, finding.severity, roles, place.source)
        folded = self._folded.get(key)
        if folded is None:
            see = f"maskcli rule {finding.code}"
            if self.options.save is not None and tensors is not None:
                path = self._save(*tensors, f"{place.step:05d}-{finding.code}-{place.module or 'tokens'}")
                see = _see(finding, path) if path else see
            traced = Traced((place.module,), place.step, 1, place.source)
            folded = self._folded[key] = _Folded(dataclasses.replace(finding, see=see, traced=traced), {}, 0)
        folded.modules[place.module] = None
        folded.calls += 1

    def _save(self, tensors: tuple[Roled, ...], tokens: tuple[Roled, ...], stem: str) -> str | None:
        """Write tensors to a file of their own in the folder; its path, or None when there are too many already."""
        if self.options.save is None or self._saved >= MAX_SAVED:
            return None
        os.makedirs(self.options.save, exist_ok=True)
        name = re.sub(r"[^\w.-]", "_", stem)[:150]
        path = os.path.join(self.options.save, f"{self._saved:04d}-{name}.safetensors")
        self._saved += 1
        with quietly():
            write_tensors(path, {each.tensor.name: source_of(each.tensor) for each in (*tensors, *tokens)})
        return path

    def _follow_gradients(self, call: Call, place: Place) -> None:
        """Look at the gradients of a call as they come back: the first that is NaN names the call it came through.

        Nothing here may hold on to the call's own tensors, or their graph would never be freed.
        """
        if self._gradient_broken or not call.graph[0][1].requires_grad:
            return
        arrived: list[bool] = []
        masks = call.masks
        for name, tensor in call.graph:
            if tensor.requires_grad:
                tensor.register_hook(
                    lambda gradient, name=name: self._gradient(gradient, name, arrived, masks, place)
                )

    def _gradient(
        self,
        gradient: Torch,
        name: str,
        arrived: list[bool],
        masks: Callable[[], dict[str, Any]],
        place: Place,
    ) -> None:
        if self._gradient_broken:
            return
        try:
            nan = _has_nan(gradient)
            if name == "output":
                arrived.append(nan)
            if nan:
                self._gradient_broken = True
                self._add(
                    _gradient_finding(self.program, name, any(arrived), _empty_rows(masks()), place),
                    place,
                    None,
                )
        except Exception as error:
            self.trouble(error)


def _traced(each: _Folded) -> Traced:
    traced = each.finding.traced
    assert traced is not None
    return traced._replace(modules=tuple(name for name in each.modules if name), calls=each.calls)


def _renamed(finding: Finding, module: str) -> Finding:
    """A finding whose texts call tensors by their part alone: the module is told beside them, and folded findings share it."""
    return dataclasses.replace(
        finding, message=finding.message.replace(f"{module}.", ""), fix=finding.fix.replace(f"{module}.", "")
    )


def _see(finding: Finding, path: str) -> str:
    parts = ["maskcli", "inspect", shlex.quote(f"{path}:{finding.tensors[0]}" if finding.tensors else path)]
    spot = finding.places[0] if finding.places else finding.where
    parts += [f"--batch {spot.batch[0]}"] if spot.batch else []
    parts += [f"--head {spot.heads[0]}"] if spot.heads else []
    parts += [
        f"{option} {runs[0][0]}:{runs[-1][1]}"
        for option, runs in (("--rows", spot.queries), ("--keys", spot.keys))
        if runs
    ]
    return " ".join(parts)


def _has_nan(tensor: Torch) -> bool:
    """Whether a tensor holds NaN: its sum then is one, and else it is one only when infinities of both signs meet."""
    with quietly():
        return bool(tensor.detach().float().sum().isnan()) and bool(tensor.detach().isnan().any())


def _inherits(call: Call) -> bool:
    """Whether NaN comes into a call from before it."""
    return any(each is not None and _has_nan(each) for each in (call.query, call.key, call.value))


def _is_causal(tensors: tuple[Roled, ...]) -> bool:
    """Whether no query of a square map weighs what is behind it."""
    for each in tensors:
        if (
            each.role == "weights"
            and len(each.tensor.shape) == 4
            and each.tensor.shape[2] == each.tensor.shape[3] > 1
        ):
            weights = each.tensor.read()
            behind = np.triu(np.ones(weights.shape[2:], bool), 1)
            return not bool(np.nan_to_num(weights)[..., behind].any())
    return False


def _empty_rows(masks: dict[str, Any]) -> bool:
    """Whether a mask leaves a query no key."""
    import torch

    with quietly():
        for mask in masks.values():
            if isinstance(mask, torch.Tensor):
                closed = ~mask if mask.dtype == torch.bool else mask == -np.inf
                if bool(closed.all(-1).any()):
                    return True
    return False


def _gradient_finding(program: str, name: str, arrived: bool, empty: bool, place: Place) -> Finding:
    chosen = rule("MSK301" if empty and not arrived else "MSK305")
    if arrived:
        message = "the gradient that reaches the output of this attention is NaN already: it comes from what follows, a layer or the loss"
        fix = "look at what computes with this output, down to the loss"
    elif empty:
        message = f"the gradient of {name} turns NaN in this attention, whose mask leaves some query no key"
        fix = "keep one key a row or use a finite fill; nan_to_num behind the softmax hides the NaN on the way forward only"
    else:
        message = f"the gradient of {name} turns NaN in this attention, while that of its output is finite"
        fix = "look for values that overflow on the way back: very large scores, or a square root or logarithm of 0 behind the softmax"
    return Finding(
        chosen.code,
        chosen.name,
        "warning" if arrived else "error",
        program,
        (f"{place.module}.{name}",),
        message,
        fix,
        "",
        Where(),
        {"gradient": name},
    )
