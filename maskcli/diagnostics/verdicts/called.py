"""What a measured mask is called: as expected, by its longest text, or by the columns that were measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Expected, Seen
from maskcli.diagnostics.verdicts.cells import asking, extra, lacking, looked, pads
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Named, build, conjuncts, joined, parse, write


class Called(NamedTuple):
    """What a measured mask is called, and how many cells of its longest text that gets wrong."""

    spec: str
    wrong: int = 0

    def __str__(self) -> str:
        """The name, with a sign when it is only near."""
        return self.spec if not self.wrong else f"~ {self.spec}"


def called_by(seen: Seen) -> Called:
    """The name of a measured mask: the expected one where it says all, else that of its longest text."""
    if seen.expected is not None and not _wrong(seen).attended and seen.expected.whole:
        return Called(meant_by(seen.expected, seen))
    guessed = _nearest_guess(seen) if seen.columns is not None or seen.keys == "cache" else None
    if guessed is not None and (seen.columns is not None or not guessed.wrong):
        return guessed
    from maskcli.masks.naming import name_of

    part, past = longest(seen)
    name = name_of(part, past)
    hides = bool(pads(seen).attended)
    hides = hides and not (seen.reached & looked(seen) & pads(seen)).attended
    spec = "padding" if hides and name.spec == "full" else f"{name.spec}{' & padding' if hides else ''}"
    return Called(spec, name.wrong)


def meant_by(expected: Expected, seen: Seen) -> str:
    """The spec of an expected mask; empty slots of a cache go without saying."""
    return bare(expected.spec, ("padding",)) if seen.keys == "cache" else expected.spec


def bare(spec: str, kinds: Sequence[str] = ("padding", "documents")) -> str:
    """A spec without what depends on the batch."""
    parts = conjuncts(parse(spec))
    kept = [part for part in parts if not (isinstance(part, Named) and part.name in kinds)]
    return write(joined(kept)) if kept else "full"


def longest(seen: Seen) -> tuple[Mask, int]:
    """The mask [1, 1, q, k] of the text with the most tokens, without its padding, and where it begins.

    A query's own key is seen: nothing could tell that it is not.
    """
    layout = seen.layout
    every = np.ones((1, layout.keys), bool) if layout.real is None else layout.real
    real: Array = np.broadcast_to(every, (layout.batch, layout.keys))
    item = int(real.sum(axis=1).argmax())
    tokens, queries = np.flatnonzero(real[item]), np.flatnonzero(asking(layout)[item])
    own = layout.own[:, None]
    whole = seen.reached
    if not layout.cross:
        whole = whole | Mask.from_intervals(whole.shape, own, own + 1)
    keys = slice(int(tokens[0]), int(tokens[-1]) + 1)
    rows = slice(int(queries[0]), int(queries[-1]) + 1)
    part = whole.select(batch=slice(item, item + 1), rows=rows, keys=keys)
    return part, layout.past + rows.start - keys.start if not layout.cross else 0


def _wrong(seen: Seen) -> Mask:
    return extra(seen) | lacking(seen)


def _nearest_guess(seen: Seen) -> Called:
    """The usual mask that agrees best with the measured columns, or with a few queries."""
    looks = looked(seen)
    told = seen.reached & looks
    tried = []
    for spec in _guesses(seen):
        wrong = ((build(parse(spec), seen.layout) & looks) ^ told).attended
        tried.append(Called(spec, wrong))
    return min(tried, key=lambda called: called.wrong)


def _guesses(seen: Seen) -> Iterator[str]:
    """Kinds of the sizes that columns show: how far keys are seen from, ahead and behind."""
    tail = " & padding" if pads(seen).attended else ""
    yield from (f"{kind}{tail}" for kind in ("causal", "full"))
    back, ahead = _extent(seen)
    yield f"sliding:{back + 1}{tail}"
    yield f"causal-top-left{tail}"
    yield f"window:{back},{ahead}{tail}"
    yield from (f"causal & chunked:{size}{tail}" for size in (back + 1, back + 2))


def _extent(seen: Seen) -> tuple[int, int]:
    """The farthest that a query sees back, and ahead."""
    told = seen.reached & looked(seen)
    positions = np.broadcast_to(seen.layout.positions, told.shape[:3])
    whole = told.expand(told.shape[:3])
    at = positions.reshape(-1)[whole.row_of_run()]
    if not at.size:
        return 0, 0
    return int(max((at - whole.starts).max(), 0)), int(max((whole.stops - 1 - at).max(), 0))
