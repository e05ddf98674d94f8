"""`compare`: where two masks differ and what it means, or how far two sets of weights are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from maskcli.arrays import for_any_numbers
from maskcli.diagnostics.plain import plain
from maskcli.displayed import Displayed
from maskcli.errors import MaskcliError
from maskcli.inputs.operands import Operand, operand
from maskcli.inputs.pairs import adds_values, biases_of, masks_of
from maskcli.masks.compare import Region, regions
from maskcli.masks.conventions import SILENT
from maskcli.masks.mask import Mask
from maskcli.masks.words import counted
from maskcli.meant.facts import from_said
from maskcli.tensors import Difference, Roled, Tensor, difference, from_array

MASKS = {"mask", "padding_mask"}


class Pair(NamedTuple):
    """Two tensors by name, and how far they are apart."""

    a: str
    b: str
    difference: Difference


@dataclass(frozen=True, eq=False)
class Comparison(Displayed):
    """Two masks and the `regions` where they differ, or pairs of weights; `a` and `b` name what was given.

    `masks` is None where weights were compared. `biases` are how far what two masks add to the scores is
    apart, where they add more than 0 and a fill; `left_out` add such values, and the other mask adds none.
    """

    a: str
    b: str
    regions: tuple[Region, ...] = ()
    tensors: tuple[Pair, ...] = ()
    masks: tuple[Mask, Mask] | None = None
    biases: Pair | None = None
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A line for each difference, and one that counts their cells."""
        apart = [pair for pair in self.tensors if not pair.difference.equal]
        pairs = [f"{pair.a}: {counted(pair.difference.cells, 'cell')} of {pair.b} differ" for pair in apart]
        closing = f"A: {self.a}, B: {self.b}: {counted(self.cells, 'cell')} differ" if self.cells else "equal"
        return plain([*(region.meaning for region in self.regions), *pairs], closing)

    @property
    def cells(self) -> int:
        """Cells that differ: in who attends, or of weights and biases by more than the tolerance."""
        pairs = [*self.tensors, *([self.biases] if self.biases else [])]
        regions = sum(region.cells for region in self.regions)
        return regions + sum(pair.difference.cells for pair in pairs)

    @property
    def equal(self) -> bool:
        """Whether no cell differs."""
        return self.cells == 0


@for_any_numbers
def compare(
    a: Any,
    b: Any,
    *,
    convention: str | None = None,
    padding: Any = None,
    padding_side: str | None = None,
    past: int | None = None,
    positions: Any = None,
    key_positions: Any = None,
    pad_id: int | None = None,
    eos_id: int | Sequence[int] | None = None,
    tolerance: float | None = None,
) -> Comparison:
    """Where two masks differ and what each difference means, or how far two sets of weights are apart.

    `a` and `b` are arrays, FILE[:TENSOR] or specs, which take their shape from the other. Masks are read in
    `convention` where it is said. `padding` [B, K] (1 or True is a real token) tells what keys are real; else
    it and the documents come from what is beside the masks in their files (`pad_id`, `eos_id`: ids that pad
    and end a text). What the masks have more keys than `padding` is padding, on the `padding_side` (left or
    right). `past` keys come before the first query; where tokens are out of order, `positions` and
    `key_positions` tell where queries and keys stand in their text. Weights of two files are paired by name
    and compared within `tolerance`, by default that of their type. Raises MaskcliError for what has no common
    shape.

    >>> import numpy as np
    >>> compare(np.tril(np.ones((6, 6), bool)), "sliding:3").regions[0].meaning
    'A lets queries 3..6 see 1 to 3 earlier keys that B ignores (keys 0..3)'
    """
    pair = (operand(a, "A"), operand(b, "B"))
    weights = None if convention else _weights(*pair, tolerance)
    if weights is not None:
        _check_idle_of_weights(padding=padding, past=past, positions=positions, key_positions=key_positions)
        return Comparison(pair[0].text, pair[1].text, tensors=weights)

    said = {"convention": convention, "past": past, "positions": positions, "key_positions": key_positions}
    declared = from_said(said | {"pad_id": pad_id, "eos_id": eos_id})
    real = None if padding is None else from_array("padding", padding).read() != 0
    first, second, layout = masks_of(pair, declared, real, padding_side)
    added = biases_of(pair)
    if added is None and tolerance is not None:
        raise MaskcliError("masks are compared cell by cell, without a tolerance; leave --tolerance out")
    return Comparison(
        pair[0].text,
        pair[1].text,
        regions=regions(first, second, layout),
        masks=(first, second),
        biases=None if added is None else _biases(*added, tolerance),
        left_out=tuple(each.text for each in pair if added is None and adds_values(each)),
    )


def _check_idle_of_weights(**said: Any) -> None:
    """Refuse what speaks of masks where weights are compared."""
    idle = next((name for name, value in said.items() if value is not None), None)
    if idle is not None:
        raise MaskcliError(
            f"{idle.replace('_', ' ')} changes nothing where weights are compared; leave it out"
        )


def _biases(first: Tensor, second: Tensor, tolerance: float | None) -> Pair:
    """How far two biases are apart, where either lets a key be seen."""
    return Pair(first.name, second.name, difference(first, second, tolerance, SILENT))


def _weights(a: Operand, b: Operand, tolerance: float | None) -> tuple[Pair, ...] | None:
    """Two tensors that are no masks, or weights that two files both have; None where masks are compared."""
    if a.path is None or b.path is None:
        return None
    if a.tensor and b.tensor:
        masks = {a.tensor.role, b.tensor.role} & MASKS
        return None if masks else (_pair(a.tensor, b.tensor.tensor, tolerance),)
    if a.tensor or b.tensor:
        return None

    others = {roled.tensor.name: roled.tensor for roled in b.tensors}
    common = [roled for roled in a.tensors if roled.role == "weights" and roled.tensor.name in others]
    common.sort(key=lambda roled: (roled.kind, roled.layer or 0))
    return tuple(_pair(roled, others[roled.tensor.name], tolerance) for roled in common) or None


def _pair(first: Roled, second: Tensor, tolerance: float | None) -> Pair:
    return Pair(first.tensor.name, second.name, difference(first.tensor, second, tolerance))
