"""The outputs of whole runs, and how far two of them are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Compared
from maskcli.probing.activations import states_of
from maskcli.probing.runs import Run
from maskcli.probing.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor

# Places that are told of those that differ.
TOLD_CELLS = 8


def outputs_of(subject: Subject, run: Run, changed: dict[str, Any] | None = None) -> Tensor:
    """The last hidden states or logits [B, S, D]."""
    return states_of(run.answer(subject, changed), run.batch)[0]


def real_outputs(run: Run, outputs: Tensor) -> Array:
    """The outputs [B, S] that are those of tokens."""
    shape = tuple(outputs.shape[:2])
    return run.real if run.real is not None and run.real.shape == shape else np.ones(shape, bool)


def compared(test: str, what: str, setting: str, gap: Array, limit: float) -> Compared:
    """A comparison of the differences [B, S]; NaN on one side alone is infinitely far."""
    gap = np.nan_to_num(gap, nan=np.inf)
    places = np.argwhere(gap > limit)[:TOLD_CELLS]
    cells = tuple((int(row), int(at)) for row, at in places)
    return Compared(test, what, setting, float(gap.max(initial=0.0)), limit, cells)
