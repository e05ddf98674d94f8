"""Module calls of one run of a model: recorded with copies of their arguments, and replayed by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maskcli.probing.activations import ORDERS, Batch, activations, leaves_of, order_of, states_of
from maskcli.probing.caches import copy_cache, is_cache, share_layers
from maskcli.probing.held import Held, attributes, exchanged, holding

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

# Of which module, and the how many-th of its calls in a run: equal in two runs over other content.
Key = tuple[str, int]


@dataclass(eq=False)
class Call:
    """One call of a module.

    `leaves` are copies of its flattened arguments, because models write in place, and `tree` is how they
    were nested. `result` is what it answered, where that was kept. `layer` is the one layer of a cache that
    it writes to, once that is known, and `written` are the tensors among its arguments that it wrote to.
    `held` is what the module kept from calls before, where this call changed it.
    """

    key: Key
    module: Module
    leaves: list[Any]
    tree: Any
    result: Any = None
    layer: int | None = None
    written: frozenset[int] = frozenset()
    held: Sequence[Held] = ()

    @property
    def path(self) -> str:
        """The path of the module."""
        return self.key[0]

    def caches(self) -> list[int]:
        """Which leaves are caches of keys and values."""
        return [at for at, leaf in enumerate(self.leaves) if is_cache(leaf)]

    def replay(self, moved: Mapping[int, Any], batch: Batch) -> list[Tensor]:
        """The hidden states that the call answers when the leaves `moved` stand for those recorded."""
        result, _ = self.answer(moved)
        return states_of(result, batch)

    def answer(self, moved: Mapping[int, Any]) -> tuple[Any, list[Any]]:
        """The whole result of a replay, and the leaves as the module left them."""
        import torch
        from torch.utils import _pytree

        given = [moved.get(at, leaf) for at, leaf in enumerate(self.leaves)]
        # What was one tensor stays one: attention asks whether its query is its key.
        copies = {id(leaf): copied(leaf, self.layer) for at, leaf in enumerate(given) if self._writes(at)}
        leaves = [copies.get(id(leaf), leaf) for leaf in given]
        args, kwargs = _pytree.tree_unflatten(leaves, self.tree)
        with torch.no_grad(), holding(self.held):
            return self.module(*args, **kwargs), leaves

    def _writes(self, at: int) -> bool:
        """Whether the call may write to a leaf: it did so, or it is a cache."""
        return at in self.written or is_cache(self.leaves[at])

    def twins(self, at: int) -> list[int]:
        """The leaves that hold the same as one of them: query, key and value are moved together."""
        import torch

        mine = self.leaves[at]
        others = (i for i, leaf in enumerate(self.leaves) if torch.is_tensor(leaf))
        return [
            i
            for i in others
            if i == at or (self.leaves[i].shape == mine.shape and torch.equal(self.leaves[i], mine))
        ]


def copied(value: Any, layer: int | None = None) -> Any:
    """A copy of what a module may write to: a tensor, or a cache, of which it may be told the `layer`."""
    import torch

    if torch.is_tensor(value):
        return value.detach().clone()
    return copy_cache(value, layer) if is_cache(value) else value


@dataclass(eq=False)
class _Recorder:
    """Keeps calls while a model runs; what a call is given again is kept once."""

    batch: Batch
    results: bool
    calls: list[Call] = field(default_factory=list)
    open: list[tuple[Call | None, list[float]]] = field(default_factory=list)
    given: list[list[Any]] = field(default_factory=list)
    held: list[dict[Module, Mapping[str, Any]]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def enter(self, path: str, module: Module, args: Any, kwargs: Any) -> None:
        """A call begins."""
        key = path, self.counts[path]
        self.counts[path] += 1
        leaves, tree = leaves_of((args, kwargs))
        if not self._tells(leaves):
            self.open.append((None, []))
            return
        call = Call(key, module, self._kept(leaves), tree)
        self.given.append(leaves)
        self.held.append(attributes(module))
        self.open.append((call, [_version(leaf) for leaf in leaves]))
        self.calls.append(call)

    def leave(self, result: Any) -> None:
        """The innermost call ends."""
        call, versions = self.open.pop()
        if call is None:
            return
        now = [_version(leaf) for leaf in self.given.pop()]
        changed = (
            at for at, (before, after) in enumerate(zip(versions, now, strict=True)) if before != after
        )
        call.written = frozenset(changed)
        call.held = exchanged(self.held.pop())
        if self.results:
            call.result = copied_all(result)

    def _tells(self, leaves: list[Any]) -> bool:
        """Whether the arguments hold what belongs to positions: hidden states, or ids [B, S]."""
        return any(cells_of(leaf, self.batch) is not None for leaf in leaves)

    def _kept(self, leaves: list[Any]) -> list[Any]:
        """Copies; masks and positions, which all layers are given alike, are kept once for all."""
        before = self.calls[-1].leaves if self.calls else []
        once: dict[int, Any] = {}
        for leaf in leaves:
            if id(leaf) not in once:
                once[id(leaf)] = next((old for old in before if _is_same(old, leaf)), None)
            if once[id(leaf)] is None:
                once[id(leaf)] = _shared(copied(leaf), before)
        return [once[id(leaf)] for leaf in leaves]


def _version(leaf: Any) -> float:
    """How often a tensor was written to; NaN, which never stays the same, where that is not counted."""
    import torch

    if not torch.is_tensor(leaf):
        return 0
    return float("nan") if leaf.is_inference() else leaf._version


def _shared(new: Any, before: list[Any]) -> Any:
    """A copy that shares the layers of a cache with that of the call before."""
    olds = [old for old in before if is_cache(old)]
    return share_layers(new, olds[0]) if is_cache(new) and olds else new


def _is_same(old: Any, new: Any) -> bool:
    import torch

    both = torch.is_tensor(old) and torch.is_tensor(new)
    alike = both and old.shape == new.shape and old.dtype == new.dtype and old.device == new.device
    return bool(alike and torch.equal(old, new))


def copied_all(result: Any) -> Any:
    """A copy of a result; only its tensors count."""
    from torch.utils import _pytree

    leaves, tree = leaves_of(result)
    return _pytree.tree_unflatten([copied(leaf) for leaf in leaves], tree)


def cells_of(leaf: Any, batch: Batch) -> Tensor | None:
    """A leaf as [B, S, …] when it holds one thing for each place: hidden states, or whole numbers [B, S]."""
    import torch

    if not torch.is_tensor(leaf) or leaf.is_nested:
        return None
    states = activations([leaf], batch)
    if states:
        return states[0]
    whole = not leaf.is_floating_point() and leaf.dtype != torch.bool and leaf.dim() == 2
    if whole and leaf.shape[0] == batch.rows:
        return leaf
    return leaf.T if whole and leaf.shape[1] == batch.rows else None


def record(
    run: Callable[[], Any],
    model: Module,
    batch: Batch,
    only: Sequence[str] | None = None,
    *,
    results: bool = True,
) -> tuple[list[Call], Any]:
    """The calls of one run that hidden states go into, in order, and what the model answered.

    Of `only` these modules (None: of all); `results` keeps their answers as well.
    """
    import torch

    recorder = _Recorder(batch, results)

    def enter(path: str) -> Callable[..., None]:
        return lambda module, args, kwargs: recorder.enter(path, module, args, kwargs)

    def leave(module: Module, args: Any, kwargs: Any, result: Any) -> None:
        recorder.leave(result)

    with hooked(model, enter, lambda _: leave, only), torch.no_grad():
        return recorder.calls, run()


@contextmanager
def hooked(
    model: Module,
    enter: Callable[[str], Callable[..., Any]],
    leave: Callable[[str], Callable[..., Any]],
    only: Sequence[str] | None = None,
) -> Iterator[None]:
    """Hooks of each module, made from its path, before and behind its calls."""
    handles = []
    for path, module in model.named_modules():
        if only is None or path in only:
            handles.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
            handles.append(module.register_forward_hook(leave(path), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def other_states(states: Tensor, generator: Any) -> Tensor:
    """Other content for hidden states [B, S, D], as long as they are."""
    import torch

    new = torch.randn(states.shape, generator=generator).to(states)
    lengths = states.float().norm(dim=-1, keepdim=True) / new.float().norm(dim=-1, keepdim=True)
    other: Tensor = new * lengths.clamp_min(1e-3).to(states)
    return other


def moved_states(states: Tensor, other: Tensor, cells: Tensor, size: float) -> Tensor:
    """Hidden states [B, S, D] with other content, times size, where `cells` [B, S] says so."""
    import torch

    return torch.where(cells[..., None], other * size, states)


def in_place(leaf: Tensor, states: Tensor, batch: Batch) -> Tensor:
    """Hidden states [B, S, D] in the order of axes that a leaf has."""
    order = order_of(leaf, batch) or ORDERS[0]
    # Each order swaps two axes at most, and is its own way back.
    return states.permute(order)
