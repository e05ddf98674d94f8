"""Where the trail of hand-written attention ends: its weights, mask and operands, axes in the usual order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from maskcli.tracing.calls import BY_HAND, Call, Torch, quietly
from maskcli.tracing.letters import Letters, arranged
from maskcli.tracing.replay import Node, replayed

SCORES, LOGARITHMS, EXPONENTIALS, WEIGHTS = "scores", "logarithms", "exponentials", "weights"


@dataclass(frozen=True, eq=False)
class Trail:
    """How a tensor came about: query [.., Q, D], key [.., D, K], what was done to the scores, their softmax.

    `stage` says what the tensor is by now, `node` how to come by its mask, None that nobody knows. `letters`
    are those of an einsum that made the scores; `moved` says that axes are others than there; `mark` is the
    number of its softmax among those that wait for values, `twice` says that there was one of another.
    """

    query: Torch
    key: Torch
    node: Node | None
    letters: Letters | None
    stage: str = SCORES
    weights: Torch = None
    dropped: bool = False
    moved: bool = False
    mark: int = 0
    twice: bool = False


class End(NamedTuple):
    """Where weights met their values: both as they were multiplied, what came of it, and an einsum's letters.

    `turned` says that the weights stood behind the values, [.., K, Q].
    """

    weights: Torch
    value: Torch
    output: Torch
    letters: Letters | None
    turned: bool

    def order(self) -> list[int] | None:
        """How the axes of the weights are to stand, [.., Q, K]; -1 for an axis that they lack.

        None where nothing was summed over keys: heads that were mixed.
        """
        axes = list(range(self.weights.ndim))
        if self.letters is None:
            return axes if not self.turned else [*axes[:-2], axes[-1], axes[-2]]
        end = self.letters.end()
        if end is None or self.weights.ndim != len(self.letters.first) or self.value.ndim < 2:
            return None
        queries, keys = end
        rest = [one for one in self.letters.first if one not in (queries, keys)]
        wanted = [*rest, queries, keys]
        return [self.letters.first.index(one) if one else -1 for one in wanted]


def call_of(trail: Trail, end: End, order: list[int]) -> Call:
    """The attention that ended, with the axes of its weights in this order."""
    weights = trail.weights
    with quietly():
        if trail.stage == EXPONENTIALS:
            weights = end.weights.detach()
            weights = weights / weights.sum(order[-1], keepdim=True)
        straight = order == list(range(len(order)))
        if not straight:
            weights = weights if weights.ndim == end.weights.ndim else end.weights.detach()
            weights = _ordered(weights, order)
        operands = _operands(trail, end, order, weights.shape)
    graph = {"query": trail.query, "key": trail.key, "value": end.value, "output": end.output}
    masks = _masks(trail.node, None if straight else order)
    unlike = trail.dropped or trail.stage == EXPONENTIALS
    return Call(BY_HAND, weights, operands, masks, graph, unlike, twice=trail.twice)


def _masks(node: Node | None, order: list[int] | None) -> Callable[[], dict[str, Any]]:
    """What makes the mask; it must not hold on to the weights."""

    def masks() -> dict[str, Any]:
        if node is None or node.func is None:
            return {}
        with quietly():
            mask = replayed(node)
            mask = mask if order is None else _ordered(mask, order)
            return {"attn_mask": mask} if bool((mask != 0).any()) else {}

    return masks


def _operands(trail: Trail, end: End, order: list[int], shape: tuple[int, ...]) -> dict[str, Torch]:
    """Query, key, value and output [.., L, D] as far as their axes are known."""
    if end.letters is not None:
        shown = _of_letters(end, order)
    elif end.turned:
        shown = {"value": end.value.mT, "output": end.output.mT}
    else:
        shown = {"value": end.value, "output": end.output}
    if not trail.moved:
        query, key = _scored(trail, order)
        if query is not None and query.shape[:-1] == shape[:-1]:
            shown = {"query": query, "key": key, **shown}
    return {name: tensor.detach() for name, tensor in shown.items()}


def _of_letters(end: End, order: list[int]) -> dict[str, Torch]:
    """Value and output of an einsum, their axes as those of the weights; features come last."""
    letters = end.letters
    assert letters is not None
    names = [letters.first[at] if at >= 0 else "" for at in order]
    features = [one for one in letters.second if one in letters.result and one not in letters.first]
    if len(features) != 1 or any(one and one not in letters.result for one in names[:-1]):
        return {"output": end.output}
    output = arranged(end.output, letters.result, "".join([*names[:-1], *features]))
    if not names[-2]:
        output = output.unsqueeze(-2)
    value = arranged(end.value, letters.second, "".join([*names[:-2], names[-1], *features]))
    return {"value": value, "output": output}


def _scored(trail: Trail, order: list[int]) -> tuple[Torch | None, Torch | None]:
    """Query [.., Q, D] and key [.., K, D] of the scores, whose axes stand in this order."""
    letters, axes = trail.letters, len(order)
    if letters is None:
        if order == list(range(axes)):
            return trail.query, trail.key.mT
        turned = order == [*range(axes - 2), axes - 1, axes - 2]
        return (trail.key.mT, trail.query) if turned else (None, None)
    features = [one for one in letters.first if one in letters.second and one not in letters.result]
    if len(features) != 1 or min(order) < 0 or axes != len(letters.result):
        return None, None
    *rest, queries, keys = (letters.result[at] for at in order)
    sides = ((trail.query, letters.first), (trail.key, letters.second))
    of_query, of_key = sides if queries in letters.first else sides[::-1]
    leading = "".join(rest)
    return (
        arranged(*of_query, leading + queries + features[0]),
        arranged(*of_key, leading + keys + features[0]),
    )


def _ordered(tensor: Torch, order: list[int]) -> Torch:
    """A tensor with its axes in this order; -1 is an axis of one element."""
    there = tensor.permute([at for at in order if at >= 0])
    for at, axis in enumerate(order):
        if axis < 0:
            there = there.unsqueeze(at)
    return there
