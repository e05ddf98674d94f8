"""Hand-written attention as a program computes it: scores, masks, a softmax, and the sum of values.

A trail remembers of a tensor how it came about. It starts where two batched matrices are multiplied, goes on
through what masks and scales scores, and ends where what a softmax made of them is multiplied with the
values: only then it was attention. Each function here follows some of torch's, and takes what they take,
behind their result.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from maskcli.tracing.calls import Call, Torch, four_axes

# What one operation did to the scores, as a function of the additive mask so far.
Change = Callable[[Torch], Torch]


@dataclass(frozen=True, eq=False)
class Trail:
    """How a tensor came about: query [.., Q, D], key [.., D, K], what masked the scores, their softmax."""

    query: Torch | None
    key: Torch | None
    changes: tuple[Change, ...] = ()
    weights: Torch = None
    dropped: bool = False

    def masked(self, change: Change) -> Trail:
        """The trail after a mask."""
        return dataclasses.replace(self, changes=(*self.changes, change))


class Trails:
    """The trails of a program's tensors; each ends with its tensor. `count` is how many there were."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Torch], Trail]] = {}
        self.count = 0

    def of(self, tensor: Torch) -> Trail | None:
        """The trail of a tensor."""
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def of_weights(self, tensor: Torch) -> Trail | None:
        """The trail of a tensor, where it is weights."""
        trail = self.of(tensor)
        return None if trail is None or trail.weights is None else trail

    def set(self, tensor: Torch, trail: Trail) -> None:
        """Remember a trail for as long as its tensor lives."""
        at = id(tensor)
        self.count += 1

        def forget(gone: weakref.ref[Torch]) -> None:
            if at in self._known and self._known[at][0] is gone:
                del self._known[at]

        self._known[at] = (weakref.ref(tensor, forget), trail)

    def carry(self, tensor: Torch, trail: Trail) -> None:
        """Remember the trail of a changed tensor: changed weights are the ones that count."""
        if trail.weights is not None:
            trail = dataclasses.replace(trail, weights=tensor.detach())
        self.set(tensor, trail)

    def __bool__(self) -> bool:
        return bool(self._known)


def product(trails: Trails, result: Torch, *operands: Torch, **named: Torch) -> Call | None:
    """matmul and bmm: scores begin here, and a sum of values ends the trail of the weights."""
    left, right = (*operands, *named.values())[:2]
    trail = trails.of_weights(left)
    if trail is not None and right.ndim >= 2 and right.shape[-2] == trail.weights.shape[-1]:
        return _call(trail, right, result)
    if _are_tokens(left, right):
        trails.set(result, Trail(left, right))
    return None


def biased_product(
    trails: Trails, result: Torch, input: Torch, batch1: Torch, batch2: Torch, *_: Any, **__: Any
) -> None:
    """baddbmm: scores with something added to them."""
    trails.set(result, Trail(batch1, batch2, (_plus(input.detach()),)))


def contraction(trails: Trails, result: Torch, equation: Any, *operands: Any) -> Call | None:
    """einsum of two tensors: scores when nothing is known of them, the sum of values when one is weights."""
    if isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    for operand, value in (operands, operands[::-1]):
        trail = trails.of_weights(operand)
        if trail is not None:
            bare = dataclasses.replace(trail, query=None, key=None)
            return _call(bare, None, result) if value.ndim >= 2 else None
    if 3 <= result.ndim <= 4 and {operand.ndim for operand in operands} == {result.ndim}:
        trails.set(result, Trail(None, None))
    return None


def added(trails: Trails, result: Torch, first: Any = None, second: Any = None, *_: Any, **__: Any) -> None:
    """add: a mask, a bias, or other scores."""
    trail, other = _either(trails, first, second)
    if trail is None:
        return
    if trail.weights is None and _covers_keys(other, result) and trails.of(other) is None:
        trail = trail.masked(_plus(other.detach()))
    trails.carry(result, trail)


def filled(trails: Trails, result: Torch, scores: Torch, *rest: Any, **named: Any) -> None:
    """masked_fill: a mask whose True is ignored."""
    trail = trails.of(scores)
    if trail is None:
        return
    ignored, value = (*rest, *named.values())[:2]
    if trail.weights is None and _covers_keys(ignored, result):
        trail = trail.masked(_fill(ignored.detach(), value))
    trails.carry(result, trail)


def chosen(
    trails: Trails, result: Torch, condition: Torch, first: Any = None, second: Any = None, **_: Any
) -> None:
    """where: scores in one place and a fill in the other."""
    trail, fill = _either(trails, first, second)
    if trail is None:
        return
    if trail.weights is None and _covers_keys(condition, result):
        ignored = ~condition.detach() if fill is second else condition.detach()
        trail = trail.masked(_fill(ignored, fill))
    trails.carry(result, trail)


def scaled(trails: Trails, result: Torch, first: Any = None, second: Any = None, *_: Any, **__: Any) -> None:
    """What changes the values and masks nothing: mul, div, tanh, clamp, an index."""
    trail, _ = _either(trails, first, second)
    if trail is not None:
        trails.carry(result, trail)


def joined(trails: Trails, result: Torch, tensors: Any, *_: Any, **__: Any) -> None:
    """cat: scores with those of sinks behind them."""
    trail = trails.of(tensors[0]) if tensors else None
    if trail is not None and trail.weights is None:
        trails.set(result, trail)


def kept(trails: Trails, result: Torch, same: Any = None, *_: Any, **__: Any) -> None:
    """What leaves the values as they are: views and casts."""
    trail = trails.of(same)
    if trail is not None and result is not same:
        trails.set(result, trail)


def dropped(
    trails: Trails, result: Torch, input: Torch, p: float = 0.5, training: bool = True, *_: Any, **__: Any
) -> None:
    """dropout: the weights before it are the ones to look at."""
    trail = trails.of(input)
    if trail is None:
        return
    if training and p > 0 and result is not input:
        trail = dataclasses.replace(trail, dropped=True)
    trails.set(result, trail)


def softmax(trails: Trails, result: Torch, input: Torch, dim: int | None = None, *_: Any, **__: Any) -> None:
    """softmax: scores become weights."""
    trail = trails.of(input)
    if trail is None or trail.weights is not None:
        return
    # The letters of an einsum say where the keys are, not the order of the axes.
    if trail.query is not None or dim in (-1, result.ndim - 1):
        trails.set(result, dataclasses.replace(trail, weights=result.detach()))


Follow = Callable[..., Call | None]
# Names in torch, torch.Tensor and torch.nn.functional at which trails begin or end, and those that go on with
# them.
BEGINNINGS: dict[str, Follow] = {
    **dict.fromkeys("matmul __matmul__ bmm".split(), product),
    "baddbmm": biased_product,
    "einsum": contraction,
}
CHANGES: dict[str, Follow] = {
    **dict.fromkeys("add __add__ __radd__ add_ __iadd__".split(), added),
    **dict.fromkeys("masked_fill masked_fill_".split(), filled),
    "where": chosen,
    "softmax": softmax,
    "dropout": dropped,
    "cat": joined,
    **dict.fromkeys("mul __mul__ __rmul__ mul_ __imul__ multiply".split(), scaled),
    **dict.fromkeys("div __truediv__ div_ __itruediv__ true_divide sub __sub__".split(), scaled),
    **dict.fromkeys("tanh clamp clamp_min clamp_max nan_to_num __getitem__".split(), scaled),
    **dict.fromkeys("to float half bfloat16 double type type_as contiguous clone".split(), kept),
    **dict.fromkeys("view reshape unflatten flatten squeeze unsqueeze expand".split(), kept),
}


def _call(trail: Trail, value: Torch | None, output: Torch) -> Call:
    weights, changes = trail.weights, trail.changes
    known = {"query": trail.query, "key": trail.key, "value": value, "output": output}
    graph = {name: tensor for name, tensor in known.items() if tensor is not None}
    operands = {name: tensor.detach() for name, tensor in graph.items()}
    operands["output"] = four_axes(operands["output"])
    if trail.query is not None and trail.query.shape[:-1] == weights.shape[:-1]:
        operands["key"] = operands["key"].transpose(-1, -2)
    else:
        operands = {name: operands[name] for name in ("value", "output") if name in operands}

    def masks() -> dict[str, Any]:
        import torch

        if not changes:
            return {}
        mask = torch.zeros((), dtype=weights.dtype, device=weights.device)
        for change in changes:
            mask = change(mask)
        return {"attn_mask": mask}

    return Call("softmax", weights, operands, masks, graph, trail.dropped)


def _either(trails: Trails, first: Any, second: Any) -> tuple[Trail | None, Any]:
    """The trail of one of two operands, and the other operand."""
    trail = trails.of(first)
    return (trail, second) if trail is not None else (trails.of(second), first)


def _plus(bias: Torch) -> Change:
    def plus(mask: Torch) -> Torch:
        import torch

        total = mask + bias
        if mask.ndim == 0 or any(bool(torch.isneginf(part).any()) for part in (mask, bias)):
            return total
        # Two finite fills may be more than the type holds; that is no infinity of the program's making.
        return total.clamp_min(torch.finfo(total.dtype).min)

    return plus


def _fill(ignored: Torch, value: Any) -> Change:
    def fill(mask: Torch) -> Torch:
        import torch

        filling = torch.as_tensor(value, dtype=mask.dtype, device=mask.device).detach()
        return torch.where(ignored.bool(), filling, mask)

    return fill


def _covers_keys(mask: Any, scores: Torch) -> bool:
    """Whether an operand says something key by key."""
    return getattr(mask, "ndim", 0) >= 1 and mask.shape[-1] == scores.shape[-1] > 1


def _are_tokens(left: Torch, right: Torch) -> bool:
    """Whether both operands may be tokens of a batch: neither is a parameter, as in a linear layer."""
    if left.ndim != right.ndim or left.ndim < 2 or not left.is_floating_point():
        return False
    return left.ndim > 2 or not any(map(_is_parameter, (left, right)))


def _is_parameter(tensor: Torch) -> bool:
    base = tensor._base if tensor._base is not None else tensor
    return bool(base.is_leaf and base.requires_grad)
