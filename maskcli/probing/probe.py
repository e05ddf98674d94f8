"""The whole probe: find what mixes positions, measure whom it sees in every run, compare whole runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Behaviour, Compared, Seen
from maskcli.errors import MaskcliError
from maskcli.probing.activations import states_of
from maskcli.probing.calls import record
from maskcli.probing.equivalence import exact, tolerant
from maskcli.probing.layers import Progress, seen_in
from maskcli.probing.mixers import find_mixers
from maskcli.probing.plan import Plan
from maskcli.probing.reach import reach_of
from maskcli.probing.runs import Run, UnmeasuredError, decoding, given, packed, padded
from maskcli.probing.subject import Subject

# Structure does not depend on length: what mixes is found in short texts.
SHORT = 24
# The runs beside those that look for mixers: two that must agree, and the recorded one.
OTHER_RUNS = 3


def measure(subject: Subject, plan: Plan, told: Progress = lambda _: None) -> Behaviour:
    """Probe a model as a plan says; `told` hears which module is at work.

    MaskcliError when the model does not answer alike twice, so that nothing can be decided.
    """
    with _undisturbed():
        return _measure(subject, plan, told)


def _measure(subject: Subject, plan: Plan, told: Progress) -> Behaviour:
    short = min(plan.length, SHORT)
    first = given(subject) if subject.given is not None else padded(subject, plan, "none", short)
    check_determinism(subject, first)
    calls, answer = record(partial(first.answer, subject), subject.model, first.rows)
    if not states_of(answer, first.rows):
        raise MaskcliError(
            f"{subject.name!r} answers no hidden states or logits [B, S, D], so nothing can be compared"
        )
    runs = [_moved_run(subject, first, cells) for cells in _cells(first)]
    mixers, forwards = find_mixers(subject.model, calls, runs, first.rows)
    paths = list(dict.fromkeys(call.path for call in mixers))

    seen: list[Seen] = []
    compared: list[Compared] = []
    unmeasured: list[str] = []
    reach = None
    for make in _settings(subject, plan):
        try:
            run = make()
        except UnmeasuredError as reason:
            unmeasured.append(str(reason))
            continue
        seen += seen_in(subject, plan, run, paths, told)
        if run.past:
            continue
        reach = reach or reach_of(subject, plan, run, seen)
        if "batch" in plan.parts:
            compared += exact(subject, plan, run)
    if "equivalence" in plan.parts and subject.given is None:
        more, missing = tolerant(subject, plan)
        compared += more
        unmeasured += missing
    return Behaviour(
        model=type(subject.model).__name__,
        calls=len(calls),
        mixing=tuple(paths),
        seen=tuple(seen),
        compared=tuple(compared),
        reach=reach,
        forwards=forwards + OTHER_RUNS,
        unmeasured=tuple(dict.fromkeys(unmeasured)),
    )


def check_determinism(subject: Subject, run: Run) -> None:
    """MaskcliError unless the same input gives the same bits twice, in the mode that the model is in."""
    import torch

    once, again = (states_of(run.answer(subject), run.rows) for _ in range(2))
    same = all(torch.equal(a, b) or _alike(a, b) for a, b in zip(once, again, strict=True))
    if same:
        return
    training = [name for name, module in subject.model.named_modules() if _drops(module)]
    reason = f"dropout is on in {training[0]!r}" if training else "sampling or atomic additions do that"
    raise MaskcliError(
        f"{subject.name!r} answers the same input differently the second time ({reason}), so nothing can be "
        "decided; call eval() on the model if that was forgotten, or pass --eval"
    )


def _alike(a: Any, b: Any) -> bool:
    """Equal but for NaN, which equals nothing."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


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


def _settings(subject: Subject, plan: Plan) -> Iterator[Callable[[], Run]]:
    """The runs in which masks are measured."""
    if subject.given is not None:
        yield partial(given, subject)
        return
    if "masks" in plan.parts:
        for side in plan.pads:
            yield partial(padded, subject, plan, side)
        if plan.documents:
            yield partial(packed, subject, plan)
    if "cache" in plan.parts:
        for cached in plan.caches:
            for queries in (1, 4):
                yield partial(decoding, subject, plan, cached, queries)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The program's random numbers stay what they are."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield
