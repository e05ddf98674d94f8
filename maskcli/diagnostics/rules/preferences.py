"""Rules on pairs of answers of which one is preferred: MSK519."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Where, items_of
from maskcli.diagnostics.rule import for_each, rule
from maskcli.scene.scene import Scene
from maskcli.scene.tokens import Tokens


class _Pair(NamedTuple):
    """Chosen and rejected texts, as many of each."""

    chosen: Tokens
    rejected: Tokens


def _pairs(scene: Scene) -> Iterator[_Pair]:
    for chosen in scene.tokens:
        for rejected in scene.rejected:
            first, second = chosen.ids, rejected.ids
            alike = first is not None and second is not None and len(first) == len(second)
            if alike and chosen.kind == rejected.kind:
                yield _Pair(chosen, rejected)


@rule("MSK519", "same-pair", "warning", needs=("input_ids", "rejected"))
@for_each(_pairs)
def same_pair(pair: _Pair, scene: Scene) -> Found | None:
    """The chosen and the rejected text of a pair are the same.

    There is nothing to prefer: the loss of such a pair has no gradient, and only takes time. Often the two
    differ behind the maximum length, where both were cut.

    In code: `max_length=512` for prompts of 600 tokens; the same answer drawn twice.

    Fix: leave such pairs out, or raise the maximum length so that the answers are left.
    """
    width = max(each.ids.shape[1] for each in pair if each.ids is not None)
    first, second = (_compact(each, width, scene) for each in pair)
    same = np.all(first == second, axis=1)
    if not same.any():
        return None
    where = Where(items_of(same))
    return Found(
        tuple(each.name("input_ids") for each in pair),
        "the chosen and the rejected text are the same in {items}",
        "leave such pairs out, or raise the maximum length, behind which they may differ",
        where,
        {"pairs": int(same.sum()), "of": len(same)},
    )


def _compact(tokens: Tokens, width: int, scene: Scene) -> Array:
    """The ids of rows without padding, one behind the other, and -1 behind the last: [B, width]."""
    ids = tokens.ids
    assert ids is not None
    known = tokens.known_real(scene.declared)
    real = np.ones(ids.shape, bool) if known is None else known
    rows = np.full((len(ids), width), -1)
    rows[np.arange(width) < real.sum(axis=1)[:, None]] = ids[real]
    return rows
