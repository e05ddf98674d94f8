"""One attention call of a running program: its tensors by role, with weights that are computed only where a rule reads them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.tensors import Computed, Kind, Roled, Tensor, from_array, role_of

# A torch tensor; torch itself is only imported inside functions.
Torch = Any

# Weights of up to this many cells are computed at once (16 MiB of float32), larger ones tile by tile as rules read them.
KEPT_CELLS = 2**22


class Place(NamedTuple):
    """Where a program makes a call: the module's path, the kind of attention, the step, and the user's own line."""

    module: str
    kind: Kind
    step: int
    source: tuple[str, int] | None


@dataclass(frozen=True, eq=False)
class Call:
    """What one attention call had. Tensors are detached torch tensors, None where the call does not show them.

    `query` [.., Q, D], `key` and `value` [.., K, D] (of fewer heads, perhaps) and `output` [.., Q, D]. `weights` [.., Q, K] are
    those that a softmax returned; where a kernel keeps them to itself, `scores` makes masked scores of the plain ones
    [B, H, Q, K] at some positions of these axes. `masks` makes the masks by name, as the program gave them or as what it did
    to the scores amounts to. `dropped` says that dropout stands between weights and output. `graph` holds the tensors that
    gradients come through, output first, as the program knows them.
    """

    how: str
    query: Torch | None
    key: Torch | None
    value: Torch | None
    output: Torch
    weights: Torch | None
    masks: Callable[[], dict[str, Torch | Tensor]]
    scores: Callable[[Torch, Sequence[range]], Torch] | None = None
    scale: float | None = None
    dropped: bool = False
    graph: tuple[tuple[str, Torch], ...] = ()

    @property
    def signature(self) -> tuple[object, ...]:
        """What calls have in common that are checked alike: the kind of every tensor, and whether it is a step of decoding."""
        shown: Torch = self.weights if self.weights is not None else self.query
        queries, keys = self.sizes
        return self.how, str(shown.dtype), shown.ndim, queries == 1, queries == keys, self.dropped

    @property
    def sizes(self) -> tuple[int, int]:
        """Queries and keys."""
        if self.weights is not None:
            return self.weights.shape[-2], self.weights.shape[-1]
        assert self.query is not None
        assert self.key is not None
        return self.query.shape[-2], self.key.shape[-2]


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


def of_sdpa(arguments: dict[str, Any], output: Torch, single: bool = False) -> Call:
    """A call of torch's scaled_dot_product_attention, by its arguments.

    `single` says that the model was given one token: where several queries are seen all the same, they are the heads that
    share a key head, [B, Hk, H / Hk, D], as some models call it when they decode.
    """
    query, key, value = (_four(arguments[name].detach()) for name in ("query", "key", "value"))
    causal = bool(arguments["is_causal"])
    # The axes of a mask are aligned with the last ones of the query.
    axes = arguments["query"].ndim
    mask: Torch = None if arguments["attn_mask"] is None else arguments["attn_mask"].detach()
    graph = (("output", output), *((name, arguments[name]) for name in ("query", "key", "value")))
    output = _four(output.detach())
    if (
        single
        and query.shape[2] > 1
        and query.shape[1] == key.shape[1]
        and (mask is None or mask.shape[-2] == 1)
    ):
        query, output = (each.flatten(1, 2)[:, :, None] for each in (query, output))
    given = None if mask is None else _four(mask[(None,) * (axes - mask.ndim)])
    shape = (*query.shape[:3], key.shape[2])

    def scores(plain: Torch, ranges: Sequence[range]) -> Torch:
        import torch

        if given is not None:
            part = _cut(given.expand(shape), ranges)
            plain = plain.masked_fill(~part, -math.inf) if part.dtype == torch.bool else plain + part
        if causal:
            allowed = _causal(ranges[2], shape[3])
            plain = plain.masked_fill(torch.from_numpy(~allowed).to(plain.device), -math.inf)
        return plain

    def masks() -> dict[str, Torch | Tensor]:
        if given is not None:
            return {"attn_mask": mask if mask.ndim == 2 else given}
        lower = Computed(
            shape[2:], lambda ranges: _causal(ranges[0], shape[3])[:, _slice(ranges[1])].view(np.uint8)
        )
        return {"is_causal": Tensor("", "bool", shape[2:], lower)} if causal else {}

    return Call(
        "scaled_dot_product_attention",
        query,
        key,
        value,
        output,
        None,
        masks,
        scores,
        arguments["scale"],
        bool(arguments["dropout_p"]),
        graph,
    )


def roled(call: Call, place: Place, batch: int | None) -> tuple[Roled, ...]:
    """The tensors of a call with their roles, under the module's path. `batch` tells [B*H, Q, K] from [B, Q, K]."""
    tensors: dict[str, tuple[str, Torch | Tensor | None]] = {"weights": ("weights", _weights(call, batch))}
    tensors.update((name, ("mask", mask)) for name, mask in call.masks().items())
    tensors.update(
        (role, (role, getattr(call, role)))
        for role in ("query", "key", "value")
        if getattr(call, role) is not None
    )
    if not call.dropped:
        tensors["output"] = ("output", _four(call.output))
    return tuple(
        _roled(f"{place.module}.{name}", role, place.kind, tensor) for name, (role, tensor) in tensors.items()
    )


def _roled(name: str, role: str, kind: Kind, tensor: Torch | Tensor) -> Roled:
    named = dataclasses.replace(tensor, name=name) if isinstance(tensor, Tensor) else from_array(name, tensor)
    return dataclasses.replace(role_of(named), role=role, why="trace", group="", kind=kind)


def _weights(call: Call, batch: int | None) -> Torch | Tensor:
    if call.weights is not None:
        weights = call.weights
        if weights.ndim == 3 and batch is not None and weights.shape[0] % batch == 0:
            return weights.unflatten(0, (batch, -1))
        return _four(weights)
    assert call.query is not None
    assert call.key is not None
    shape = (*call.query.shape[:3], call.key.shape[2])
    dtype = "float64" if str(call.query.dtype) == "torch.float64" else "float32"
    if math.prod(shape) <= KEPT_CELLS:
        return from_array("", _tile(call, [range(size) for size in shape]))
    return Tensor("", dtype, shape, Computed(shape, lambda ranges: _tile(call, ranges)))


def _tile(call: Call, ranges: Sequence[range]) -> Array:
    """Weights at some positions of [B, H, Q, K], in float32 (float64 for float64 queries), before dropout.

    A row without any key weighs nothing, as torch's kernels have it.
    """
    import torch

    query, key = call.query, call.key
    assert query is not None
    assert key is not None
    assert call.scores is not None
    items, heads, _, keys = ranges
    with quietly():
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        group = max(query.shape[1] // key.shape[1], 1)
        q = _cut(query, ranges).to(wide)
        k = key[_slice(items)][:, [head // group for head in heads]].to(wide)
        scale = 1 / math.sqrt(query.shape[3]) if call.scale is None else call.scale
        scores = call.scores(q @ k.transpose(-1, -2) * scale, ranges)
        weights = scores.softmax(-1).masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
        found: Array = weights[..., _slice(keys)].cpu().numpy()
    return found


def _four(tensor: Torch) -> Torch:
    """[B, H, L, D]: fewer axes lack heads, then the batch; leading ones beyond four are batch."""
    if tensor.ndim > 4:
        return tensor.flatten(0, tensor.ndim - 4)
    return tensor[(None,) * (4 - tensor.ndim)] if tensor.ndim != 3 else tensor[:, None]


def _causal(rows: range, keys: int) -> Array:
    """k <= q: torch's is_causal counts from the first key, whatever lies before the queries."""
    allowed: Array = np.arange(keys) <= np.arange(rows.start, rows.stop)[:, None]
    return allowed


def _cut(tensor: Torch, ranges: Sequence[range]) -> Torch:
    """The part at some batch items, heads and rows."""
    return tensor[tuple(_slice(each) for each in ranges[:3])]


def _slice(each: range) -> slice:
    return slice(each.start, each.stop, each.step)
