"""Which axis of given arguments is the sequence: [B, S, D], or [S, B, D] as torch's modules usually take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maskcli.probing.activations import difference, noise_of
from maskcli.probing.runs import Run, UnmeasuredError, is_content
from maskcli.probing.subject import Subject
from maskcli.probing.whole import tensors_of


def with_axes(subject: Subject) -> Subject:
    """The subject, told which axis of what it is given is the sequence."""
    if subject.sequence_first is not None:
        return subject
    return replace(subject, sequence_first=_is_sequence_first(subject))


def _is_sequence_first(subject: Subject) -> bool:
    """Whether the second axis is the batch: sources and targets only agree in that one, or only what stands
    along the first one changes each other.
    """
    given = {name: value for name, value in (subject.given or {}).items() if is_content(name, value)}
    firsts, seconds = ({value.shape[axis] for value in given.values()} for axis in (0, 1))
    if len(firsts) > 1:
        return len(seconds) == 1
    run = Run("as given", dict(subject.given or {}), tuple(given))
    try:
        return bool(given) and _mixes(subject, run, 0) and not _mixes(subject, run, 1)
    except UnmeasuredError:
        return False


def _mixes(subject: Subject, run: Run, axis: int) -> bool:
    """Whether what stands first along an axis changes outputs further along."""
    sizes = tuple(run.arguments[run.content[0]].shape[:2])
    cells = np.zeros(sizes, bool)
    np.moveaxis(cells, axis, 0)[0] = True
    base, new = (
        [each for each in tensors_of(answer) if each.dim() == 3 and tuple(each.shape[:2]) == sizes]
        for answer in (run.answer(subject), run.answer(subject, run.moved(subject, cells)))
    )
    if not base:
        # Nothing is known of answers of another shape: they are taken as usual.
        return True
    changed = (difference(new[0], base[0]) > noise_of(base[0])).cpu().numpy()
    return bool((changed & ~cells).any())
