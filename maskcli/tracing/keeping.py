"""Calls in which something was found first, copied for what draws them when the program has ended."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from maskcli.meant.facts import Declared
from maskcli.tensors import Tensor
from maskcli.tensors.storage import InMemory, Refused
from maskcli.tracing.calls import quietly
from maskcli.tracing.results import Kept, Options
from maskcli.tracing.waiting import Shown

# Elements that are kept of all calls together: 64 MiB of float32.
MOST = 2**24
# What scores and values are made of is not drawn.
LEFT_OUT = ("query", "key", "value", "output")


class Keeping:
    """Calls by step and module, as long as there is room; none where nobody draws them."""

    def __init__(self, options: Options) -> None:
        self._options, self._room = options, MOST if options.draws else 0
        self._calls: dict[tuple[int, str], Kept] = {}

    def keep(self, shown: Shown, declared: Declared) -> None:
        """Something new was found in a call."""
        at = (shown.place.step, shown.place.module)
        tensors = [each for each in (*shown.tensors, *shown.tokens) if each.role not in LEFT_OUT]
        size = sum(math.prod(each.tensor.shape) for each in tensors)
        if at in self._calls or size > self._room:
            return
        self._room -= size
        with quietly():
            copies = tuple(dataclasses.replace(each, tensor=_copied(each.tensor)) for each in tensors)
        self._calls[at] = Kept(shown.place.step, copies, declared, self._options.token)

    def calls(self) -> tuple[Kept, ...]:
        """All so far."""
        return tuple(self._calls.values())


def _copied(tensor: Tensor) -> Tensor:
    """The same, whatever the program does with its memory."""
    if isinstance(tensor.storage, Refused):
        return tensor
    array = np.array(tensor.storage.gather(tuple(map(range, tensor.shape))))
    return dataclasses.replace(tensor, storage=InMemory(lambda: array))
