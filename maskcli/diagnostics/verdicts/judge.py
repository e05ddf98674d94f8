"""Which cause explains a map of weights: the judgement behind the rules on where weights fall, once a map."""

from __future__ import annotations

import numpy as np

from maskcli.diagnostics.verdicts.causes import double_softmax, empty_slots, inverted, other_sample, uniform
from maskcli.diagnostics.verdicts.leaks import AGREE, find_leaks, not_exact, of_leaks
from maskcli.diagnostics.verdicts.verdict import Kind, Verdict
from maskcli.scene.scene import Attention, Scene, once
from maskcli.tensors.tolerances import has_digits


@once
def judge(attention: Attention) -> list[Verdict]:
    """The verdicts on one map: at most one, or padding and future together when no saved mask covers both."""
    whole = double_softmax(attention) or empty_slots(attention)
    if whole is not None:
        return [whole]

    leaking = find_leaks(attention)
    empty = attention.real & attention.looks_empty
    if not (leaking.some or leaking.in_any_head.any() or empty.any()):
        return not_exact(attention)

    cause = inverted(attention) or uniform(attention, leaking) or other_sample(attention, leaking.in_any_head)
    if cause is not None:
        return [cause]
    return of_leaks(attention, leaking) or not_exact(attention)


def verdicts(scene: Scene, kind: Kind) -> list[tuple[Attention, Verdict]]:
    """The maps of a scene with a verdict of this kind; undeclared ones unless other layers contradict."""
    return [
        (attention, verdict)
        for attention in scene.attentions
        for verdict in judge(attention)
        if verdict.kind is kind and (_hidden_too(attention, verdict) or _believed(scene, attention, kind))
    ]


def _hidden_too(attention: Attention, verdict: Verdict) -> bool:
    """Whether rows weigh forbidden keys just as the others: no scores are that close by chance."""
    if verdict.kind is not Kind.UNIFORM or attention.meant is None:
        return False
    forbidding = attention.rows(attention.meant.keys_per_query < attention.shape[3]) & verdict.rows
    return bool(forbidding.any() and attention.uniform[verdict.rows].all())


def _believed(scene: Scene, attention: Attention, kind: Kind) -> bool:
    """Whether one map is enough, or nearly all of its kind that can be checked are sick too, of whatever.

    What was declared is checked layer by layer, and equal scores are no accident where there are digits.
    """
    even = kind is Kind.UNIFORM
    alone = has_digits(attention.tensor.dtype) if even else attention.expected is not None
    if alone:
        return True
    family = [other for other in scene.attentions if _family(other) == _family(attention)]
    peers = [other for other in family if even or _can_be_checked(other)]
    return sum(1 for other in family if judge(other)) >= AGREE * max(len(peers), 1)


def _family(attention: Attention) -> tuple[str, object]:
    return attention.roled.kind, attention.roled.group


def _can_be_checked(attention: Attention) -> bool:
    return attention.meant is not None and bool(np.isfinite(attention.measured.total).any())
