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
from maskcli.masks.kinds import causal, causal_top_left, documents, padding, window
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import build, kinds_in, names_files, parse

# This share of the cells that leak only when they are moved far tells a fill that is too weak from no mask: a
# fill of -20 leaves half of them or more.
SOFT = 0.1
# Of the keys that should be seen, so many must be missing: rounding hides some.
LACKING = 0.05
# Kinds that say how far a query sees.
LOCAL = {"sliding", "window", "chunked", "blocks", "dilated"}


class Why(Enum):
    """What is wrong about cells."""

    PADDING = auto()  # Padding is reached.
    SLOT = auto()  # Slots of a cache that hold no token are reached.
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


class Judged(NamedTuple):
    """A behaviour, and where its layers differ from what was expected."""

    behaviour: Behaviour
    apart: tuple[Apart, ...]


def judged(behaviour: Behaviour) -> Judged:
    """A behaviour with its differences: of a layer whose mask is inverted, or another sample's, only those
    that show it, and of what is no attention the first reason alone.
    """
    apart = [each for seen in behaviour.seen for each in _differences(seen)]
    swapped = {each.seen.module for each in apart if each.cause in (Cause.INVERTED, Cause.OTHER_SAMPLE)}
    mixing_rows = {seen.module for seen in behaviour.seen if seen.rows}
    kept = (
        each
        for each in apart
        if each.seen.module not in mixing_rows
        and (each.seen.module not in swapped or each.cause in (Cause.INVERTED, Cause.OTHER_SAMPLE))
    )
    return Judged(behaviour, tuple(_first_reasons(kept)))


def _first_reasons(apart: Iterable[Apart]) -> Iterator[Apart]:
    """All that is wrong about attention; of another module, that it mixes at all is what is wrong."""
    first: dict[str, Why] = {}
    for each in sorted(apart, key=lambda each: each.why.value):
        if each.seen.attention or first.setdefault(each.seen.module, each.why) is each.why:
            yield each


# Cells


def looked(seen: Seen) -> Mask:
    """Cells [B, 1, Q, K] that say something: measured keys of real queries, but for each query's own."""
    shape, layout = seen.reached.shape, seen.layout
    rows = Mask.from_intervals(shape, 0, np.where(asking(layout)[:, None], shape[3], 0))
    own = layout.own[:, None]
    cells = rows - Mask.from_intervals(shape, own, own + 1)
    if seen.columns is None:
        return cells
    measured = np.zeros((1, 1, 1, shape[3]), bool)
    measured[..., list(seen.columns)] = True
    return cells & _wide(Mask.from_dense(measured), shape)


def asking(layout: Layout) -> Array:
    """Which queries are real tokens, bool [B, Q]; of cross-attention, whose keys are others', all."""
    if layout.real is None or layout.cross:
        return np.ones((layout.batch, layout.queries), bool)
    real = np.broadcast_to(layout.real, (layout.batch, layout.keys))
    own = np.broadcast_to(layout.own, (layout.batch, layout.queries))
    asks: Array = np.take_along_axis(real, np.maximum(own, 0), axis=1) | (own < 0)
    return asks


def extra(seen: Seen) -> Mask:
    """Cells that are reached and should not be; without an expectation, padding and empty slots."""
    return (seen.reached & looked(seen)) - allowed(seen)


def lacking(seen: Seen) -> Mask:
    """Cells that should be reached and are not, at no size of the move."""
    if seen.expected is None or not seen.expected.whole:
        return _none(seen)
    return (seen.expected.mask & looked(seen)) - (seen.reached | seen.soft)


def allowed(seen: Seen) -> Mask:
    """Cells that may be reached; where nothing was expected, all tokens that are there."""
    if seen.expected is not None:
        return seen.expected.mask
    whole = Mask.full(seen.reached.shape)
    return whole - _pads(seen) - _empty_slots(seen)


def _pads(seen: Seen) -> Mask:
    """Keys that are padding."""
    if seen.layout.real is None:
        return _none(seen)
    return _wide(~padding(seen.layout), seen.reached.shape)


def _empty_slots(seen: Seen) -> Mask:
    """Slots of a cache behind the last token."""
    if seen.keys != "cache":
        return _none(seen)
    filled = seen.layout.past + seen.layout.queries
    return Mask.from_intervals(seen.reached.shape, filled, seen.reached.shape[3])


def _none(seen: Seen) -> Mask:
    return Mask.from_intervals(seen.reached.shape, 0, 0)


def _wide(mask: Mask, shape: tuple[int, int, int, int]) -> Mask:
    wide = mask.broadcast_to(shape)
    assert wide is not None
    return wide


# Reasons


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
    # A mask that shows too much and hides too much is one mask that is wrong: the first is the worse.
    if more.attended:
        yield from _beyond(seen, more)
    elif _is_told(seen, fewer):
        yield _too_few(seen, fewer)
    elif soft.attended:
        yield Apart(seen, Why.SOFT, soft)


def _beyond(seen: Seen, more: Mask) -> Iterator[Apart]:
    """Cells beyond the expectation by reason, worst first, each cell once."""
    layout = seen.layout
    ahead = more - causal(layout) - _empty_slots(seen) if _is_causal(seen) else _none(seen)
    hidden = looked(seen) - seen.reached - _pads(seen) - _empty_slots(seen)
    if ahead.attended and not hidden.attended:
        yield Apart(seen, Why.FUTURE, more, Cause.NOT_CAUSAL)
        return

    reasons = [(Why.PADDING, _pads(seen)), (Why.SLOT, _empty_slots(seen)), (Why.FUTURE, ahead)]
    if layout.documents is not None and layout.inside and not layout.cross:
        reasons.append((Why.DOCUMENT, ~documents(layout)))
    reasons.append((Why.BEYOND, more))
    for why, cells in reasons:
        part = more & cells
        if part.attended:
            shifted = why is Why.FUTURE and not (part - window(layout, 0, 1)).attended
            yield Apart(seen, why, part, Cause.SHIFTED if shifted else None)
        more = more - part


def _too_few(seen: Seen, fewer: Mask) -> Apart:
    """Keys that are not reached: by a mask that forgets the cache, a smaller window, or anything else."""
    told = seen.reached & looked(seen)
    if seen.layout.past and told == causal_top_left(seen.layout) & looked(seen):
        return Apart(seen, Why.UNSEEN, fewer, Cause.TOP_LEFT)
    return Apart(seen, Why.SIZE if _is_smaller(seen) else Why.UNSEEN, fewer)


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
    """Whether keys are missing for sure: more than rounding hides, and many, or as by a smaller window."""
    if fewer.attended <= seen.noise:
        return False
    assert seen.expected is not None
    wanted = (seen.expected.mask & looked(seen)).attended
    return fewer.attended >= LACKING * wanted or _is_smaller(seen)


def _swapped(seen: Seen) -> Cause | None:
    """Whether the padding is obeyed the wrong way round, or as if samples had changed places."""
    layout = seen.layout
    told = seen.expected is None or not names_files(parse(seen.expected.spec))
    if layout.real is None or layout.real.all() or not told:
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
    whole = (_wide(build(parse(spec), layout), shape) & padding(layout)) & looks
    told: Array = np.broadcast_to(whole.keys_per_query > 0, shape[:3])
    rows = Mask.from_intervals(shape, 0, np.where(told, shape[3], 0))
    wrong = ((seen.reached & looks) ^ whole) & rows
    apart = np.broadcast_to(wrong.keys_per_query > 0, shape[:3])
    fits: Array = np.any(told, axis=(1, 2)) & ~np.any(apart, axis=(1, 2))
    return fits


# Names


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
        return Called(seen.expected.spec)
    if seen.columns is not None:
        return _by_columns(seen)
    from maskcli.masks.naming import name_of

    part, past = longest(seen)
    name = name_of(part, past)
    hides = bool(_pads(seen).attended)
    hides = hides and not (seen.reached & looked(seen) & _pads(seen)).attended
    spec = "padding" if hides and name.spec == "full" else f"{name.spec}{' & padding' if hides else ''}"
    return Called(spec, name.wrong)


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


def _by_columns(seen: Seen) -> Called:
    """The simplest mask that agrees in the measured columns."""
    looks = looked(seen)
    told = seen.reached & looks
    tried = []
    for spec in _guesses(seen):
        wrong = ((build(parse(spec), seen.layout) & looks) ^ told).attended
        tried.append(Called(spec, wrong))
    return min(tried, key=lambda called: called.wrong)


def _guesses(seen: Seen) -> Iterator[str]:
    """Kinds of the sizes that columns show: how far keys are seen from, ahead and behind."""
    layout = seen.layout
    padded = layout.real is not None and not layout.real.all()
    tail = " & padding" if padded else ""
    yield from (f"{kind}{tail}" for kind in ("causal", "full"))
    back, ahead = _extent(seen)
    yield f"sliding:{back + 1}{tail}"
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
