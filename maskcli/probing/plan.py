"""What a probe does: how long its texts are, how they are padded and packed, which caches are tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from maskcli.meant.facts import Declared

# Texts this long are measured key by key; of longer ones only columns at boundaries are, which a name
# needs.
EVERY_COLUMN = 128
USUAL_LENGTH = 24
# Rows of a batch: whole, two thirds and a third of the length, so that their masks differ.
ROWS = 3
SHORTEST = 6
# Every layer keeps what it is given for a text: of longer ones no memory holds that.
LONGEST = 2**15
# Slots of a static cache that stay empty.
EMPTY_SLOTS = 8

Side = Literal["none", "right", "left"]
Cached = Literal["dynamic", "static"]
Part = Literal["masks", "cache", "batch", "equivalence"]
PARTS: tuple[Part, ...] = ("masks", "cache", "batch", "equivalence")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    `declared` holds the masks that the user expects. Texts have `length` tokens; `pads` are the sides that
    shorter rows are padded on, `documents` the lengths of texts packed into one row (none: not tried), and
    `caches` those that a part of the text is read from. `every` measures all columns, or only those at
    boundaries (None: all while texts are short). `parts` are what is looked at.
    """

    declared: Declared = Declared()
    length: int = USUAL_LENGTH
    pads: tuple[Side, ...] = ("right", "left")
    documents: tuple[int, ...] = ()
    caches: tuple[Cached, ...] = ("dynamic",)
    every: bool | None = None
    parts: tuple[Part, ...] = PARTS
    seed: int = 0

    def columns(self, length: int, borders: Sequence[int]) -> tuple[int, ...] | None:
        """The keys to move in a text of some length, beside `borders`; None for all."""
        every = length <= EVERY_COLUMN if self.every is None else self.every
        if every:
            return None
        middle = length // 2
        usual = (0, 1, middle, middle + 1, length - 2, length - 1)
        near = (border + step for border in borders for step in (-1, 0, 1))
        return tuple(sorted({key for key in (*usual, *near) if 0 <= key < length}))
