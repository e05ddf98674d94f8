"""How what happens again and again has ended: after two times alike, only one of many is looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

# After so many times alike in a row, one of so many is looked at.
ALIKE, SAMPLED = 2, 64


@dataclass(eq=False)
class Habit:
    """How often something happened, how it ended when last looked at, and how often in a row like that."""

    times: int = 0
    outcome: object = None
    alike: int = 0

    def due(self) -> bool:
        """Whether to look at it, now that it happens once more."""
        self.times += 1
        return self.alike < ALIKE or self.times % SAMPLED == 0

    def ended(self, outcome: object) -> None:
        """It was looked at and ended so."""
        self.times = max(self.times, 1)
        self.alike = self.alike + 1 if outcome == self.outcome else 1
        self.outcome = outcome


class Habits:
    """Habits of many places that are like each other, such as the layers of a model.

    Each place is looked at once; then it is enough that it, or those like it, ended alike two times in a row.
    """

    def __init__(self) -> None:
        self._at: defaultdict[Hashable, Habit] = defaultdict(Habit)

    def due(self, place: Hashable, like: Hashable) -> bool:
        """Whether to look at what happens in a place."""
        habit = self._at[place, like]
        first = not habit.times
        due = habit.due()
        return first or (due and (self._at[like].alike < ALIKE or habit.times % SAMPLED == 0))

    def ended(self, place: Hashable, like: Hashable, outcome: object) -> None:
        """It was looked at and ended so."""
        self._at[place, like].ended(outcome)
        self._at[like].ended(outcome)
