"""Hand-written attention as a program computes it: scores, masks, a softmax, and the sum of values.

A trail remembers of a tensor how it came about. It starts where two batched matrices are multiplied, goes
through whatever is done with the scores, and ends where what a softmax made of them is multiplied with the
values: only then it was attention. What was done with the scores is not understood but replayed (replay.py).
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from maskcli.tracing.calls import Call, Torch, quietly
from maskcli.tracing.ended import EXPONENTIALS, LOGARITHMS, SCORES, WEIGHTS, End, Trail, call_of
from maskcli.tracing.letters import Letters, letters_of
from maskcli.tracing.parts import Stack, seen_in
from maskcli.tracing.replay import MAX_STEPS, Node, Slot, exchanged, flat

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
_NORMALISED = frozenset(
    "div div_ __truediv__ __itruediv__ divide divide_ true_divide true_divide_ mul".split()
)
# What makes something else of scores, and what must not be replayed.
_ENDS = frozenset(
    "layer_norm rms_norm group_norm batch_norm instance_norm native_layer_norm embedding topk sort argmax "
    "bernoulli multinomial addmm scaled_dot_product_attention register_hook backward".split()
)
# Functions at which trails begin or end, whatever is known by then.
BEGINNINGS = tuple(sorted(_PRODUCTS | _SOFTMAX))


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
            done, call = self._product(name, args, kwargs, result)
            if done:
                return call
        met = [(value, self.of(value)) for value in _values(args, kwargs) if id(value) in self._known]
        known = [(value, trail) for value, trail in met if trail is not None]
        step = _Step(func, name, args, kwargs)
        if name in _SOFTMAX and known:
            self._become_weights(result, known[0][1])
        elif name in _SOFTMAX:
            self._wait(result)
        elif known and name not in _ENDS:
            self._goes_on(step, result, known)
        return None

    # Products.

    def _product(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Torch
    ) -> tuple[bool, Call | None]:
        """Scores begin here, or a sum of values ends the trail of weights; False: neither."""
        values = list(flat((args, kwargs)))
        letters = letters_of(values) if name == "einsum" else None
        if name == "einsum" and letters is None:
            return False, None
        left, right = values[1:3] if name in ("einsum", "baddbmm") else values[:2]
        for weights, other, of in ((left, right, letters), (right, left, letters and letters.turned())):
            trail = self.of(weights)
            if trail is not None and trail.stage in (WEIGHTS, EXPONENTIALS):
                call = self._end(trail, End(weights, other, result, of, weights is right))
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

    def _end(self, trail: Trail, end: End) -> Call | None:
        order = end.order()
        if order is None:
            return None
        seen_in(self.stack)
        self.open.pop(trail.mark, None)
        return call_of(trail, end, order)

    # Softmax.

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
        weights = [pair for pair in known if pair[1].stage == WEIGHTS]
        alike = [pair for pair in weights or known if pair[0].shape == results[0].shape]
        tensor, trail = (alike or weights or known)[0]
        if trail.stage == WEIGHTS:
            self._weights_go_on(step, results, tensor, trail)
            return
        stage = _stage(step, trail.stage, len(known))
        if stage == WEIGHTS:
            self._become_weights(results[0], trail)
            return
        moves = step.name in _MOVED
        for part, each in enumerate(results):
            replays = moves or stage == SCORES
            node = self._node(step, result, part, trail) if replays else trail.node
            self.set(each, dataclasses.replace(trail, node=node, stage=stage, moved=trail.moved or moves))

    def _become_weights(self, result: Torch, trail: Trail) -> None:
        """A softmax, whether whole or by hand; one of weights is one more of the same."""
        mark = trail.mark or self._wait(result)
        for stack in (self.stack, *(trail.node.stacks() if trail.node is not None else ())):
            seen_in(stack)
        twice = trail.stage == WEIGHTS
        made = {"stage": WEIGHTS, "weights": result.detach(), "mark": mark, "twice": twice}
        now = dataclasses.replace(trail, **made)
        self.set(result, now)

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


def _stage(step: _Step, stage: str, operands: int) -> str:
    """What scores become by a step that is no softmax, of so many operands that came about with it."""
    exponent = step.name in ("exp", "exp_")
    if step.name in _LOG_SOFTMAX:
        return LOGARITHMS
    if exponent:
        return {SCORES: EXPONENTIALS, LOGARITHMS: WEIGHTS}.get(stage, stage)
    normal = stage == EXPONENTIALS and step.name in _NORMALISED and operands > 1
    return WEIGHTS if normal else stage


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
