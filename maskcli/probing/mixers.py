"""Mixers: the deepest module calls in which one position changes another.

The model runs once more with other tokens at a few places, and every call is compared with the first run,
bit for bit. Where more places of an answer changed than of the arguments, the call mixes positions; it then
answers as it did at first, so that what lies behind it sees a change at the moved places alone. In a run in
which no call mixes any more and the model's own answer changes nowhere else, all mixers are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maskcli.probing.activations import difference, leaves_of, noise_of, states_of
from maskcli.probing.calls import Call, Key, cells_of, copied_all, hooked

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


@dataclass(eq=False)
class _Compared:
    """Compares the calls of a run with those of the first one."""

    first: dict[Key, Call]
    mixing: dict[Key, None]
    rows: int
    counts: Counter[str] = field(default_factory=Counter)
    open: list[tuple[Key, dict[int, Tensor]]] = field(default_factory=list)

    def enter(self, path: str, args: Any, kwargs: Any) -> None:
        """A call begins: which places of its arguments changed, for each length of a sequence."""
        key = path, self.counts[path]
        self.counts[path] += 1
        before = self.first.get(key)
        leaves = leaves_of((args, kwargs))[0]
        pairs = zip(leaves, before.leaves, strict=False) if before is not None else ()
        changed: dict[int, Tensor] = {}
        for new, old in pairs:
            cells = changed_cells(new, old, self.rows)
            if cells is not None:
                length = cells.shape[1]
                changed[length] = changed[length] | cells if length in changed else cells
        self.open.append((key, changed))

    def leave(self, result: Any) -> Any:
        """The innermost call ends: its answer, or that of the first run where it mixes."""
        key, changed = self.open.pop()
        before = self.first.get(key)
        if before is None:
            return None
        if key not in self.mixing and _spreads(result, before.result, changed, self.rows):
            self.mixing[key] = None
        if key in self.mixing:
            return copied_all(before.result)
        _put_back_noise(result, before.result, self.rows)
        return None


def changed_cells(new: Any, old: Any, rows: int) -> Tensor | None:
    """The places [B, S] in which a leaf differs from an older one; None when it holds no places."""
    fresh, past = cells_of(new, rows), cells_of(old, rows)
    if fresh is None or past is None or fresh.shape != past.shape:
        return None
    if fresh.dim() == 2:
        return fresh != past
    return difference(fresh, past) > noise_of(past)


def _spreads(result: Any, before: Any, changed: dict[int, Tensor], rows: int) -> bool:
    """Whether an answer changed where no argument did."""
    for new, old in zip(states_of(result, rows), states_of(before, rows), strict=False):
        if new.shape != old.shape:
            continue
        cells = difference(new, old) > noise_of(old)
        moved = changed.get(cells.shape[1])
        if bool((cells if moved is None else cells & ~moved).any()):
            return True
    return False


def _put_back_noise(result: Any, before: Any, rows: int) -> None:
    """Where an answer differs by rounding alone, it is what it was."""
    for new, old in zip(states_of(result, rows), states_of(before, rows), strict=False):
        if new.shape == old.shape:
            gap = difference(new, old)
            noisy = (gap > 0) & (gap <= noise_of(old))
            if bool(noisy.any()):
                new[noisy] = old[noisy].to(new)


def find_mixers(
    model: Module, calls: Sequence[Call], runs: Sequence[Callable[[], Any]], rows: int
) -> tuple[list[Call], int]:
    """The mixers among the calls of a first run, in order, and how many runs it took.

    `runs` each run the model over other content at some places, in turn, until none finds anything new.
    """
    import torch

    first = {call.key: call for call in calls}
    mixing: dict[Key, None] = {}
    count = quiet = 0
    while quiet < len(runs):
        known = len(mixing)
        compared = _Compared(first, mixing, rows)
        with _watching(model, compared), torch.no_grad():
            runs[count % len(runs)]()
        count += 1
        quiet = quiet + 1 if len(mixing) == known else 0
    return [call for call in calls if call.key in mixing], count


def _watching(model: Module, compared: _Compared) -> Any:
    def enter(path: str) -> Callable[..., None]:
        return lambda module, args, kwargs: compared.enter(path, args, kwargs)

    def leave(path: str) -> Callable[..., Any]:
        return lambda module, args, kwargs, result: compared.leave(result)

    return hooked(model, enter, leave)
