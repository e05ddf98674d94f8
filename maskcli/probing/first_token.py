"""How far the first token of a text reaches through a server's model, beside the layers that are expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Compared, Reach
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.naming import name_of
from maskcli.masks.spec import build, parse, tensors_in
from maskcli.probing.blackbox import Case, Noise, accusing, first_changed, largest
from maskcli.probing.reach import MOST_TOKENS, compose

# Requests of one shape give the same bits: what moves less adds in another order.
MOVED = 1e-4
TOLD_PLACES = 8


class Reached(NamedTuple):
    """The reach of the first token: a comparison, or why there is none; `notes` say what it leaves open."""

    compared: tuple[Compared, ...] = ()
    reach: Reach | None = None
    unmeasured: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def reached(case: Case, noise: Noise, layers: Sequence[str | None], told: str) -> Reached:
    """Change the first token, and see which log-probs move; `told` says who expects the `layers`."""
    limit = noise.limit(MOVED)
    gaps = first_changed(case)
    if largest(gaps) <= limit:
        deaf = "the first token changes no log-prob: the server cuts it off, or answers without its model"
        return Reached(unmeasured=(deaf,))

    specs = [spec for spec in layers if spec is not None and not tensors_in(parse(spec))]
    if not specs or len(specs) < len(layers):
        last = int(np.flatnonzero(gaps > limit)[-1])
        what = f"log-probs behind place {last} of {len(gaps) - 1}, the last one that the first token moves"
        return Reached((Compared("S-reach", what, "alone", largest(gaps[last + 1 :]), limit),))

    size = len(gaps)
    # The log-prob of a token is what the query before it says.
    allowed = np.concatenate([[True], reaching_first(specs, size)[:-1]])
    fewer = int((allowed[1:] & (gaps[1:] <= limit)).sum())
    if allowed.all():
        wide = f"by {told} the first token reaches all {size} tokens: windows show in texts longer than that"
        return Reached((), _named(specs, size, fewer), notes=(wide,) if set(specs) - {"causal"} else ())

    def beyond() -> Array:
        return np.where(allowed, 0, first_changed(case))

    wrong = accusing(beyond, limit, np.where(allowed, 0, gaps))
    last = int(np.flatnonzero(allowed)[-1])
    what = f"log-probs behind place {last}, up to which {told} lets the first token reach"
    places = np.flatnonzero(wrong > limit)
    cells = tuple((0, int(at)) for at in places[:TOLD_PLACES])
    found = Compared("S-window", what, "alone", largest(wrong), limit, cells)
    return Reached((found,), _named(specs, size, fewer) if found.agrees else None)


def reaching_first(specs: Sequence[str], length: int) -> Array:
    """Which queries the first key reaches through layers with these masks and residuals, bool [Q].

    >>> reaching_first(["sliding:5", "sliding:5"], 32).nonzero()[0].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """
    masks = _masks(specs, length)
    reached: Array = np.arange(length) == 0
    for spec in specs:
        reached = reached | (masks[spec] & reached).any(axis=1)
    return reached


def _named(specs: Sequence[str], length: int, fewer: int) -> Reach | None:
    """The reach of all layers by its name; None for texts that are too long to compose."""
    if length > MOST_TOKENS:
        return None
    masks = _masks(specs, length)
    reach = compose([masks[spec][None] for spec in specs])
    return Reach(name_of(Mask.from_dense(reach[None])).spec, 0, fewer)


def _masks(specs: Sequence[str], length: int) -> dict[str, Array]:
    layout = Layout(1, length, length)
    return {spec: build(parse(spec), layout).dense() for spec in dict.fromkeys(specs)}
