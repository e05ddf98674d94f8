"""One attention call of a running program: its tensors by role, weights computed where they are read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from maskcli.arrays import Array
from maskcli.tensors import Computed, Kind, Roled, Tensor, from_array, layer_by_name
from maskcli.tracing.lines import user_line

# A torch tensor; torch itself is only imported inside functions.
Torch = Any

# What attention is called that is no function of a library.
BY_HAND = "softmax"
# Weights of up to this many cells are computed at once (16 MiB of float32), larger ones tile by tile.
KEPT_CELLS = 2**22


class Place(NamedTuple):
    """Where a program makes a call: the module's path, the kind of attention, the step, the user's line."""

    module: str
    kind: Kind
    step: int
    source: tuple[str, int] | None = None

    def here(self) -> Place:
        """The same with the line of the user's code that led here."""
        return self._replace(source=user_line())


@dataclass(frozen=True, eq=False)
class Hidden:
    """Weights [B, H, Q, K] that a kernel keeps to itself, of `query` [B, H, Q, D] over `key` [B, Hk, K, D].

    `masked` makes masked scores of plain ones at some positions of these axes; `scale` None is 1 / sqrt(D).
    """

    query: Torch
    key: Torch
    masked: Callable[[Torch, Sequence[range]], Torch]
    scale: float | None

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, H, Q, K]."""
        return (*self.query.shape[:3], self.key.shape[2])

    @property
    def dtype(self) -> Any:
        """That of the queries."""
        return self.query.dtype

    def tensor(self) -> Tensor:
        """The weights in float32 (float64 for float64 queries), before dropout."""
        if math.prod(self.shape) <= KEPT_CELLS:
            return from_array("", self._tile([range(size) for size in self.shape]))
        dtype = "float64" if str(self.dtype) == "torch.float64" else "float32"
        return Tensor("", dtype, self.shape, Computed(self.shape, self._tile))

    def _tile(self, ranges: Sequence[range]) -> Array:
        """Weights at some positions. A row without any key weighs nothing, as torch's kernels have it."""
        import torch

        items, heads, _, keys = ranges
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        group = max(self.query.shape[1] // self.key.shape[1], 1)
        scale = 1 / math.sqrt(self.query.shape[3]) if self.scale is None else self.scale
        with quietly():
            query = cut(self.query, ranges[:3]).to(wide)
            key = cut(self.key, [items])[:, [head // group for head in heads]].to(wide)
            scores = self.masked(query @ key.transpose(-1, -2) * scale, ranges)
            empty = (scores == -math.inf).all(-1, keepdim=True)
            weights = scores.softmax(-1).masked_fill(empty, 0.0)
            tile: Array = weights[..., keys.start : keys.stop : keys.step].cpu().numpy()
        return tile


@dataclass(frozen=True, eq=False)
class Call:
    """What one attention call had; tensors are detached.

    `weights` [.., Q, K] are those that a softmax returned, or a Hidden or a Kernel that keeps them;
    `operands` are those of `query` [.., Q, D], `key` and `value` [.., K, D] (of fewer heads, perhaps) and
    `output` [.., Q, D] that the call shows. `masks` makes the masks by name, as the program gave them or as
    what it did to the scores amounts to. `graph` holds the operands that gradients come through, as the
    program knows them. `dropped` says that dropout stands between weights and output, or something else.
    `inside` is what the path of the attention adds to that of the module at work; `twice` says that the
    softmax was one of a softmax; `added` is how many keys stand before those of the tokens.
    """

    how: str
    weights: Any
    operands: dict[str, Torch]
    masks: Callable[[], dict[str, Torch | Tensor]]
    graph: dict[str, Torch]
    dropped: bool
    inside: str = ""
    twice: bool = False
    added: int = 0

    @property
    def by_hand(self) -> bool:
        """Whether the program computed the weights itself, so that they are tensors."""
        return self.how == BY_HAND

    @property
    def signature(self) -> tuple[object, ...]:
        """What calls that are checked alike have in common: their tensors' kinds, and whether they decode."""
        *leading, queries, keys = self.weights.shape
        return (
            self.how,
            str(self.weights.dtype),
            len(leading),
            queries == 1,
            queries == keys,
            self.dropped,
            self.twice,
            self.added,
        )

    def inherits_nan(self) -> bool:
        """Whether NaN comes in from before it."""
        return any(has_nan(tensor) for name, tensor in self.operands.items() if name != "output")


def roled(call: Call, place: Place, batch: int | None) -> tuple[Roled, ...]:
    """A call's tensors under the module's path, weights first. `batch` tells [B*H, Q, K] from [B, Q, K]."""
    weights = call.weights
    parts = [("weights", "weights", _apart(weights, batch) if call.by_hand else weights.tensor())]
    parts += [(name, "mask", mask) for name, mask in _masks(call, batch).items()]
    parts += [(role, role, tensor) for role, tensor in _operands(call, batch).items()]
    return tuple(
        known_as(role, place.kind, f"{place.module}.{name}" if place.module else name, tensor)
        for name, role, tensor in parts
        if role != "output" or not call.dropped
    )


def known_as(role: str, kind: Kind, name: str, tensor: Torch | Tensor) -> Roled:
    """A tensor whose role is known from where the program has it; of its name only the layer counts."""
    named = dataclasses.replace(tensor, name=name) if isinstance(tensor, Tensor) else from_array(name, tensor)
    return Roled(named, role, "trace", "", kind, layer_by_name(name))


def _masks(call: Call, batch: int | None) -> dict[str, Torch | Tensor]:
    """The masks of a call; those of hand-written attention without what repeats."""
    masks = call.masks()
    if not call.by_hand:
        return masks
    with quietly():
        whole = {name: _apart(mask, batch) for name, mask in masks.items()}
        # A step that has no value for zeros, such as a norm, says nothing of a mask.
        clean = {
            name: mask.masked_fill(mask.isnan() & ~_apart(call.weights, batch).isnan(), 0.0)
            for name, mask in whole.items()
        }
        return {name: narrowed(mask) for name, mask in clean.items()}


def _operands(call: Call, batch: int | None) -> dict[str, Torch]:
    """The operands of a call, with batch and heads apart where its weights have them in one."""
    flat = call.by_hand and call.weights.ndim == 3
    return {
        role: _apart(tensor, batch) if flat and tensor.ndim == 3 else tensor
        for role, tensor in call.operands.items()
    }


def _apart(tensor: Torch, batch: int | None) -> Torch:
    """[B, H, ..] of [B * H, ..] and of what else has fewer or more axes."""
    if tensor.ndim == 3 and batch is not None and tensor.shape[0] % batch == 0:
        return tensor.unflatten(0, (batch, -1))
    return four_axes(tensor)


def narrowed(mask: Torch) -> Torch:
    """A mask [.., Q, K] without repetition along its leading axes and along queries."""
    for axis in range(mask.ndim - 1):
        first = mask.narrow(axis, 0, 1)
        equal = (mask == first) | (mask.isnan() & first.isnan())
        if mask.shape[axis] > 1 and bool(equal.all()):
            mask = first
    return mask


@contextmanager
def quietly() -> Iterator[None]:
    """Compute beside the program: seen by no mode, recorded by no gradient, in the type that is asked for."""
    import torch

    casting = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    with torch._C.DisableTorchFunction(), torch.no_grad():
        for kind in casting:
            torch.set_autocast_enabled(kind, False)
        try:
            yield
        finally:
            for kind in casting:
                torch.set_autocast_enabled(kind, True)


def has_nan(tensor: Torch) -> bool:
    """Whether a tensor holds NaN: its sum then is NaN, and else only when infinities of both signs meet."""
    import torch

    with torch._C.DisableTorchFunction():
        total = tensor.detach().sum(dtype=torch.float32).item()
        return total != total and bool(tensor.isnan().any())


def four_axes(tensor: Torch) -> Torch:
    """[B, H, L, D]: fewer axes lack heads, then the batch; leading ones beyond four are batch."""
    if tensor.ndim == 4:
        return tensor
    if tensor.ndim > 4:
        return tensor.flatten(0, tensor.ndim - 4)
    if tensor.ndim == 3:
        return tensor[:, None]
    return tensor[(None,) * (4 - tensor.ndim)]


def cut(tensor: Torch, ranges: Sequence[range]) -> Torch:
    """The part at these positions of the leading axes."""
    return tensor[tuple(slice(part.start, part.stop, part.step) for part in ranges)]
