"""Columns of a mixer's mask: its input is moved at one place, and the places of its output that change see
it.

Each place is moved three times. A move of ordinary size shows what a trained model could see. One of a
million times that size, in both directions (one draws attention to the key, the other repels it), shows
what a mask only made unlikely, and tells rounding from sight: what is seen grows with the move, rounding
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.mask import Mask
from maskcli.probing.activations import Batch, difference, noise_of
from maskcli.probing.caches import cache_layers, copy_cache
from maskcli.probing.calls import Call, moved_states, other_states

if TYPE_CHECKING:
    from torch import Tensor

# How much larger the large move is. Measured from 1e-3 to 1e6 over 21 models: no forbidden cell changed at
# any size.
LARGE = {"float16": 1e3}
USUAL_LARGE = 1e6
# Transforms over a whole text spill their rounding, which grows with what is moved, to every place: of a
# convolution by FFT at most this many times the precision of the type.
SPILL = 8
# People make states by the seeds 0, 1 or 42: a move by the same numbers would be none.
UNUSUAL = 0x6D61736B
# Cells of a mask that are dense at a time.
ROW_CELLS = 2**22


def large_for(tensor: Tensor) -> float:
    """The large size for a type: as large as it holds without overflow."""
    return LARGE.get(str(tensor.dtype).removeprefix("torch."), USUAL_LARGE)


@dataclass(frozen=True, eq=False)
class Columns:
    """Which outputs some keys reach, bool [B, Q, n]: by an ordinary move, and by none but a large one.

    `keys` int [n] are the places of these keys among `count`. `noise` counts the cells that changed by
    rounding.
    """

    reached: Array
    soft: Array
    noise: int
    keys: Array
    count: int

    @property
    def queries(self) -> int:
        """Q."""
        return int(self.reached.shape[1])

    @property
    def square(self) -> bool:
        """Whether queries and keys may be the same tokens."""
        return self.queries == self.count

    def mixes(self) -> bool:
        """Whether any place reaches another one."""
        cells = self.reached | self.soft
        elsewhere = np.arange(self.queries)[:, None] != self.keys
        return not self.square or bool((cells & elsewhere).any())

    def mask(self, cells: Array) -> Mask:
        """Cells [B, Q, n] as a mask [B, 1, Q, K] that holds nothing in other columns."""
        batch, queries, _ = cells.shape
        shape = batch, 1, queries, self.count

        def rows() -> Iterator[Array]:
            step = max(1, ROW_CELLS // max(self.count, 1))
            for item in range(batch):
                for start in range(0, queries, step):
                    part = cells[item, start : start + step]
                    dense = np.zeros((len(part), self.count), bool)
                    dense[:, self.keys] = part
                    yield dense

        return Mask.from_dense_rows(shape, rows()).compact()


def joined(parts: Sequence[tuple[Columns, Array, Array]], count: int) -> Columns:
    """Columns together, as (some, which of them, their places among `count` keys)."""
    return Columns(
        np.concatenate([some.reached[:, :, which] for some, which, _ in parts], 2),
        np.concatenate([some.soft[:, :, which] for some, which, _ in parts], 2),
        sum(some.noise for some, _, _ in parts),
        np.concatenate([places for _, _, places in parts]),
        count,
    )


def measure(
    cells: Tensor,
    base: Tensor,
    answer: Callable[[Tensor, float], Tensor],
    keys: Sequence[int] | None,
    *,
    sizes: bool = True,
) -> Columns:
    """Move one place after another (all, or only `keys`) of what holds `cells` [B, K, ..], by each size.

    `answer` gives the outputs [B, Q, D] with some places moved, and `base` are those without. Without `sizes`
    there is only one: ids are others, or they are not. Columns of other keys stay empty.
    """
    import torch

    count = int(cells.shape[1])
    chosen = np.arange(count) if keys is None else np.array(keys, np.int64)
    small, large, spilt = (torch.zeros((*base.shape[:2], len(chosen)), device=base.device) for _ in range(3))
    big = large_for(cells)
    spill = SPILL * torch.finfo(base.dtype).eps
    for column, key in enumerate(chosen):
        at = torch.zeros(cells.shape[:2], dtype=torch.bool, device=cells.device)
        at[:, key] = True
        small[:, :, column] = difference(answer(at, 1), base)
        if sizes:
            ways = [difference(answer(at, way), base) for way in (big, -big)]
            large[:, :, column] = torch.maximum(*ways)
            spilt[:, :, column] = spill * large[:, :, column].amax(1, keepdim=True).clamp(max=big)
    rounded = (small > 0) & (small <= noise_of(base)) & (large <= spilt)
    strong = (torch.maximum(small, large) > noise_of(base)) & ~rounded
    noise = ((small > 0) | (large > 0)) & ~strong
    reached, soft = (small > 0) & strong, (small == 0) & strong
    return Columns(reached.cpu().numpy(), soft.cpu().numpy(), int(noise.sum()), chosen, count)


def leaking_rows(
    cells: Tensor, base: Tensor, answer: Callable[[Tensor, float], Tensor], *, sizes: bool = True
) -> list[tuple[int, int]]:
    """Pairs (a, b) for which all of row a of the batch moved, and outputs of row b changed."""
    import torch

    rows = cells.shape[0]
    found: dict[tuple[int, int], None] = {}
    for row in {0, rows - 1} if rows > 1 else ():
        at = torch.zeros(cells.shape[:2], dtype=torch.bool, device=cells.device)
        at[row] = True
        for size in (1.0, large_for(cells)) if sizes else (1.0,):
            hit = (difference(answer(at, size), base) > noise_of(base)).any(1)
            found.update({(row, other): None for other in range(rows) if other != row and bool(hit[other])})
    return list(found)


def generator_for(seed: int) -> Any:
    """Random numbers that begin alike for every move: the two large moves are each other's opposite."""
    import torch

    return torch.Generator().manual_seed(UNUSUAL + seed)


# -- slots of a cache


def find_own_layer(call: Call) -> int | None:
    """Which leaf is the cache; `call.layer` becomes the layer of it that a replay writes to."""
    import torch

    for at in call.caches():
        before = cache_layers(call.leaves[at])
        after = cache_layers(call.answer({})[1][at])
        for layer, (old, new) in enumerate(zip(before, after, strict=True)):
            held = old is not None and new is not None
            if held and not (old.keys.shape == new.keys.shape and torch.equal(old.keys, new.keys)):
                call.layer = layer
                return at
    return None


def measure_slots(call: Call, at: int, batch: Batch, seed: int, keys: Sequence[int] | None) -> Columns:
    """Which outputs each slot of a cache reaches: its key and value are moved like an argument."""
    cache, layer = call.leaves[at], call.layer
    assert layer is not None
    held = cache_layers(cache)[layer]
    generator = generator_for(seed)
    flat = [tensor.transpose(1, 2).flatten(2) for tensor in (held.keys, held.values)]
    others = [other_states(_filled(states), generator) for states in flat]

    def answer(cells: Tensor, size: float) -> Tensor:
        moved = copy_cache(cache, layer)
        own = cache_layers(moved)[layer]
        for tensor, states, other in zip((own.keys, own.values), flat, others, strict=True):
            new = moved_states(states, other, cells, size)
            tensor.copy_(new.reshape(tensor.transpose(1, 2).shape).transpose(1, 2))
        return call.replay({at: moved}, batch)[0]

    return measure(flat[0], call.replay({}, batch)[0], answer, keys)


def _filled(states: Tensor) -> Tensor:
    """What slots hold [B, S, D]; empty ones, which hold zeros, what others do."""
    import torch

    return torch.where(states.abs().amax(-1, keepdim=True) > 0, states, states.abs().mean().clamp_min(1))


def slot_count(call: Call, at: int) -> int:
    """How many slots the layer of a cache has."""
    assert call.layer is not None
    return int(cache_layers(call.leaves[at])[call.layer].keys.shape[2])
