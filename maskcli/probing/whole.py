"""The outputs of whole runs, and how far two of them are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Compared
from maskcli.probing.activations import Batch, leaves_of, states_of
from maskcli.probing.runs import Run
from maskcli.probing.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor

# Places that are told of those that differ.
TOLD_CELLS = 8
# Tests that tell of padding.
PADDED = ("X2", "T2", "T3")


def outputs_of(subject: Subject, run: Run, changed: dict[str, Any] | None = None) -> Tensor:
    """What the model answers, as [B, S, D]; of a model that answers each text as a whole, S is 1."""
    return outputs_in(run.answer(subject, changed), run.batch, subject.by_text)[0]


def outputs_in(answer: Any, batch: Batch, by_text: bool = False) -> list[Tensor]:
    """Hidden states or logits [B, S, D]; else scores of tokens [B, S], or of whole texts [B, D] or [B].

    With `by_text` [B, S] is taken for the latter.
    """
    rows = (each for each in tensors_of(answer) if each.dim() in (1, 2) and len(each) == batch.rows)
    return states_of(answer, batch) or [
        each[..., None]
        if not by_text and each.dim() == 2 and each.shape[1] in batch.lengths
        else each.reshape(batch.rows, 1, -1)
        for each in rows
    ]


def tensors_of(answer: Any) -> list[Tensor]:
    """The tensors of numbers in an answer."""
    import torch

    plain = dict(answer) if hasattr(answer, "keys") else answer
    return [each for each in leaves_of(plain)[0] if torch.is_tensor(each) and each.is_floating_point()]


def by_token(run: Run, outputs: Tensor) -> bool:
    """Whether outputs [B, S, D] are those of the tokens that were given."""
    return outputs.shape[1] == run.length(run.content[-1])


def real_outputs(run: Run, outputs: Tensor) -> Array:
    """The outputs [B, S] that are those of tokens."""
    shape = tuple(outputs.shape[:2])
    return run.real if run.real is not None and run.real.shape == shape else np.ones(shape, bool)


def of_either_side(several: list[Compared]) -> tuple[list[Compared], str]:
    """Comparisons of a model that answers each text as a whole, without those of a side to pad on that it is
    not made for, and what to say of these.

    Who reads the first or the last place of a text reads padding on one side; a mean over padding differs on
    both.
    """
    padded = [each for each in several if each.test in PADDED]
    differing = {each.setting for each in padded if not each.agrees}
    agreeing = {each.setting for each in padded} - differing
    if not differing or not agreeing:
        return several, ""
    (wrong, *_), (right, *_) = sorted(differing), sorted(agreeing)
    kept = [each for each in several if each.agrees or each not in padded]
    return kept, f"with {wrong} the answer for a text is read from its padding, with {right} it is not"


def compared(test: str, what: str, setting: str, gap: Array, limit: float) -> Compared:
    """A comparison of the differences [B, S]; NaN on one side alone is infinitely far."""
    gap = np.nan_to_num(gap, nan=np.inf)
    places = np.argwhere(gap > limit)[:TOLD_CELLS]
    cells = tuple((int(row), int(at)) for row, at in places)
    return Compared(test, what, setting, float(gap.max(initial=0.0)), limit, cells)
