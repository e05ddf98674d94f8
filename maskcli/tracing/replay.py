"""What a program did to the scores of attention, replayed on zeros: what comes out is its mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from maskcli.tracing.calls import Torch
from maskcli.tracing.parts import Stack

# Steps that are followed at most: what takes more of them is no attention.
MAX_STEPS = 48
# What views become where zeros lie otherwise in memory than the scores did.
_VIEWS = ("view", "view_as", "__rview__")


@dataclass(frozen=True, eq=False)
class Slot:
    """An operand that came about as well: the node that it comes from."""

    node: Node


@dataclass(frozen=True, eq=False)
class Node:
    """A tensor of scores: the function and arguments that made it, or, without one, scores themselves.

    `scores` are their shape, type and device, `stack` the modules at work. `part` chooses one of several
    results; `in_place` says that the first argument was changed.
    """

    stack: Stack
    scores: tuple[Any, Any, Any] | None = None
    func: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None
    part: int | None = None
    in_place: bool = False
    steps: int = 0

    def before(self) -> Iterator[Node]:
        """The nodes that this one was made of."""
        for value in flat((self.args, self.kwargs or {})):
            if isinstance(value, Slot):
                yield value.node

    def stacks(self) -> set[Stack]:
        """The modules at work when this came about."""
        found, waiting, met = set(), [self], set()
        while waiting:
            node = waiting.pop()
            if id(node) not in met:
                met.add(id(node))
                found.add(node.stack)
                waiting.extend(node.before())
        return found


def flat(value: Any) -> Iterator[Any]:
    """All values in tuples, lists and dicts."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from flat(each)
    elif isinstance(value, dict):
        yield from flat(list(value.values()))
    else:
        yield value


def exchanged(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same tuples, lists and dicts of changed values."""
    if type(value) in (tuple, list):
        return type(value)(exchanged(each, change) for each in value)
    if type(value) is dict:
        return {name: exchanged(each, change) for name, each in value.items()}
    return change(value)


def replayed(node: Node) -> Torch:
    """What the steps make of scores that are zero everywhere. Must run apart from the program's modes."""
    done: dict[int, Torch] = {}
    order: list[Node] = [node]
    while order:
        now = order[-1]
        missing = [each for each in now.before() if id(each) not in done]
        if id(now) in done or not missing:
            done.setdefault(id(now), None)
            if done[id(now)] is None:
                done[id(now)] = _made(now, done)
            order.pop()
        else:
            order.extend(missing)
    return done[id(node)]


def _made(node: Node, done: dict[int, Torch]) -> Torch:
    import torch

    if node.func is None:
        assert node.scores is not None
        shape, dtype, device = node.scores
        return torch.zeros((), dtype=dtype, device=device).expand(shape)

    def value(each: Any) -> Any:
        return done[id(each.node)] if isinstance(each, Slot) else each

    args, kwargs = exchanged(node.args, value), exchanged(node.kwargs or {}, value)
    if node.in_place:
        args = (args[0].clone(), *args[1:])
    func = node.func
    if getattr(func, "__name__", "") in _VIEWS:
        args = (args[0].contiguous(), *args[1:])
    out = func(*args, **kwargs)
    made = args[0] if node.in_place else out
    made = made if node.part is None else made[node.part]
    return _no_new_infinity(made, (args, kwargs))


def _no_new_infinity(made: Torch, given: Any) -> Torch:
    """Two finite fills may be more than the type holds; that is no infinity of the program's making."""
    import torch

    if not made.is_floating_point() or not bool(torch.isneginf(made).any()):
        return made
    infinite = any(map(_is_infinite, flat(given)))
    return made if infinite else made.clamp_min(torch.finfo(made.dtype).min)


def _is_infinite(value: Any) -> bool:
    import torch

    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and bool(torch.isneginf(value).any())
    return isinstance(value, float) and value == -math.inf
