"""The structure of a model: which of its modules mix positions, found in one short text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.probing.activations import Batch, states_of
from maskcli.probing.calls import Call, record
from maskcli.probing.mixers import find_mixers, is_inside
from maskcli.probing.plan import Plan
from maskcli.probing.runs import Run, given, padded
from maskcli.probing.subject import Subject
from maskcli.probing.whole import outputs_in, tensors_of

if TYPE_CHECKING:
    from torch.nn import Module

# Structure does not depend on length: what mixes is found in short texts.
SHORT = 24
# The runs beside those that look for mixers: two that must agree, and the recorded one.
OTHER_RUNS = 3
# Places of a row that are moved, one in each turn.
PLACES = 3


class Structure(NamedTuple):
    """Which modules mix positions, by their paths; of how many calls, and after how many runs.

    `fast` are those that take another way when nothing watches what is inside of them. `places` counts
    those of the answer, by which whole runs can be compared: one for each token, or 1 for a whole text; 0 for
    a loss alone.
    """

    paths: tuple[str, ...]
    calls: int
    forwards: int
    fast: frozenset[str] = frozenset()
    places: int = 0

    def inside(self, path: str) -> tuple[str, ...]:
        """The mixing modules within one."""
        return tuple(each for each in self.paths if is_inside(each, path))


def first_run(subject: Subject, plan: Plan) -> Run:
    """The run in which mixers are found: that of a user, or short texts without padding."""
    if subject.given is not None:
        return given(subject)
    return padded(subject, plan, "none", min(plan.length, SHORT))


def structure_of(subject: Subject, run: Run, *, fused: bool = False) -> Structure:
    """Find the mixers of a run; MaskcliError when it does not answer alike twice, or answers no tensor.

    With `fused` torch's own encoders are not looked into: given padding, they compute with nested tensors,
    which they do not once anything watches their parts.
    """
    plain = check_determinism(subject, run)
    watched = _watched(subject.model, fused)
    calls, answer = record(partial(run.answer, subject), subject.model, run.batch, watched)
    moved = _moved_runs(subject, run)
    mixers, forwards = find_mixers(subject.model, calls, moved, run.batch, watched)
    paths = tuple(dict.fromkeys(call.path for call in mixers))
    fast: frozenset[str] = frozenset()
    if not _equal(plain, tensors_of(answer)):
        fast = frozenset(_otherwise_unwatched(calls, paths, run.batch))
    both = tuple(dict.fromkeys(call.path for call in calls if call.path in fast or call.path in paths))
    outputs = outputs_in(answer, run.batch)
    places = outputs[0].shape[1] if outputs else 0
    return Structure(both, len(calls), forwards + OTHER_RUNS, fast, places)


def _watched(model: Module, fused: bool) -> list[str]:
    """The paths of the modules that may be watched."""
    from torch.nn import TransformerEncoder, TransformerEncoderLayer

    kinds = (TransformerEncoder, TransformerEncoderLayer)
    closed = [path for path, module in model.named_modules() if fused and isinstance(module, kinds)]
    paths = (path for path, _ in model.named_modules())
    return [path for path in paths if not any(is_inside(path, other) for other in closed)]


def _otherwise_unwatched(calls: Iterable[Call], mixing: tuple[str, ...], batch: Batch) -> list[str]:
    """The deepest modules around mixing ones that answer otherwise when nothing inside is watched.

    torch's own encoder layers take a fused way then, past their attention module.
    """
    around = [call for call in calls if any(is_inside(path, call.path) for path in mixing)]
    apart = [
        call.path for call in around if not _equal(call.replay({}, batch), states_of(call.result, batch))
    ]
    return [path for path in apart if not any(is_inside(other, path) for other in apart)]


def check_determinism(subject: Subject, run: Run) -> list[Any]:
    """What the model answers; MaskcliError unless it answers the same bits twice, in the mode that it is
    in.
    """
    once, again = (tensors_of(run.answer(subject)) for _ in range(2))
    if not once:
        raise MaskcliError(f"{subject.name!r} answers no tensor, so nothing can be compared")
    if _equal(once, again):
        return once
    training = [name for name, module in subject.model.named_modules() if _drops(module)]
    reason = f"dropout is on in {training[0]!r}" if training else "sampling or atomic additions do that"
    raise MaskcliError(
        f"{subject.name!r} answers the same input differently the second time ({reason}), so nothing can be "
        "decided; call eval() on the model if that was forgotten, or pass --eval"
    )


def _equal(some: list[Any], others: list[Any]) -> bool:
    """Whether states have the same bits; NaN equals NaN."""
    pairs = zip(some, others, strict=True)
    return all(bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in pairs)


def _drops(module: Any) -> bool:
    rate = getattr(module, "p", getattr(module, "dropout", 0))
    return module.training and "ropout" in type(module).__name__ and isinstance(rate, float) and rate > 0


def _moved_runs(subject: Subject, run: Run) -> list[Callable[[], Any]]:
    """The run with one place of each row moved, in three ways, and with all of row 0, in all of its
    content.
    """
    turns = range(PLACES + (run.rows > 1))
    return [partial(run.answer, subject, _moved(subject, run, turn)) for turn in turns]


def _moved(subject: Subject, run: Run, turn: int) -> dict[str, Any]:
    """The content of a run with the places of one turn moved."""
    changed: dict[str, Any] = {}
    for name in run.content:
        changed |= run.moved(subject, _cells(run.rows, run.length(name), turn), name)
    return changed


def _cells(rows: int, length: int, turn: int) -> Array:
    """Places to move, bool [B, S]: one of each row, in the middle, at the beginning or at the end; or all
    of row 0.
    """
    cells = np.zeros((rows, length), bool)
    if turn == PLACES:
        cells[0] = True
        return cells
    places = (length // 2, min(1, length - 1), max(length - 2, 0))
    for row in range(rows):
        cells[row, places[(row + turn) % PLACES]] = True
    return cells
