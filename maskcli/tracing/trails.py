"""Hand-written attention as a program computes it: scores, masks, a softmax, and the sum of values.

A trail remembers of a tensor how it came about. It starts where two batched matrices are multiplied, goes
through whatever is done with the scores, and ends where what a softmax made of them is multiplied with the
values: only then it was attention. What was done with the scores is not understood but replayed (replay.py).
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from maskcli.tracing.calls import Call, Torch, four_axes, quietly
from maskcli.tracing.letters import Letters, arranged, letters_of
from maskcli.tracing.parts import Stack, seen_in
from maskcli.tracing.replay import MAX_STEPS, Node, Slot, exchanged, flat, replayed

# What leaves the values of a tensor as they are, and what moves them to other places.
_KEPT = frozenset(
    "to float half bfloat16 double type type_as contiguous clone detach view view_as reshape reshape_as "
    "unflatten flatten squeeze unsqueeze expand expand_as".split()
)
_MOVED = frozenset(
    "transpose permute movedim moveaxis swapaxes swapdims t mT mH T H adjoint __getitem__ split chunk "
    "tensor_split split_with_sizes unbind narrow select index_select cat concat concatenate stack".split()
)
_DROPOUT = frozenset("dropout dropout_ alpha_dropout feature_dropout native_dropout".split())
_PRODUCTS = frozenset("matmul __matmul__ bmm baddbmm einsum".split())
_SOFTMAX = frozenset("softmax _softmax special_softmax _safe_softmax".split())
_LOG_SOFTMAX = frozenset("log_softmax _log_softmax special_log_softmax".split())
_NORMALISED = frozenset("div div_ __truediv__ __itruediv__ divide divide_ true_divide true_divide_ mul".split())
# What makes something else of scores, and what must not be replayed.
_ENDS = frozenset(
    "layer_norm rms_norm group_norm batch_norm instance_norm native_layer_norm embedding topk sort argmax "
    "bernoulli multinomial addmm scaled_dot_product_attention register_hook backward".split()
)
# Functions at which trails begin or end, whatever is known by then.
BEGINNINGS = tuple(sorted(_PRODUCTS | _SOFTMAX))
SCORES, LOGARITHMS, EXPONENTIALS, WEIGHTS = "scores", "logarithms", "exponentials", "weights"


@dataclass(frozen=True, eq=False)
class Trail:
    """How a tensor came about: query [.., Q, D], key [.., D, K], what was done to the scores, their softmax.

    `stage` says what the tensor is by now, `node` how to come by its mask, None that nobody knows. `letters`
    are those of an einsum that made the scores; `moved` says that axes are others than there; `mark` is the
    number of its softmax among those that wait for values.
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


class _Step(NamedTuple):
    """A function that was called."""

    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def changes(self, result: Any) -> bool:
        """Whether it changed its first argument."""
        if self.name in ("__setitem__", "index_put_", "copy_"):
            return True
        written = self.name.endswith("_") or self.name.startswith("__i")
        return written and bool(self.args) and result is self.args[0]


class Trails:
    """The trails of a program's tensors; each ends with its tensor. `stack` are the modules at work.

    `open` are the softmaxes that could be attention, by number, with their module and the last two axes of
    their result, until their values are met.
    """

    def __init__(self, stack: Stack, where: Callable[[], str]) -> None:
        self._known: dict[int, tuple[weakref.ref[Torch], Trail]] = {}
        self._marks, self._where = 0, where
        self.stack = stack
        self.open: dict[int, tuple[str, tuple[int, ...]]] = {}

    def of(self, tensor: object) -> Trail | None:
        """The trail of a tensor."""
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def set(self, tensor: Torch, trail: Trail) -> None:
        """Remember a trail for as long as its tensor lives."""
        at, known = id(tensor), self._known

        def forget(gone: weakref.ref[Torch]) -> None:
            if at in known and known[at][0] is gone:
                del known[at]

        known[at] = (weakref.ref(tensor, forget), trail)

    def __bool__(self) -> bool:
        return bool(self._known)

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Call | None:
        """A function has returned: what it made of trails, and the attention that ends with it."""
        name = name_of(func)
        if name in _PRODUCTS:
            met, call = self._product(name, args, kwargs, result)
            if met:
                return call
        met = [(value, self.of(value)) for value in _values(args, kwargs) if id(value) in self._known]
        known = [(value, trail) for value, trail in met if trail is not None]
        step = _Step(func, name, args, kwargs)
        if name in _SOFTMAX:
            self._softmax(step, result, known)
        elif known and name not in _ENDS:
            self._goes_on(step, result, known)
        return None

    # Products.

    def _product(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Torch
    ) -> tuple[bool, Call | None]:
        """Scores begin here, or a sum of values ends the trail of weights; False: neither."""
        values = list(flat((args, kwargs)))
        letters = None
        if name == "einsum":
            letters = letters_of(values[0], *values[1:]) if len(values) == 3 else None
            if letters is None:
                return False, None
        left, right = values[1:3] if name in ("einsum", "baddbmm") else values[:2]
        for weights, other, of in ((left, right, letters), (right, left, letters and letters.turned())):
            trail = self.of(weights)
            if trail is not None and trail.stage in (WEIGHTS, EXPONENTIALS):
                call = self._end(trail, _End(weights, other, result, of, weights is right))
                return call is not None, call
        if min(left.ndim, right.ndim) <= 2 < max(left.ndim, right.ndim):
            # Heads that are mixed, or a linear layer.
            return False, None
        if not _are_tokens(left, right) or (letters is not None and not _are_scores(letters, result)):
            return False, None
        node = Node(self.stack, (tuple(result.shape), result.dtype, result.device))
        beta = kwargs.get("beta", 1)
        if name == "baddbmm" and beta:
            node = Node(self.stack, None, _plus, (Slot(node), values[0].detach(), beta), steps=1)
        self.set(result, Trail(left, right, node, letters))
        return True, None

    def _end(self, trail: Trail, end: _End) -> Call | None:
        order = end.order()
        if order is None:
            return None
        seen_in(self.stack)
        for stack in trail.node.stacks() if trail.node is not None else ():
            seen_in(stack)
        self.open.pop(trail.mark, None)
        return _call(trail, end, order)

    # Softmax.

    def _softmax(self, step: _Step, result: Torch, known: list[tuple[Torch, Trail]]) -> None:
        """Scores become weights; so do weights."""
        trail = known[0][1] if known else None
        mark = trail.mark if trail is not None else 0
        if not mark:
            mark = self._wait(result)
        if trail is None:
            return
        seen_in(self.stack)
        if trail.node is not None:
            for stack in trail.node.stacks():
                seen_in(stack)
        again = {"stage": WEIGHTS, "weights": result.detach(), "mark": mark}
        self.set(result, dataclasses.replace(trail, **again))

    def _wait(self, result: Torch) -> int:
        """A softmax that looks like one of attention waits for its values."""
        shape = tuple(result.shape[-2:])
        if result.ndim < 3 or min(shape) < 2:
            return 0
        if shape[0] != shape[1] and not any(part.itself for part in self.stack):
            return 0
        self._marks += 1
        self.open[self._marks] = (self._where(), shape)
        return self._marks

    # All that is done in between.

    def _goes_on(self, step: _Step, result: Any, known: list[tuple[Torch, Trail]]) -> None:
        results = _tensors(step, result)
        if not results:
            return
        shape = results[0].shape
        weights = [pair for pair in known if pair[1].stage == WEIGHTS]
        alike = [pair for pair in weights or known if pair[0].shape == shape]
        tensor, trail = (alike or weights or known)[0]
        if trail.stage == WEIGHTS:
            self._weights_go_on(step, results, tensor, trail)
            return
        normal = trail.stage == EXPONENTIALS and step.name in _NORMALISED and len(known) > 1
        becomes = normal or (trail.stage == LOGARITHMS and step.name in ("exp", "exp_"))
        if becomes:
            seen_in(self.stack)
            mark = self._wait(results[0])
            now = {"stage": WEIGHTS, "weights": results[0].detach(), "mark": mark}
            self.set(results[0], dataclasses.replace(trail, **now))
            return
        stage = trail.stage
        if step.name in _LOG_SOFTMAX:
            stage = LOGARITHMS
        elif step.name in ("exp", "exp_") and stage == SCORES:
            stage = EXPONENTIALS
        moved = trail.moved or step.name in _MOVED
        replays = stage == SCORES or step.name in _MOVED
        for part, each in enumerate(results):
            node = self._node(step, result, part, trail) if replays else trail.node
            self.set(each, dataclasses.replace(trail, node=node, stage=stage, moved=moved))

    def _weights_go_on(self, step: _Step, results: list[Torch], tensor: Torch, trail: Trail) -> None:
        """What follows a softmax: weights that were changed are the ones that count."""
        if step.name in _DROPOUT:
            # The weights before it are the ones to look at.
            dropped = trail.dropped or results[0] is not tensor
            self.set(results[0], dataclasses.replace(trail, dropped=dropped and _drops(step)))
        elif step.name in _KEPT:
            if results[0] is not tensor:
                self.set(results[0], trail)
        elif step.name in _MOVED:
            self._weights_move(step, results, tensor, trail)
        elif results[0].shape == tensor.shape:
            weights = trail.weights if trail.dropped else results[0].detach()
            self.set(results[0], dataclasses.replace(trail, weights=weights))

    def _weights_move(self, step: _Step, results: list[Torch], tensor: Torch, trail: Trail) -> None:
        weights: list[Torch] = [each.detach() for each in results]
        if trail.dropped and trail.weights.shape == tensor.shape:
            with quietly():
                before = exchanged(step.args, lambda value: trail.weights if value is tensor else value)
                made = step.func(*before, **step.kwargs)
                weights = list(made) if isinstance(made, tuple | list) else [made]
        several = len(results) > 1
        for part, each in enumerate(results):
            node = self._node(step, results if several else each, part, trail)
            self.set(each, dataclasses.replace(trail, weights=weights[part], node=node, moved=True))

    def _node(self, step: _Step, result: Any, part: int, trail: Trail) -> Node | None:
        """How the mask goes on; None where it is known no more."""
        if trail.node is None or trail.node.steps >= MAX_STEPS:
            return None
        if step.name in _DROPOUT:
            return trail.node
        lost = False

        def kept(value: Any) -> Any:
            nonlocal lost
            known = self.of(value)
            if known is not None:
                lost |= known.node is None
                return Slot(known.node) if known.node is not None else None
            return value.detach() if hasattr(value, "detach") else value

        args, kwargs = exchanged(step.args, kept), exchanged(step.kwargs, kept)
        if lost:
            return None
        changes = step.changes(result)
        chosen = part if isinstance(result, tuple | list) else None
        steps = trail.node.steps + 1
        return Node(self.stack, None, step.func, args, kwargs, chosen, changes, steps)


class _End(NamedTuple):
    """Where weights met their values: both as they were multiplied, what came of it, the letters of an einsum.

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


def _call(trail: Trail, end: _End, order: list[int]) -> Call:
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
    return Call("softmax", weights, operands, masks, graph, unlike)


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


def _operands(trail: Trail, end: _End, order: list[int], shape: tuple[int, ...]) -> dict[str, Torch]:
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


def _of_letters(end: _End, order: list[int]) -> dict[str, Torch]:
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


def name_of(func: Any) -> str:
    """What a function of torch is called; a property is called as it is."""
    name: str = getattr(func, "__name__", "")
    if name == "__get__":
        return str(getattr(func.__self__, "__name__", name))
    return name.partition(".")[0]


def _plus(scores: Torch, bias: Torch, beta: float) -> Torch:
    """What baddbmm adds to a product."""
    import torch

    return torch.add(scores, bias, alpha=beta)


def _drops(step: _Step) -> bool:
    """Whether dropout is at work: torch takes the share and whether it trains."""
    values = [*step.args[1:], *step.kwargs.values()]
    return all(bool(value) for value in values[:2])


def _values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """All arguments, and what stands in lists of them."""
    for value in (*args, *kwargs.values()):
        if type(value) in (list, tuple):
            yield from value
        else:
            yield value


def _tensors(step: _Step, result: Any) -> list[Torch]:
    """The results that are numbers such as scores; what was written into, where nothing is returned."""
    import torch

    if result is None:
        result = step.args[0] if step.name == "__setitem__" else ()
    several = result if isinstance(result, tuple | list) else (result,)
    if not all(isinstance(each, torch.Tensor) for each in several):
        several = [each for each in several[:1] if isinstance(each, torch.Tensor)]
    return [each for each in several if each.is_floating_point() and each.ndim > 1]


def _are_scores(letters: Letters, result: Torch) -> bool:
    """Whether an einsum may make scores of two tensors of tokens."""
    return 3 <= result.ndim <= 5 and len(letters.first) == len(letters.second)


def _are_tokens(left: Torch, right: Torch) -> bool:
    """Whether both operands may be tokens of a batch: neither is a parameter, as in a linear layer."""
    if left.ndim < 2 or right.ndim < 2 or not left.is_floating_point():
        return False
    return left.ndim > 2 or not any(map(_is_parameter, (left, right)))


def _is_parameter(tensor: Torch) -> bool:
    base = tensor._base if tensor._base is not None else tensor
    return bool(base.is_leaf and base.requires_grad)
