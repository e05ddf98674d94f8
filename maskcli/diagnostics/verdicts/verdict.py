"""What can explain a map of weights that disobeys its mask: kinds of verdicts, and what each says besides."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, NamedTuple

from maskcli.arrays import Array, Rows
from maskcli.masks.mask import Mask

# Above this share of a row an ignored key is attended; below the floor it is rounding. A guard against 0 / 0.
LEAK, LEAK_FLOOR, TINY = 1e-3, 1e-6, 1e-30
# It is also attended above this share of what an even spread would give it, where that is less than LEAK.
LEAK_OF_EVEN = 0.1
# One row that gives ignored keys this much leaks, however many others do not.
HEAVY = 0.02
# Rows of fewer keys than this look like a softmax of a softmax, or constant, whatever they are.
FEW_KEYS = 3


class Kind(Enum):
    """What explains a map."""

    DOUBLE_SOFTMAX = auto()  # Every row is the softmax of a softmax.
    EMPTY_SLOTS = auto()  # Empty slots of a cache are weighed; int: how many keys stand before them.
    INVERTED = auto()  # The opposite of a mask is obeyed; Inverted.
    UNIFORM = auto()  # Every row weighs its keys the same.
    OTHER_SAMPLE = auto()  # The padding of other samples is obeyed; str: in which order.
    ADDED = auto()  # The saved mask of 0 and 1 was added to the scores.
    OTHER_SIDE = auto()  # Cross-attention does not use its source's padding; bool: it fits the target's.
    SOFT = auto()  # The mask only softens; Softened.
    PADDING = auto()  # Padding is attended to.
    FUTURE = auto()  # Keys behind the query are attended to.
    SHIFTED = auto()  # The key right behind each query is attended to, and none further on.
    WINDOW = auto()  # The declared window was not kept; int: over how many keys rows look back at most.
    DOCUMENTS = auto()  # Other packed documents are attended to.
    NOT_APPLIED = auto()  # Forbidden cells are weighed; str: what is obeyed instead, or EXACTLY.


# Said of weights that are only not exactly 0, with --exact.
EXACTLY = "exactly 0"


class Inverted(NamedTuple):
    """What was inverted, the mass on keys that it ignores, and what that would be under the inverse."""

    what: str
    violation: float
    inverse_violation: float


class Softened(NamedTuple):
    """A number that says how much a mask softens, and which number that is."""

    measure: Literal["implied_bias", "constant_weight", "ratio", "fill"]
    size: float


@dataclass(frozen=True, eq=False)
class Verdict:
    """What explains a map: `rows` [B, H, Q] show it, `share` [B, H, Q] is their mass on ignored keys.

    `ignored` is the mask of keys that they should have ignored, `extra` what its kind says besides.
    """

    kind: Kind
    rows: Rows
    share: Array
    ignored: Mask | None = None
    extra: Inverted | Softened | str | int | None = None
