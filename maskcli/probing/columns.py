"""Columns of a mixer's mask: its input is moved at one place, and the places of its output that change see
it.

Each place is moved three times. A move of ordinary size shows what a trained model could see. One of a
million times that size, in both directions (one draws attention to the key, the other repels it), shows
what a mask only made unlikely, and tells rounding from sight: what is seen grows with the move, rounding
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskcli.arrays import Array
from maskcli.probing.activations import by_rows, difference, noise_of
from maskcli.probing.caches import cache_layers, copy_cache
from maskcli.probing.calls import Call, in_place, moved_states

if TYPE_CHECKING:
    from torch import Tensor

# How much larger the large move is. Measured from 1e-3 to 1e6 over 21 models: no forbidden cell changed at
# any size.
LARGE = {"float16": 1e3}
USUAL_LARGE = 1e6
Progress = Callable[[int], None]


def large_for(tensor: Tensor) -> float:
    """The large size for a type: as large as it holds without overflow."""
    return LARGE.get(str(tensor.dtype).removeprefix("torch."), USUAL_LARGE)


@dataclass(frozen=True, eq=False)
class Columns:
    """Which outputs [B, Q] each key reaches, bool [B, Q, K]: by an ordinary move, and by none but a large
    one.

    `noise` counts the cells that changed by rounding.
    """

    reached: Array
    soft: Array
    noise: int


@dataclass(eq=False)
class _Changes:
    """The largest change of every cell so far, [B, Q, K] for each of the two sizes."""

    small: Tensor
    large: Tensor
    floor: float

    def columns(self) -> Columns:
        """What they come to."""
        import torch

        strong = torch.maximum(self.small, self.large) > self.floor
        noise = ((self.small > 0) | (self.large > 0)) & ~strong
        reached, soft = (self.small > 0) & strong, (self.small == 0) & strong
        return Columns(reached.cpu().numpy(), soft.cpu().numpy(), int(noise.sum()))


def measure_columns(
    call: Call, source: int, rows: int, keys: Sequence[int] | None, seed: int, done: Progress
) -> Columns:
    """Move one argument of a call at one place after another (all, or only `keys`).

    The argument is a leaf with hidden states [B, K, D]; leaves that hold the same are moved with it.
    Columns of other keys stay empty.
    """
    leaf = call.leaves[source]
    states = by_rows(leaf, rows)
    twins = call.twins(source)

    def moved(cells: Tensor, size: float) -> list[Tensor]:
        new = in_place(leaf, moved_states(states, cells, size, generator_for(seed)), rows)
        return call.replay(dict.fromkeys(twins, new), rows)

    return _measure(states, call.replay({}, rows)[0], moved, keys, large_for(states), done)


def _measure(
    states: Tensor,
    base: Tensor,
    moved: Callable[[Tensor, float], list[Tensor]],
    keys: Sequence[int] | None,
    size: float,
    done: Progress,
) -> Columns:
    import torch

    count = states.shape[1]
    shape = (*base.shape[:2], count)
    small, large = (torch.zeros(shape, device=base.device) for _ in range(2))
    for key in range(count) if keys is None else keys:
        cells = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
        cells[:, key] = True
        small[:, :, key] = difference(moved(cells, 1)[0], base)
        ways = [difference(moved(cells, way)[0], base) for way in (size, -size)]
        large[:, :, key] = torch.maximum(*ways)
        done(1)
    return _Changes(small, large, noise_of(base)).columns()


def leaking_rows(call: Call, sources: Sequence[int], rows: int, seed: int) -> tuple[tuple[int, int], ...]:
    """Pairs (a, b) for which everything in row a of the batch moved, and outputs of row b changed."""
    import torch

    base = call.replay({}, rows)[0]
    found: dict[tuple[int, int], None] = {}
    for source in sources:
        leaf = call.leaves[source]
        states = by_rows(leaf, rows)
        for row in {0, rows - 1}:
            cells = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
            cells[row] = True
            for size in (1.0, large_for(states)):
                new = in_place(leaf, moved_states(states, cells, size, generator_for(seed)), rows)
                out = call.replay(dict.fromkeys(call.twins(source), new), rows)[0]
                hit = (difference(out, base) > noise_of(base)).any(1)
                found.update(
                    {(row, other): None for other in range(rows) if other != row and bool(hit[other])}
                )
    return tuple(found)


def generator_for(seed: int) -> Any:
    """Random numbers that begin alike for every move: the two large moves are each other's opposite."""
    import torch

    return torch.Generator().manual_seed(seed)


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


def measure_slots(call: Call, at: int, rows: int, seed: int) -> Columns:
    """Which outputs each slot of a cache reaches: its key and value are moved like an argument."""
    import torch

    cache, layer = call.leaves[at], call.layer
    assert layer is not None
    keys = cache_layers(cache)[layer].keys
    base = call.replay({}, rows)[0]

    def moved(cells: Tensor, size: float) -> list[Tensor]:
        other = copy_cache(cache, layer)
        own = cache_layers(other)[layer]
        generator = generator_for(seed)
        for tensor in (own.keys, own.values):
            flat = tensor.transpose(1, 2).flatten(2)
            # Empty slots hold zeros: they are given what others hold.
            filled = torch.where(flat.abs().amax(-1, keepdim=True) > 0, flat, flat.abs().mean().clamp_min(1))
            new = torch.where(cells[..., None], moved_states(filled, cells, size, generator), flat)
            tensor.copy_(new.reshape(tensor.transpose(1, 2).shape).transpose(1, 2))
        return call.replay({at: other}, rows)

    slots = keys.transpose(1, 2).flatten(2)
    return _measure(slots, base, moved, None, large_for(slots), lambda _: None)
