"""Calls that wait until their step has told all of the tokens."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import NamedTuple

from maskcli.meant.facts import Declared
from maskcli.tensors import Roled
from maskcli.tracing.added import mask_behind, tokens_behind
from maskcli.tracing.calls import Place, Torch
from maskcli.tracing.steps import Step, sides


class Shown(NamedTuple):
    """What a place in the program shows: tensors of attention, and what is said of the tokens."""

    place: Place
    tensors: tuple[Roled, ...]
    tokens: tuple[Roled, ...]


class Waiting(NamedTuple):
    """A call that is looked at when its step has told all: what it showed, whether to check and save it.

    `added` of its keys, the first, are no tokens.
    """

    step: Step
    place: Place
    tensors: tuple[Roled, ...]
    padding: Torch | None
    past: int | None
    like: Hashable
    signature: Hashable
    twice: bool
    added: int
    due: bool
    saved: bool

    @property
    def size(self) -> int:
        """Elements of its tensors."""
        return sum(math.prod(roled.tensor.shape) for roled in self.tensors)

    def shown(self, options: Declared) -> Shown:
        """What it shows."""
        tokens = self._tokens()
        if self.added:
            tokens = tokens_behind(self.added, tokens, sides(self.place.kind), self.step.declared(options))
        return Shown(self.place, self.tensors, tokens)

    def masks_alone(self) -> Shown:
        """Its masks over the keys of the tokens."""
        masks = (roled for roled in self.tensors if roled.role == "mask")
        return Shown(self.place, tuple(mask_behind(self.added, mask) for mask in masks), self._tokens())

    def _tokens(self) -> tuple[Roled, ...]:
        keys = self.tensors[0].tensor.shape[-1] - self.added
        return self.step.roled(self.place.kind, self.padding, keys)
