"""Mixers: the deepest module calls in which one position changes another.

The model runs once more with other tokens at a few places, and every call is compared with the first run,
bit for bit. Where more places of an answer changed than of the arguments, the call mixes positions; it
then answers as it did at first but for the moved places, so that what lies behind it sees a change there
alone. In a run in which no call mixes any more and the model's own answer changes nowhere else, all mixers
are known.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maskcli.probing.activations import Batch, difference, leaves_of, noise_of, states_of
from maskcli.probing.calls import Call, Key, cells_of, copied_all, hooked

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


@dataclass(eq=False)
class _Compared:
    """Compares the calls of a run with those of the first one."""

    first: dict[Key, Call]
    mixing: dict[Key, None]
    batch: Batch
    counts: Counter[str] = field(default_factory=Counter)
    open: list[tuple[Key, dict[int, Tensor]]] = field(default_factory=list)

    def enter(self, path: str, args: Any, kwargs: Any) -> None:
        """A call begins: which places of its arguments changed, for each length of a sequence."""
        key = path, self.counts[path]
        self.counts[path] += 1
        before = self.first.get(key)
        changed = _changed_places(args, kwargs, before, self.batch) if before is not None else {}
        self.open.append((key, changed))

    def leave(self, result: Any) -> Any:
        """The innermost call ends: its answer, or that of the first run where it mixes."""
        key, changed = self.open.pop()
        before = self.first.get(key)
        if before is None:
            return None
        if key not in self.mixing and _spreads(result, before.result, changed, self.batch):
            self.mixing[key] = None
        if key in self.mixing:
            return _moved_alone(result, before.result, changed, self.batch)
        _put_back_noise(result, before.result, self.batch)
        return None


def _changed_places(args: Any, kwargs: Any, before: Call, batch: Batch) -> dict[int, Tensor]:
    """Which places of its arguments changed since a call before, for each length of a sequence."""
    changed: dict[int, Tensor] = {}
    for new, old in zip(leaves_of((args, kwargs))[0], before.leaves, strict=False):
        cells = changed_cells(new, old, batch)
        if cells is not None:
            length = cells.shape[1]
            changed[length] = changed[length] | cells if length in changed else cells
    return changed


def changed_cells(new: Any, old: Any, batch: Batch) -> Tensor | None:
    """The places [B, S] in which a leaf differs from an older one; None when it holds no places."""
    fresh, past = cells_of(new, batch), cells_of(old, batch)
    if fresh is None or past is None or fresh.shape != past.shape:
        return None
    return fresh != past if fresh.dim() == 2 else difference(fresh, past) > 0


def _spreads(result: Any, before: Any, changed: dict[int, Tensor], batch: Batch) -> bool:
    """Whether an answer changed where no argument did.

    Of an answer as long as no argument, as of a convolution over a padded text, nothing can be told: what
    holds the module answers for it.
    """
    for new, old in zip(states_of(result, batch), states_of(before, batch), strict=False):
        if new.shape != old.shape:
            continue
        cells = difference(new, old) > noise_of(old)
        moved = changed.get(cells.shape[1])
        if moved is not None and bool((cells & ~moved).any()):
            return True
    return False


def _moved_alone(result: Any, before: Any, changed: dict[int, Tensor], batch: Batch) -> Any:
    """The first answer, with the new one at the places where an argument changed."""
    answer = copied_all(before)
    for new, old in zip(states_of(result, batch), states_of(answer, batch), strict=False):
        cells = changed.get(old.shape[1])
        if cells is not None and new.shape == old.shape:
            old[cells] = new[cells].to(old)
    return answer


def _put_back_noise(result: Any, before: Any, batch: Batch) -> None:
    """Where an answer differs by rounding alone, it is what it was."""
    for new, old in zip(states_of(result, batch), states_of(before, batch), strict=False):
        if new.shape == old.shape:
            gap = difference(new, old)
            noisy = (gap > 0) & (gap <= noise_of(old))
            if bool(noisy.any()):
                new[noisy] = old[noisy].to(new)


def find_mixers(
    model: Module,
    calls: Sequence[Call],
    runs: Sequence[Callable[[], Any]],
    batch: Batch,
    watched: Sequence[str] | None = None,
) -> tuple[list[Call], int]:
    """The mixers among the calls of a first run, in order, and how many runs it took.

    `runs` each run the model over other content at some places, in turn, until none finds anything new. Only
    `watched` paths are compared (None: all).
    """
    first = {call.key: call for call in calls}
    search = _Search(model, first, runs, batch, watched)
    search.until_quiet()
    # One that was found before what is inside of it may do nothing by itself.
    outer = [key for key in search.mixing if any(is_inside(other[0], key[0]) for other in search.mixing)]
    for key in outer:
        del search.mixing[key]
    if outer:
        search.until_quiet()
    return [call for call in calls if call.key in search.mixing], search.count


@dataclass(eq=False)
class _Search:
    """Runs with other content, one after another, and the mixers found so far."""

    model: Module
    first: dict[Key, Call]
    runs: Sequence[Callable[[], Any]]
    batch: Batch
    watched: Sequence[str] | None
    mixing: dict[Key, None] = field(default_factory=dict)
    count: int = 0

    def until_quiet(self) -> None:
        """Run in turn until no run finds anything new."""
        import torch

        quiet = 0
        while quiet < len(self.runs):
            known = len(self.mixing)
            compared = _Compared(self.first, self.mixing, self.batch)
            with _watching(self.model, compared, self.watched), torch.no_grad():
                self.runs[self.count % len(self.runs)]()
            self.count += 1
            quiet = quiet + 1 if len(self.mixing) == known else 0


def is_inside(path: str, other: str) -> bool:
    """Whether a module is within another one, by their paths."""
    return path != other and (not other or path.startswith(f"{other}."))


@contextmanager
def place_by_place(calls: Sequence[Call], batch: Batch) -> Iterator[None]:
    """Modules that answer as when they were recorded, but for the places where their arguments changed.

    What lies around them is then measured without what they mix themselves.
    """
    recorded: dict[Module, list[Call]] = {}
    for call in calls:
        recorded.setdefault(call.module, []).append(call)
    before = {module: module.__dict__.get("forward") for module in recorded}
    for module, own in recorded.items():
        module.forward = _in_turn(module.forward, own, batch)
    try:
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _in_turn(forward: Callable[..., Any], calls: Sequence[Call], batch: Batch) -> Callable[..., Any]:
    """A function that stands for one of the calls after another, and begins anew."""
    turns = itertools.cycle(calls)

    def answer(*args: Any, **kwargs: Any) -> Any:
        call = next(turns)
        changed = _changed_places(args, kwargs, call, batch)
        return _moved_alone(forward(*args, **kwargs), call.result, changed, batch)

    return answer


def _watching(model: Module, compared: _Compared, watched: Sequence[str] | None) -> Any:
    def enter(path: str) -> Callable[..., None]:
        return lambda module, args, kwargs: compared.enter(path, args, kwargs)

    def leave(path: str) -> Callable[..., Any]:
        return lambda module, args, kwargs, result: compared.leave(result)

    return hooked(model, enter, leave, watched)
