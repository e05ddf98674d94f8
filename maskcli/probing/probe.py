"""The whole probe: find what mixes positions, measure whom it sees in every run, compare whole runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from maskcli.diagnostics.behaviour import Behaviour, Compared, Reach, Seen
from maskcli.errors import MaskcliError
from maskcli.probing.axes import with_axes
from maskcli.probing.equivalence import tolerant
from maskcli.probing.exact import exact
from maskcli.probing.layers import Progress, seen_in
from maskcli.probing.plan import Plan
from maskcli.probing.reach import reach_of
from maskcli.probing.runs import Run, UnmeasuredError, decoding, given, packed, padded, takes_padding
from maskcli.probing.structure import Structure, first_run, structure_of
from maskcli.probing.subject import Subject
from maskcli.probing.whole import of_either_side

if TYPE_CHECKING:
    from torch.nn import Module


def measure(subject: Subject, plan: Plan, told: Progress = lambda _: None) -> Behaviour:
    """Probe a model as a plan says; `told` hears which module is at work.

    MaskcliError when the model cannot be run, or does not answer alike twice, so that nothing can be decided.
    """
    with undisturbed(subject.model):
        subject = with_axes(subject)
        try:
            structure = structure_of(subject, first_run(subject, plan))
        except UnmeasuredError as reason:
            raise MaskcliError(
                f"{reason}; pass --length N, or return (model, its arguments) from a function"
            ) from reason
        subject = replace(subject, by_text=structure.places == 1)
        gathered = _Gathered()
        if subject.sequence_first:
            gathered.notes.append("arguments are taken as [S, B] or [S, B, D]: only their first axis mixes")
        asked = subject.given is None and set(plan.pads) - {"none"}
        if asked and not takes_padding(subject):
            gathered.unmeasured.append(
                f"{type(subject.model).__name__} takes no attention_mask or other mask of padding"
            )
        for make in _settings(subject, plan):
            with gathered.trying():
                _look(subject, plan, make(), structure, gathered, told)
        if not structure.places:
            gathered.unmeasured.append(
                f"{subject.name} answers nothing for each token or text, so whole runs were not compared"
            )
        elif "equivalence" in plan.parts and subject.given is None:
            gathered.compare(tolerant(subject, plan))
        if subject.by_text:
            gathered.compared, note = of_either_side(gathered.compared)
            gathered.notes += [note] if note else []
    return Behaviour(
        model=type(subject.model).__name__,
        calls=structure.calls,
        mixing=structure.paths,
        seen=tuple(gathered.seen),
        compared=tuple(gathered.compared),
        reach=gathered.reach,
        forwards=structure.forwards,
        only_attention=subject.only_attends,
        unmeasured=tuple(dict.fromkeys(gathered.unmeasured)),
        notes=tuple(gathered.notes),
    )


@dataclass(eq=False)
class _Gathered:
    """What was measured so far."""

    seen: list[Seen] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reach: Reach | None = None

    @contextmanager
    def trying(self) -> Iterator[None]:
        """What cannot be measured is told, and ends nothing else."""
        try:
            yield
        except UnmeasuredError as reason:
            self.unmeasured.append(str(reason))

    def compare(self, found: tuple[list[Compared], list[str], list[str]]) -> None:
        """Whole runs were compared, or could not be; and how."""
        self.compared += found[0]
        self.unmeasured += found[1]
        self.notes += found[2]


def _look(
    subject: Subject, plan: Plan, run: Run, structure: Structure, gathered: _Gathered, told: Progress
) -> None:
    """Measure the layers in one run, and the whole model but where it reads a cache."""
    try:
        seen, unmeasured = seen_in(subject, plan, run, structure, told)
    except UnmeasuredError:
        seen, unmeasured = seen_in(subject, plan, run, _structure_here(subject, run), told)
    gathered.seen += seen
    gathered.unmeasured += unmeasured
    if run.past or not structure.places:
        return
    if gathered.reach is None:
        gathered.reach = reach_of(subject, plan, run, gathered.seen)
    if "batch" in plan.parts:
        gathered.compared += exact(subject, plan, run)


def _structure_here(subject: Subject, run: Run) -> Structure:
    """The mixers of a run that takes another way than the first one did."""
    try:
        return structure_of(subject, run)
    except UnmeasuredError:
        return structure_of(subject, run, fused=True)


def _settings(subject: Subject, plan: Plan) -> Iterator[Callable[[], Run]]:
    """The runs in which masks are measured."""
    if subject.given is not None:
        yield partial(given, subject)
        return
    if "masks" in plan.parts:
        for side in plan.pads if takes_padding(subject) else ("none",):
            yield partial(padded, subject, plan, side)
        if plan.documents:
            yield partial(packed, subject, plan)
    if "cache" in plan.parts:
        for cached in plan.caches:
            for queries in (1, 4):
                yield partial(decoding, subject, plan, cached, queries)


@contextmanager
def undisturbed(model: Module) -> Iterator[None]:
    """Random numbers and buffers stay what they are, and compiled regions run as they are written."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), _kept_buffers(model), ExitStack() as undo:
        # dynamo, slow to import, is there if anything is compiled.
        if "torch._dynamo" in sys.modules:
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _kept_buffers(model: Module) -> Iterator[None]:
    """Buffers that a run writes to, such as the statistics of a norm in training, are written back."""
    import torch

    before = [
        (module._buffers, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for holder, name, buffer, content in before:
            holder[name] = buffer
            if not torch.equal(buffer, content):
                with torch.no_grad(), torch.inference_mode(buffer.is_inference()):
                    buffer.copy_(content)
