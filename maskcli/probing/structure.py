"""The structure of a model: which of its modules mix positions, found in one short text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.probing.activations import states_of
from maskcli.probing.calls import Call, record
from maskcli.probing.mixers import find_mixers
from maskcli.probing.plan import Plan
from maskcli.probing.runs import Run, given, padded
from maskcli.probing.subject import Subject

# Structure does not depend on length: what mixes is found in short texts.
SHORT = 24
# The runs beside those that look for mixers: two that must agree, and the recorded one.
OTHER_RUNS = 3


class Structure(NamedTuple):
    """Which modules mix positions, by their paths; of how many calls, and after how many runs.

    `fast` are those that take another way when nothing watches what is inside of them.
    """

    paths: tuple[str, ...]
    calls: int
    forwards: int
    fast: frozenset[str] = frozenset()

    def inside(self, path: str) -> tuple[str, ...]:
        """The mixing modules within one."""
        return tuple(each for each in self.paths if is_inside(each, path))


def is_inside(path: str, other: str) -> bool:
    """Whether a module is within another one."""
    return path != other and (not other or path.startswith(f"{other}."))


def structure_of(subject: Subject, plan: Plan) -> Structure:
    """Find the mixers; MaskcliError when the model does not answer alike twice, or answers no states."""
    short = min(plan.length, SHORT)
    run = given(subject) if subject.given is not None else padded(subject, plan, "none", short)
    plain = check_determinism(subject, run)
    calls, answer = record(partial(run.answer, subject), subject.model, run.rows)
    if not states_of(answer, run.rows):
        raise MaskcliError(
            f"{subject.name!r} answers no hidden states or logits [B, S, D], so nothing can be compared"
        )
    moved = [_moved_run(subject, run, cells) for cells in _cells(run)]
    mixers, forwards = find_mixers(subject.model, calls, moved, run.rows)
    paths = tuple(dict.fromkeys(call.path for call in mixers))
    fast: frozenset[str] = frozenset()
    if not _equal(plain, states_of(answer, run.rows)):
        fast = frozenset(_otherwise_unwatched(calls, paths, run.rows))
    both = tuple(dict.fromkeys(call.path for call in calls if call.path in fast or call.path in paths))
    return Structure(both, len(calls), forwards + OTHER_RUNS, fast)


def _otherwise_unwatched(calls: Iterable[Call], mixing: tuple[str, ...], rows: int) -> list[str]:
    """The deepest modules around mixing ones that answer otherwise when nothing inside is watched.

    torch's own encoder layers take a fused way then, past their attention module.
    """
    around = [call for call in calls if any(is_inside(path, call.path) for path in mixing)]
    apart = [call.path for call in around if not _equal(call.replay({}, rows), states_of(call.result, rows))]
    return [path for path in apart if not any(is_inside(other, path) for other in apart)]


def check_determinism(subject: Subject, run: Run) -> list[Any]:
    """What the model answers; MaskcliError unless it answers the same bits twice, in the mode that it is
    in.
    """
    once, again = (states_of(run.answer(subject), run.rows) for _ in range(2))
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


def _cells(run: Run) -> list[tuple[str, Array]]:
    """Places to move, by argument: one of each row, in three ways; then all of row 0."""
    patterns = []
    for name in run.content:
        length = run.length(name)
        places = (length // 2, min(1, length - 1), max(length - 2, 0))
        for turn in range(len(places)):
            cells = np.zeros((run.rows, length), bool)
            for row in range(run.rows):
                cells[row, places[(row + turn) % len(places)]] = True
            patterns.append((name, cells))
        whole = np.zeros((run.rows, length), bool)
        whole[0] = True
        if run.rows > 1:
            patterns.append((name, whole))
    return patterns


def _moved_run(subject: Subject, run: Run, where: tuple[str, Array]) -> Callable[[], Any]:
    name, cells = where
    return partial(run.answer, subject, run.moved(subject, cells, name))
