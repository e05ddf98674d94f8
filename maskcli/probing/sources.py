"""Sources: the arguments of a call that carry content, and how they are moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from maskcli.probing.activations import Batch, by_rows, leaves_of
from maskcli.probing.calls import Call, Key, cells_of, hooked, in_place, moved_states, other_states, record
from maskcli.probing.columns import generator_for
from maskcli.probing.runs import Run
from maskcli.probing.subject import Subject, other_ids

if TYPE_CHECKING:
    from torch import Tensor


# The leaves to replay a call with, for cells [B, S] and a size.
Move = Callable[["Tensor", float], dict[int, Any]]


@dataclass(frozen=True, eq=False)
class Source:
    """An argument of a call that carries content.

    `cells` is what it holds at each place: states [B, S, D] or ids [B, S]. `comes_from` names the arguments
    of the model that change it. `mover` draws its other content, as large as its own, and makes a move of it.
    """

    cells: Tensor
    comes_from: frozenset[str]
    mover: Callable[[], Move]

    @property
    def length(self) -> int:
        """S."""
        return int(self.cells.shape[1])

    @property
    def is_ids(self) -> bool:
        """Whether it holds ids, which have no size."""
        return self.cells.dim() == 2


def recorded(subject: Subject, run: Run, paths: Sequence[str], seed: int) -> list[tuple[Call, list[Source]]]:
    """The calls of some modules in a run, each with its sources.

    A source changes with the content of the model's arguments; masks, positions and biases do not.
    """

    calls, _ = record(partial(run.answer, subject), subject.model, run.batch, paths)
    changing = {name: _changing(subject, run, calls, paths, name) for name in run.content}
    return [(call, list(_sources(subject, call, changing, run.batch, seed))) for call in calls]


def _changing(
    subject: Subject, run: Run, calls: Sequence[Call], paths: Sequence[str], name: str
) -> set[tuple[Key, int]]:
    """Which leaves of which calls differ once an argument of the model has other content.

    They are compared as they come, so that no second copy of them is kept.
    """
    import torch

    first = {call.key: call for call in calls}
    counts: Counter[str] = Counter()
    found: set[tuple[Key, int]] = set()

    def enter(path: str) -> Callable[..., None]:
        def compare(module: Any, args: Any, kwargs: Any) -> None:
            key = path, counts[path]
            counts[path] += 1
            before, now = first.get(key), leaves_of((args, kwargs))[0]
            if before is None or len(before.leaves) != len(now):
                return
            pairs = enumerate(zip(before.leaves, now, strict=True))
            found.update((key, at) for at, (old, new) in pairs if _differs(old, new))

        return compare

    with hooked(subject.model, enter, lambda _: _nothing, paths), torch.no_grad():
        run.answer(subject, run.everywhere(subject, name))
    return found


def _differs(old: Any, new: Any) -> bool:
    import torch

    return torch.is_tensor(old) and torch.is_tensor(new) and not torch.equal(old, new)


def _nothing(*_: Any) -> None:
    """The answer of a module stays what it is."""


def _sources(
    subject: Subject, call: Call, changing: Mapping[str, set[tuple[Key, int]]], batch: Batch, seed: int
) -> Iterator[Source]:
    """The sources of a call, one for each distinct tensor."""
    done: set[int] = set()
    for at, leaf in enumerate(call.leaves):
        cells = cells_of(leaf, batch)
        if cells is None or at in done:
            continue
        names = frozenset(name for name, changed in changing.items() if (call.key, at) in changed)
        if names:
            twins = call.twins(at)
            done.update(twins)
            mover = partial(_mover, subject, leaf, batch, seed, tuple(twins))
            yield Source(cells, names, mover)


def _mover(subject: Subject, leaf: Tensor, batch: Batch, seed: int, twins: Sequence[int]) -> Move:
    """A function that gives the leaves that hold the same as one with other content in some cells [B, S]."""
    if not leaf.is_floating_point():
        return partial(_moved_ids, subject, leaf, batch, twins)
    states = by_rows(leaf, batch)
    other = other_states(states, generator_for(seed))

    def moved(cells: Tensor, size: float) -> dict[int, Any]:
        return dict.fromkeys(twins, in_place(leaf, moved_states(states, other, cells, size), batch))

    return moved


def _moved_ids(
    subject: Subject, leaf: Tensor, batch: Batch, twins: Sequence[int], cells: Tensor, size: float
) -> dict[int, Any]:
    """Leaves of ids, which have no size, with others in some cells [B, S]."""
    by_row = leaf.shape[0] == batch.rows
    ids = other_ids(subject, leaf if by_row else leaf.T, cells)
    return dict.fromkeys(twins, ids if by_row else ids.T)
