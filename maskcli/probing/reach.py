"""Reach: how far a token gets through the whole model, derived from the masks of its layers and measured.

With residuals around them, layers M1 to Ml let query q be reached by key k when (Ml | I) … (M1 | I) does.
The measured one is a lower bound: what a deep model passes on becomes smaller than its rounding. More than
the layers allow would be a way that was not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Reach, Seen
from maskcli.masks.mask import Mask
from maskcli.masks.naming import name_of
from maskcli.probing.activations import difference, noise_of
from maskcli.probing.plan import Plan
from maskcli.probing.runs import Run
from maskcli.probing.subject import Subject
from maskcli.probing.whole import outputs_of

# Texts longer than this are not composed: [S, S] for every row and layer.
MOST_TOKENS = 512
# Tokens of each row that are moved, a run for each.
TURNS = 3


def compose(masks: Sequence[Array]) -> Array:
    """Whom queries reach through layers one behind another, with residuals: bool [B, S, S]."""
    size = masks[0].shape[-1]
    eye = np.eye(size, dtype=bool)
    reach = np.broadcast_to(eye, masks[0].shape)
    for mask in masks:
        reach = (mask | eye).astype(np.float32) @ reach.astype(np.float32) > 0
    return reach


def reach_of(subject: Subject, plan: Plan, run: Run, seen: Sequence[Seen]) -> Reach | None:
    """The reach of a run whose layers were measured; None where they are no chain over one text."""
    size = run.length()
    layers = [each for each in seen if each.setting == run.setting]
    whole = layers and all(each.keys == "self" and each.layout.shape[2:] == (size, size) for each in layers)
    if not whole or subject.encodes or size > MOST_TOKENS or any(each.columns is not None for each in layers):
        return None
    derived = compose([_dense(each.reached | each.soft) for each in layers])
    base = outputs_of(subject, run)
    if base.shape[1] != size:
        return None
    real = run.real if run.real is not None else np.ones((run.rows, size), bool)
    more = fewer = 0
    for cells in _one_a_row(real):
        new = outputs_of(subject, run, run.moved(subject, cells))
        gap = difference(new, base).cpu().numpy()
        expected = (derived & cells[:, None]).any(-1)
        more += int(((gap > noise_of(base)) & ~expected & real).sum())
        fewer += int(((gap == 0) & expected & real).sum())
    return Reach(_name(derived, run), more, fewer)


def _one_a_row(real: Array) -> Iterator[Array]:
    """Cells [B, S] to move, one token of each row: the first, one in the middle and the last, in turns."""
    counts = real.sum(axis=1)
    for turn in range(TURNS):
        cells = np.zeros(real.shape, bool)
        for row, count in enumerate(counts):
            if not count:
                continue
            at = int(count - 1) * ((row + turn) % TURNS) // (TURNS - 1)
            cells[row, np.flatnonzero(real[row])[at]] = True
        yield cells


def _dense(mask: Mask) -> Array:
    return np.stack([mask.dense(item, 0, (0, mask.shape[2])) for item in range(mask.shape[0])])


def _name(derived: Array, run: Run) -> str:
    """What the composed mask of the longest text is called."""
    real = run.real if run.real is not None else np.ones(derived.shape[:2], bool)
    row = int(real.sum(axis=1).argmax())
    kept = np.flatnonzero(real[row])
    name = name_of(Mask.from_dense(derived[row][np.ix_(kept, kept)][None, None]))
    return name.spec if name.exact else f"nearly {name.spec}"
