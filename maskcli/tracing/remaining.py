"""What remains of a call when the cause of its leaks is taken away: a second bug is told beside the first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.diagnostics.finding import Finding
from maskcli.scene.saved_mask import read_mask
from maskcli.tensors import Roled, from_array
from maskcli.tracing.calls import KEPT_CELLS

# Rules that say how weights were made, and those of a mask that was turned around: whatever is found beside
# them may be what follows from that.
_HOW_MADE = frozenset({"MSK103", "MSK104", "MSK208", "MSK209", "MSK210", "MSK212"})
_INVERTED = frozenset({"MSK102", "MSK201"})
# A softmax of a softmax.
TWICE = "MSK212"
# Sums of rows that were computed here say nothing of the program's.
_OF_SUMS = frozenset({"MSK207"})
# What a mask of several conditions shows when it is turned around though only one of them was inverted.
_LEFT_OVER = frozenset({"MSK101", "MSK202", "MSK205", "MSK220"}) | _INVERTED
# Of numbers that a softmax was taken of, rounding leaves so much of what was 0.
_ROUNDING = 1e-5

Tensors = tuple[Roled, ...]


def with_remaining(
    findings: list[Finding], tensors: Tensors, find: Callable[[Tensors], list[Finding]]
) -> list[Finding]:
    """The findings in a call's tensors that are causes, and of the others those that remain without these.

    `find` finds what there is in other tensors.
    """
    told: list[Finding] = []
    for rules in (_HOW_MADE, _INVERTED):
        causes = frozenset(finding.code for finding in findings) & rules
        cured = _without_cause(tensors, causes) if causes else ()
        if not cured:
            continue
        told += [each for each in findings if each.code in causes or not _is_of_weights(each)]
        # No kernel made these weights: they are no product of queries and keys.
        found = find(tuple(each for each in cured if each.role in ("weights", "mask")))
        findings = [each for each in found if _is_of_weights(each) and each.code not in causes]
        if rules is _INVERTED and any(map(_is_left_over, findings)):
            findings = []
        tensors = cured
    return told + findings


def _is_left_over(finding: Finding) -> bool:
    return finding.code in _LEFT_OVER and finding.severity != "note"


def _is_of_weights(finding: Finding) -> bool:
    """Whether a finding is of a mask or of where weights fall, not of tokens, NaN or sums."""
    return finding.code.startswith(("MSK1", "MSK2")) and finding.code not in _OF_SUMS


def _without_cause(tensors: Tensors, causes: frozenset[str]) -> Tensors:
    """Weights, mask and operands of a call as they would be without what these rules accuse.

    One softmax over the keys with a mask that hides whole: softmax(S) over some keys alone is softmax(S) over
    all of them, cut to these and divided by its sum, so that no scores are needed. A mask turned around needs
    them: what it hid has no weight. None of `tensors` is changed; empty where nothing can say.
    """
    by_role = {each.role: each for each in tensors}
    made = by_role.get("weights")
    if made is None or len(made.tensor.shape) != 4 or math.prod(made.tensor.shape) > KEPT_CELLS:
        return ()

    batch, heads, queries, keys = made.tensor.shape
    shape = batch, heads, queries, keys
    keep, base = _shown(by_role.get("mask"), shape), made.tensor.read().astype(np.float64)
    if causes & _INVERTED:
        scored = _unmasked(by_role, shape)
        if scored is None or not _looks_ahead(keep):
            return ()
        keep, base = ~keep, scored
    elif TWICE in causes:
        base = _before_softmax(base)

    once = _softmax_over(keep, base).astype(np.float32)
    return (
        _replaced(made, once),
        *(_replaced(each, keep) for each in tensors if each.role == "mask"),
        *(each for each in tensors if each.role in ("query", "key")),
    )


def _replaced(roled: Roled, values: Array) -> Roled:
    return dataclasses.replace(roled, tensor=from_array(roled.tensor.name, values))


def _shown(roled: Roled | None, shape: Shape) -> Array:
    """What a mask lets attend, bool [B, H, Q, K]; all of it without one."""
    if roled is None:
        return np.ones(shape, bool)
    values = np.broadcast_to(roled.tensor.read(), shape)
    mask = read_mask(from_array(roled.tensor.name, values), shape, None, None, None).keep
    batch, heads = shape[:2]
    return np.stack([[mask.dense(item, head) for head in range(heads)] for item in range(batch)])


def _looks_ahead(keep: Array) -> bool:
    """Whether a square mask shows what is behind some query; else it is causal, and not inverted whole."""
    queries, keys = keep.shape[2:]
    return queries == keys and bool(np.triu(keep, 1).any())


def _softmax_over(keep: Array, base: Array) -> Array:
    """Rows [.., K] of `base` cut to the keys that are kept, with a sum of 1.

    Equal numbers where no weight is left: a finite fill on all keys comes to that. Keys that are kept and all
    weigh 0, by rounding, share theirs.
    """
    some = keep.any(axis=-1, keepdims=True)
    kept = np.where(keep, base, 0.0)
    empty = ~kept.any(axis=-1, keepdims=True)
    kept = np.where(empty, keep | ~some, kept)
    return np.asarray(kept / kept.sum(axis=-1, keepdims=True))


def _unmasked(by_role: dict[str | None, Roled], shape: Shape) -> Array | None:
    """exp(Q K' / sqrt(D)) [B, H, Q, K], largest 1 in each row; None without query and key of these heads."""
    if "query" not in by_role or "key" not in by_role:
        return None
    query, key = (by_role[role].tensor.read().astype(np.float64) for role in ("query", "key"))
    if query.shape[:-1] != shape[:-1] or key.shape[:-1] != (*shape[:2], shape[3]):
        return None
    scores = query @ np.swapaxes(key, -1, -2) / math.sqrt(query.shape[-1])
    return np.asarray(np.exp(scores - scores.max(axis=-1, keepdims=True)))


def _before_softmax(weights: Array) -> Array:
    """P of softmax(P) for rows [.., K] of numbers that sum to 1: log W - mean(log W) + 1/K."""
    logs = np.log(np.maximum(weights, np.finfo(np.float64).tiny))
    before = logs - logs.mean(axis=-1, keepdims=True) + 1 / weights.shape[-1]
    return np.where(before > _ROUNDING, before, 0.0)
