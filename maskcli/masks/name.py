"""What a mask is called, and how far its name is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask


@dataclass(frozen=True, eq=False)
class Name:
    """What a mask is called.

    `spec` rebuilds it over `layout` when `exact`; else it is the nearest name, wrong in the cells of `extra`
    (the name attends, the mask does not) and `missing`. `aliases` are other names that mean the same at this
    length. `layout` holds the padding that the mask shows (None when it shows none).
    """

    spec: str
    exact: bool
    layout: Layout
    aliases: tuple[str, ...]
    extra: Mask | None = None
    missing: Mask | None = None

    @property
    def padding(self) -> tuple[tuple[int, int, int], ...]:
        """Padding tokens of each item: left, right, and in holes; empty when the mask shows none."""
        if self.layout.real is None or "padding" not in self.spec:
            return ()
        return tuple(_padding_of(row) for row in self.layout.real)

    @property
    def cells(self) -> int:
        """B*H*Q*K."""
        return math.prod(self.layout.shape)

    @property
    def wrong(self) -> int:
        """Cells in which the name and the mask differ."""
        return (self.extra.attended if self.extra else 0) + (self.missing.attended if self.missing else 0)


def _padding_of(real: Array) -> tuple[int, int, int]:
    """How many padding tokens stand left, right and in holes of a row, bool [K]."""
    kept = np.flatnonzero(real)
    if not kept.size:
        return 0, len(real), 0
    left, right = int(kept[0]), int(len(real) - 1 - kept[-1])
    return left, right, int(len(real) - kept.size - left - right)
