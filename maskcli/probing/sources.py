"""Sources: the arguments of a call that carry content, and how they are moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from maskcli.probing.activations import Batch, by_rows
from maskcli.probing.calls import Call, cells_of, in_place, moved_states, record
from maskcli.probing.columns import generator_for
from maskcli.probing.runs import Run
from maskcli.probing.subject import Subject, other_ids

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Source:
    """An argument of a call that carries content.

    `cells` is what it holds at each place: states [B, S, D] or ids [B, S]. `comes_from` names the arguments
    of the model that change it. `move` gives the leaves to replay with, for cells [B, S] and a size.
    """

    cells: Tensor
    comes_from: frozenset[str]
    move: Callable[[Tensor, float], dict[int, Any]]

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

    def calls_of(changed: dict[str, Any] | None, keep: bool) -> list[Call]:
        answer = partial(run.answer, subject, changed)
        return record(answer, subject.model, run.batch, paths, results=keep)[0]

    calls = calls_of(None, True)
    changing = {name: calls_of(run.everywhere(subject, name), False) for name in run.content}
    return [(call, list(_sources(subject, call, changing, run.batch, seed))) for call in calls]


def _sources(
    subject: Subject, call: Call, changing: dict[str, list[Call]], batch: Batch, seed: int
) -> list[Source]:
    """The sources of a call, one for each distinct tensor."""
    found: list[Source] = []
    done: set[int] = set()
    for at, leaf in enumerate(call.leaves):
        cells = cells_of(leaf, batch)
        if cells is None or at in done:
            continue
        names = frozenset(name for name, calls in changing.items() if _changes(call, at, calls))
        if names:
            twins = call.twins(at)
            done.update(twins)
            move = partial(_moved, subject, leaf, batch, seed, tuple(twins))
            found.append(Source(cells, names, move))
    return found


def _changes(call: Call, at: int, others: list[Call]) -> bool:
    """Whether a leaf differs in the same call of another run."""
    import torch

    same = [other for other in others if other.key == call.key and len(other.leaves) == len(call.leaves)]
    return any(not torch.equal(other.leaves[at], call.leaves[at]) for other in same)


def _moved(
    subject: Subject, leaf: Tensor, batch: Batch, seed: int, twins: Sequence[int], cells: Tensor, size: float
) -> dict[int, Any]:
    """The leaves that hold the same as one, all with other content in some cells [B, S]."""
    if leaf.is_floating_point():
        new = moved_states(by_rows(leaf, batch), cells, size, generator_for(seed))
        return dict.fromkeys(twins, in_place(leaf, new, batch))
    by_row = leaf.shape[0] == batch.rows
    ids = other_ids(subject, leaf if by_row else leaf.T, cells)
    return dict.fromkeys(twins, ids if by_row else ids.T)
