"""Whom the layers see in one run: their mixers recorded, and measured column by column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from maskcli.diagnostics.behaviour import Keys, Seen
from maskcli.masks.layout import Layout
from maskcli.probing.activations import difference, noise_of, states_of
from maskcli.probing.calls import Call
from maskcli.probing.columns import (
    Columns,
    find_own_layer,
    joined,
    leaking_rows,
    measure,
    measure_slots,
    slot_count,
)
from maskcli.probing.expected import attends, expected_of
from maskcli.probing.mixers import is_inside, place_by_place
from maskcli.probing.plan import Plan
from maskcli.probing.runs import Run, UnmeasuredError
from maskcli.probing.sources import Move, Source, recorded
from maskcli.probing.structure import Structure
from maskcli.probing.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[str], None]


def seen_in(
    subject: Subject, plan: Plan, run: Run, structure: Structure, told: Progress
) -> tuple[list[Seen], list[str]]:
    """What the mixers see in a run, and in words of which this cannot be measured.

    UnmeasuredError where some have no part in it.
    """
    calls = recorded(subject, run, structure.paths, plan.seed)
    idle = set(structure.paths) - {call.path for call, _ in calls}
    if idle and not run.past:
        raise UnmeasuredError(f"{min(idle)} is not called with {run.setting}")
    found: list[Seen] = []
    unmeasured: list[str] = []
    for call, sources in calls:
        told(call.path)
        inner = [other for other, _ in calls if is_inside(other.path, call.path)]
        layer = _Layer(subject, plan, run, call, sources, structure)
        with place_by_place(inner, run.batch):
            if layer.repeats():
                found += layer.seen()
            else:
                unmeasured.append(
                    f"{call.path} answers otherwise by itself: it reads more than its arguments"
                )
    return found, unmeasured


@dataclass(frozen=True, eq=False)
class _Layer:
    """One call that mixes, in a run."""

    subject: Subject
    plan: Plan
    run: Run
    call: Call
    sources: list[Source]
    structure: Structure

    @property
    def kind(self) -> str:
        """The class of the module."""
        name = type(self.call.module).__name__
        return f"{name} (fast path)" if self.call.path in self.structure.fast else name

    @property
    def attention(self) -> bool:
        """Whether it attends; a fast path does what the modules inside of it would."""
        path = self.call.path
        inner = self.structure.inside(path) if path in self.structure.fast else ()
        return attends(path, self.kind) or any(attends(each, "") for each in inner)

    def repeats(self) -> bool:
        """Whether it answers alike by itself; a fast path does not while it is watched."""
        before = states_of(self.call.result, self.run.batch)[0]
        alike = (
            base.shape == before.shape and bool((difference(base, before) <= noise_of(before)).all())
            for base in (self._base(), self._base())
        )
        return self.call.path in self.structure.fast or all(alike)

    def seen(self) -> list[Seen]:
        """What it sees of each of its sources; those that reach only their own place are left out."""
        base = self._base()
        cache = find_own_layer(self.call) if self.call.caches() else None
        measured = [self._columns(source, base) for source in self.sources]
        found: list[Seen] = []
        own: list[Columns] = []
        for source, columns in zip(self.sources, measured, strict=True):
            whose = self._whose(source, columns)
            if cache is not None and whose == "self":
                own.append(columns)
            elif columns.mixes() or len(measured) == 1:
                found.append(self._told(whose, columns))
        if cache is not None and own:
            found.append(self._with_cache(cache, _any_of(own)))
        rows = self._rows(base)
        return [replace(found[0], rows=rows), *found[1:]] if rows and found else found

    @cached_property
    def _moves(self) -> dict[Source, Move]:
        """How its sources are moved: other content is drawn for one layer at a time, and goes with it."""
        return {source: source.mover() for source in self.sources}

    def _base(self) -> Tensor:
        return self.call.replay({}, self.run.batch)[0]

    def _answer(self, source: Source, cells: Tensor, size: float) -> Tensor:
        return self.call.replay(self._moves[source](cells, size), self.run.batch)[0]

    def _columns(self, source: Source, base: Tensor) -> Columns:
        keys = self.plan.columns(source.length, _borders(self.run))
        return measure(source.cells, base, partial(self._answer, source), keys, sizes=not source.is_ids)

    def _rows(self, base: Tensor) -> tuple[tuple[int, int], ...]:
        """Pairs of rows of the batch, of which one changes the other."""
        pairs = (
            pair
            for source in self.sources
            for pair in leaking_rows(
                source.cells, base, partial(self._answer, source), sizes=not source.is_ids
            )
        )
        return tuple(dict.fromkeys(pairs))

    def _whose(self, source: Source, columns: Columns) -> Keys:
        """Whether keys are those of another sequence: they do not change with what queries change with."""
        elsewhere = any(other.comes_from - source.comes_from for other in self.sources)
        return "cross" if elsewhere or not columns.square else "self"

    def _with_cache(self, at: int, own: Columns) -> Seen:
        """What it sees of its cache and of the tokens at hand."""
        slots, past = slot_count(self.call, at), self.run.past
        held = min(past, slots)
        keys = self.plan.columns(slots, [held, held + own.queries])
        cached = measure_slots(self.call, at, self.run.batch, self.plan.seed, keys)
        return self._told("cache", _with_slots(own, cached, past))

    def _told(self, keys: Keys, columns: Columns) -> Seen:
        path = self.call.path
        chosen = tuple(sorted(columns.keys.tolist())) if len(columns.keys) < columns.count else None
        layout = _layout(self.run, columns, keys)
        return Seen(
            module=path,
            kind=self.kind,
            setting=self.run.setting,
            keys=keys,
            reached=columns.mask(columns.reached),
            soft=columns.mask(columns.soft),
            noise=columns.noise,
            columns=chosen,
            layout=layout,
            expected=expected_of(self.subject, self.plan.declared, path, self.attention, keys, layout),
            attention=self.attention,
        )


def _any_of(several: list[Columns]) -> Columns:
    """What any of several sources reaches, such as the states and the residual that a call is given."""
    reached = np.logical_or.reduce([each.reached for each in several])
    soft = np.logical_or.reduce([each.soft for each in several]) & ~reached
    return replace(several[0], reached=reached, soft=soft, noise=sum(each.noise for each in several))


def _with_slots(own: Columns, cached: Columns, past: int) -> Columns:
    """Columns of the tokens before, of those at hand, and of the empty slots behind them.

    A cache that keeps no more than a window holds the last tokens before; those it dropped reach nothing.
    """
    queries = own.queries
    held = min(past, cached.count)
    dropped = np.arange(past - held)
    nothing = np.zeros((*own.reached.shape[:2], len(dropped)), bool)
    before = np.flatnonzero(cached.keys < held)
    behind = np.flatnonzero(cached.keys >= past + queries)
    parts = [
        (Columns(nothing, nothing, 0, dropped, len(dropped)), dropped, dropped),
        (cached, before, cached.keys[before] + past - held),
        (own, np.arange(len(own.keys)), own.keys + past),
        (cached, behind, cached.keys[behind]),
    ]
    return joined(parts, max(past + queries, cached.count))


def _layout(run: Run, columns: Columns, keys: Keys) -> Layout:
    """Sizes, past, padding and documents of a call; those of the source where keys are another sequence's."""
    batch, queries, count = len(columns.reached), columns.queries, columns.count
    real = run.source_real if keys == "cross" else run.real
    fits = real is not None and real.shape[1] == count
    texts = run.documents if keys == "self" and run.documents is not None else None
    if keys == "cache":
        real = np.broadcast_to(np.arange(count) < run.past + queries, (batch, count))
        fits = not bool(real.all())
    return Layout(
        batch,
        queries,
        count,
        past=run.past if keys == "cache" else 0,
        real=real if fits else None,
        documents=texts if texts is not None and texts.shape[1] == count else None,
        cross=keys == "cross",
    )


def _borders(run: Run) -> list[int]:
    """Keys at which padding or another document begins."""
    borders: set[int] = set()
    for tokens in (run.real, run.documents):
        if tokens is not None:
            borders.update(
                int(at) + 1 for at in np.flatnonzero((np.diff(tokens.astype(int), axis=1) != 0).any(0))
            )
    return sorted(borders)
