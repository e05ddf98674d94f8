"""How what happens again and again has ended: after two times alike, only one of many is looked at."""

from __future__ import annotations

from dataclasses import dataclass

# After so many times alike in a row, one of so many is looked at.
ALIKE, SAMPLED = 2, 32


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
        self.alike = self.alike + 1 if outcome == self.outcome else 1
        self.outcome = outcome
