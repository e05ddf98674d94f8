"""Hand-written attention as a program computes it: scores of queries and keys, masks, a softmax, and the sum of values.

A trail remembers of a tensor how it came about. It starts where two batched matrices are multiplied, goes on through what
masks and scales scores, and ends where what a softmax made of them is multiplied with the values: only then it was attention.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from maskcli.tracing.calls import Call, Torch

Function = Callable[..., Any]
Arguments = tuple[Any, ...]
# What one operation did to the scores, as a function of the additive mask so far.
Step = Callable[[Torch], Torch]


@dataclass(frozen=True, eq=False)
class Trail:
    """How a tensor came about: the operands of the scores, [.., Q, D] and [.., D, K], what masked them, and the softmax's result."""

    query: Torch | None
    key: Torch | None
    steps: tuple[Step, ...] = ()
    weights: Torch | None = None
    dropped: bool = False


class Trails:
    """The trails of the tensors of a running program; a trail ends with its tensor. `count` is how many there were."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Torch], Trail]] = {}
        self.count = 0

    def of(self, tensor: Torch) -> Trail | None:
        """The trail of a tensor."""
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def set(self, tensor: Torch, trail: Trail) -> None:
        """Remember a trail for as long as its tensor lives."""
        at = id(tensor)
        self.count += 1

        def forget(gone: weakref.ref[Torch]) -> None:
            if at in self._known and self._known[at][0] is gone:
                del self._known[at]

        self._known[at] = (weakref.ref(tensor, forget), trail)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()

    def __bool__(self) -> bool:
        return bool(self._known)


Follow = Callable[[Trails, Torch, Arguments, dict[str, Any]], "Call | None"]


def product(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> Call | None:
    """matmul and bmm: scores begin here, and a sum of values ends the trail of the weights."""
    left, right = (*args, *kwargs.values())[:2]
    trail = trails.of(left)
    if (
        trail is not None
        and trail.weights is not None
        and right.ndim >= 2
        and right.shape[-2] == trail.weights.shape[-1]
    ):
        return _call(trail, right, result)
    if _are_tokens(left, right):
        trails.set(result, Trail(left, right))
    return None


def biased_product(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> None:
    """baddbmm: scores with something added to them."""
    bias, left, right = (*args, *(kwargs[name] for name in ("input", "batch1", "batch2") if name in kwargs))[
        :3
    ]
    trails.set(result, Trail(left, right, (_plus(bias.detach()),)))


def contraction(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> Call | None:
    """einsum of two tensors: scores when nothing is known of them, the sum of values when one is weights."""
    operands = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
    if not isinstance(args[0], str) or len(operands) != 2:
        return None
    for weights, value in (operands, operands[::-1]):
        trail = trails.of(weights)
        if trail is not None and trail.weights is not None:
            return (
                _call(dataclasses.replace(trail, query=None, key=None), None, result)
                if value.ndim >= 2
                else None
            )
    if 3 <= result.ndim <= 4 and all(each.ndim == result.ndim for each in operands):
        trails.set(result, Trail(None, None))
    return None


def added(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> None:
    """add: a mask, a bias, or other scores."""
    trail, other = _trail(trails, args)
    if trail is None:
        return
    if _covers_keys(other, result) and trails.of(other) is None and trail.weights is None:
        trail = dataclasses.replace(trail, steps=(*trail.steps, _plus(other.detach())))
    _carry(trails, result, trail)


def filled(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> None:
    """masked_fill: a mask whose True is ignored."""
    trail = trails.of(args[0])
    if trail is None:
        return
    where, value = (*args[1:], *kwargs.values())[:2]
    if trail.weights is None and _covers_keys(where, result):
        trail = dataclasses.replace(trail, steps=(*trail.steps, _fill(where.detach(), value)))
    _carry(trails, result, trail)


def chosen(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> None:
    """where: scores in one place and a fill in the other."""
    if len(args) != 3:
        return
    condition, first, second = args
    for scores, other, kept in ((first, second, True), (second, first, False)):
        trail = trails.of(scores)
        if trail is None:
            continue
        if trail.weights is None and _covers_keys(condition, result):
            ignored = ~condition.detach() if kept else condition.detach()
            trail = dataclasses.replace(trail, steps=(*trail.steps, _fill(ignored, other)))
        _carry(trails, result, trail)
        return


def scaled(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> None:
    """What changes the values and masks nothing: mul, div, tanh, clamp, an index."""
    trail, _ = _trail(trails, args)
    if trail is not None:
        _carry(trails, result, trail)


def joined(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> None:
    """cat: scores with those of sinks behind them."""
    parts = args[0] if args else kwargs.get("tensors", ())
    trail = trails.of(parts[0]) if parts else None
    if trail is not None and trail.weights is None:
        trails.set(result, trail)


def kept(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> None:
    """What leaves the values as they are: views and casts."""
    trail = trails.of(args[0]) if args else None
    if trail is not None and result is not args[0]:
        trails.set(result, trail)


def dropped(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> None:
    """dropout: the weights before it are the ones to look at."""
    trail = trails.of(args[0] if args else kwargs["input"])
    if trail is not None:
        same = result is (args[0] if args else kwargs["input"])
        trails.set(
            result,
            trail if same else dataclasses.replace(trail, dropped=trail.dropped or _drops(args, kwargs)),
        )


def softmax(trails: Trails, result: Torch, args: Arguments, kwargs: dict[str, Any]) -> None:
    """softmax: scores become weights."""
    trail = trails.of(args[0] if args else kwargs["input"])
    if trail is not None and trail.weights is None:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if trail.query is None and dim not in (-1, result.ndim - 1):
            return  # The letters of an einsum say where the keys are, not the order of the axes.
        trails.set(result, dataclasses.replace(trail, weights=result.detach()))


# Names in torch, torch.Tensor and torch.nn.functional, by what they do to a trail.
FOLLOWED: dict[str, Follow] = {
    **dict.fromkeys("matmul __matmul__ bmm".split(), product),
    "baddbmm": biased_product,
    "einsum": contraction,
    **dict.fromkeys("add __add__ __radd__ add_ __iadd__".split(), added),
    **dict.fromkeys("masked_fill masked_fill_".split(), filled),
    "where": chosen,
    "softmax": softmax,
    "dropout": dropped,
    "cat": joined,
    **dict.fromkeys(
        "mul __mul__ __rmul__ mul_ __imul__ multiply div __truediv__ div_ __itruediv__ true_divide sub __sub__ tanh clamp clamp_min "
        "clamp_max nan_to_num __getitem__".split(),
        scaled,
    ),
    **dict.fromkeys(
        "to float half bfloat16 double type type_as contiguous clone view reshape unflatten flatten squeeze unsqueeze expand".split(),
        kept,
    ),
}


def _call(trail: Trail, value: Torch | None, output: Torch) -> Call:
    weights, steps = trail.weights, trail.steps
    assert weights is not None

    def masks() -> dict[str, Any]:
        import torch

        if not steps:
            return {}
        mask = torch.zeros((), dtype=weights.dtype, device=weights.device)
        for step in steps:
            mask = step(mask)
        return {"attn_mask": mask}

    operands = (("query", trail.query), ("key", trail.key), ("value", value))
    fits = trail.query is not None and trail.query.shape[:-1] == weights.shape[:-1]
    return Call(
        "softmax",
        trail.query.detach() if fits and trail.query is not None else None,
        trail.key.detach().transpose(-1, -2) if fits and trail.key is not None else None,
        None if value is None else value.detach(),
        output.detach(),
        weights,
        masks,
        dropped=trail.dropped,
        graph=(("output", output), *((name, tensor) for name, tensor in operands if tensor is not None)),
    )


def _carry(trails: Trails, result: Torch, trail: Trail) -> None:
    """The trail of a changed tensor: changed weights are the ones that count."""
    trails.set(
        result, trail if trail.weights is None else dataclasses.replace(trail, weights=result.detach())
    )


def _trail(trails: Trails, args: Arguments) -> tuple[Trail | None, Any]:
    """The trail of one of two operands, and the other operand."""
    first, second = (*args, None, None)[:2]
    trail = trails.of(first)
    return (trail, second) if trail is not None else (trails.of(second), first)


def _plus(bias: Torch) -> Step:
    def plus(mask: Torch) -> Torch:
        import torch

        total = mask + bias
        if mask.ndim == 0 or bool(torch.isneginf(mask).any()) or bool(torch.isneginf(bias).any()):
            return total
        # Two finite fills may be more than the type holds; that is no infinity of the program's making.
        return total.clamp_min(torch.finfo(total.dtype).min)

    return plus


def _fill(where: Torch, value: Any) -> Step:
    def fill(mask: Torch) -> Torch:
        import torch

        full = (
            value.detach().to(mask)
            if isinstance(value, torch.Tensor)
            else torch.full_like(mask[(0,) * mask.ndim], value)
        )
        return torch.where(where.bool(), full, mask)

    return fill


def _covers_keys(mask: Any, scores: Torch) -> bool:
    """Whether an operand says something key by key."""
    return getattr(mask, "ndim", 0) >= 1 and mask.shape[-1] == scores.shape[-1] > 1


def _are_tokens(left: Torch, right: Torch) -> bool:
    """Whether both operands may be tokens of a batch: neither is a parameter, as those of a linear layer are."""
    if left.ndim != right.ndim or left.ndim < 2 or not left.is_floating_point():
        return False
    return left.ndim > 2 or not any(_is_parameter(each) for each in (left, right))


def _is_parameter(tensor: Torch) -> bool:
    base = tensor._base if tensor._base is not None else tensor
    return bool(base.is_leaf and base.requires_grad)


def _drops(args: Arguments, kwargs: dict[str, Any]) -> bool:
    chance = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    training = args[2] if len(args) > 2 else kwargs.get("training", True)
    return bool(training and chance > 0)
