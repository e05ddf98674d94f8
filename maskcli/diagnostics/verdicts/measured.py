"""What a probe measured beside what was expected: the cells that differ, each with the one thing that is
wrong about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Behaviour, Seen
from maskcli.diagnostics.verdicts.called import called_by
from maskcli.diagnostics.verdicts.cells import allowed, empty_slots, extra, lacking, looked, none, pads, wide
from maskcli.masks.kinds import causal, causal_top_left, documents, padding, window
from maskcli.masks.mask import Mask
from maskcli.masks.spec import build, kinds_in, names_files, parse

# This share of the cells that leak only when they are moved far tells a fill that is too weak from no mask: a
# fill of -20 leaves half of them or more.
SOFT = 0.1
# Of the keys that nothing hides, rounding hides no more.
FAINT = 0.02
# Of the keys that should be seen, so many must be missing: rounding hides some.
LACKING = 0.05
# Kinds that say how far a query sees.
LOCAL = {"sliding", "window", "chunked", "blocks", "dilated"}


class Why(Enum):
    """What is wrong about cells."""

    SLOT = auto()  # Slots of a cache that hold no token are reached.
    PADDING = auto()  # Padding is reached.
    FUTURE = auto()  # Keys behind the query are reached.
    DOCUMENT = auto()  # Other packed documents are reached.
    BEYOND = auto()  # Keys outside of the window or chunk are reached.
    SIZE = auto()  # The window or chunk is smaller than it should be.
    UNSEEN = auto()  # Keys that should be seen are not reached.
    WEAK = auto()  # Some keys leak, others only when they are moved far.
    SOFT = auto()  # Keys are reached, but only when they are moved far.


class Cause(Enum):
    """What explains all of the cells."""

    INVERTED = auto()  # Padding is seen, and real tokens are not.
    OTHER_SAMPLE = auto()  # The padding of another sample is obeyed.
    SHIFTED = auto()  # Only the key right behind each query is too much.
    TOP_LEFT = auto()  # Row q sees keys 0..q, whatever the cache holds.
    NOT_CAUSAL = auto()  # Every query sees every token.


@dataclass(frozen=True, eq=False)
class Apart:
    """Cells of a layer in one run that are wrong for one reason, and what explains them, if anything does."""

    seen: Seen
    why: Why
    cells: Mask
    cause: Cause | None = None


# Causes that say whose padding is obeyed: a single text shows no more of the mask.
SWAPPED = (Cause.INVERTED, Cause.OTHER_SAMPLE)


class Judged(NamedTuple):
    """A behaviour, and where its layers differ from what was expected."""

    behaviour: Behaviour
    apart: tuple[Apart, ...]


def judged(behaviour: Behaviour) -> Judged:
    """A behaviour with its differences: of a layer whose mask is inverted, or another sample's, only those
    that show it, and of what is no attention the first reason alone.
    """
    apart = [each for seen in behaviour.seen for each in _differences(seen)]
    swapped = {each.seen.module for each in apart if each.cause in SWAPPED}
    mixing_rows = {seen.module for seen in behaviour.seen if seen.rows}
    kept = (
        each
        for each in apart
        if each.seen.module not in mixing_rows and (each.seen.module not in swapped or each.cause in SWAPPED)
    )
    return Judged(behaviour, tuple(_first_reasons(kept)))


def _first_reasons(apart: Iterable[Apart]) -> Iterator[Apart]:
    """All that is wrong about attention; of another module, that it mixes at all is what is wrong."""
    first: dict[str, Why] = {}
    for each in sorted(apart, key=lambda each: each.why.value):
        if each.seen.attention or first.setdefault(each.seen.module, each.why) is each.why:
            yield each


def _differences(seen: Seen) -> Iterator[Apart]:
    """All that is wrong about one layer in one run."""
    more, fewer = extra(seen), lacking(seen)
    cause = _swapped(seen) if more.attended or fewer.attended else None
    if cause is not None:
        yield Apart(seen, Why.PADDING, more | fewer, cause)
        return

    soft = (seen.soft & looked(seen)) - allowed(seen)
    if more.attended and seen.attention and soft.attended >= SOFT * (soft | more).attended:
        yield Apart(seen, Why.WEAK, more | soft)
        return
    if (more.attended or fewer.attended) and _is_top_left(seen):
        yield Apart(seen, Why.UNSEEN, more | fewer, Cause.TOP_LEFT)
        return
    # A mask that shows too much and hides too much is one mask that is wrong: the first is the worse.
    if more.attended:
        yield from _beyond(seen, more)
    elif _is_told(seen, fewer):
        yield Apart(seen, Why.SIZE if _is_smaller(seen) else Why.UNSEEN, fewer)
    elif soft.attended:
        yield Apart(seen, Why.SOFT, soft)


def _beyond(seen: Seen, more: Mask) -> Iterator[Apart]:
    """Cells beyond the expectation by reason, worst first, each cell once."""
    layout = seen.layout
    ahead = more - causal(layout) - empty_slots(seen) if _is_causal(seen) else none(seen)
    tokens = looked(seen) - pads(seen) - empty_slots(seen)
    if ahead.attended and (tokens - seen.reached).attended <= FAINT * tokens.attended:
        yield Apart(seen, Why.FUTURE, more, Cause.NOT_CAUSAL)
        return

    reasons = [(Why.SLOT, empty_slots(seen)), (Why.PADDING, pads(seen)), (Why.FUTURE, ahead)]
    if layout.documents is not None and layout.inside and not layout.cross:
        reasons.append((Why.DOCUMENT, ~documents(layout)))
    reasons.append((Why.BEYOND, more))
    for why, cells in reasons:
        part = more & cells
        if part.attended:
            shifted = why is Why.FUTURE and not (part - window(layout, 0, 1)).attended
            yield Apart(seen, why, part, Cause.SHIFTED if shifted else None)
        more = more - part


def _is_top_left(seen: Seen) -> bool:
    """Whether queries see as many keys as if the cache before them were empty."""
    looks = looked(seen)
    return seen.layout.past > 0 and seen.reached & looks == causal_top_left(seen.layout) & looks


def _is_causal(seen: Seen) -> bool:
    """Whether no query should see what is behind it."""
    if seen.expected is None or seen.layout.cross:
        return False
    return not (seen.expected.mask - causal(seen.layout)).attended


def _is_smaller(seen: Seen) -> bool:
    """Whether the measured mask is of the expected kind, with another size."""
    assert seen.expected is not None
    meant = kinds_in(parse(seen.expected.spec)) & LOCAL
    called = called_by(seen)
    return bool(meant) and not called.wrong and kinds_in(parse(called.spec)) & LOCAL == meant


def _is_told(seen: Seen, fewer: Mask) -> bool:
    """Whether keys are missing for sure: many more than rounding hides, or as by a smaller window."""
    missing = fewer.attended - seen.noise
    if missing <= 0:
        return False
    assert seen.expected is not None
    wanted = (seen.expected.mask & looked(seen)).attended
    return missing >= LACKING * wanted or _is_smaller(seen)


def _swapped(seen: Seen) -> Cause | None:
    """Whether the padding is obeyed the wrong way round, or as if samples had changed places."""
    layout = seen.layout
    told = seen.expected is None or not names_files(parse(seen.expected.spec))
    if layout.real is None or not told or not pads(seen).attended:
        return None
    real = np.broadcast_to(layout.real, (layout.batch, layout.keys))
    padded = ~real.all(axis=1)
    if _fits(seen, ~real)[padded].all():
        return Cause.INVERTED
    differs = ~_fits(seen, real)
    orders = [np.roll(real, step, axis=0) for step in range(1, layout.batch)]
    if not orders:
        return None
    fitting = np.array([_fits(seen, order) & differs for order in orders])
    # Who forgets the padding sees what the longest text may see: only the padding of a shorter one tells.
    telling = np.array([~order.all(axis=1) for order in orders]) & fitting
    explained = bool((fitting.any(axis=0) == differs).all() and telling.any())
    return Cause.OTHER_SAMPLE if explained else None


def _fits(seen: Seen, real: Array) -> Array:
    """In which samples the measured mask is the expected one under another padding [B, K], bool [B].

    A row that such a mask would leave empty says nothing: a finite fill spreads it over all keys.
    """
    layout = replace(seen.layout, real=real)
    spec = "full" if seen.expected is None else seen.expected.spec
    shape, looks = seen.reached.shape, looked(seen)
    whole = (wide(build(parse(spec), layout), shape) & padding(layout)) & looks
    told: Array = np.broadcast_to(whole.keys_per_query > 0, shape[:3])
    rows = Mask.from_intervals(shape, 0, np.where(told, shape[3], 0))
    wrong = ((seen.reached & looks) ^ whole) & rows
    apart = np.broadcast_to(wrong.keys_per_query > 0, shape[:3])
    fits: Array = np.any(told, axis=(1, 2)) & ~np.any(apart, axis=(1, 2))
    return fits
