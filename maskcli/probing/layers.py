"""Whom the layers see in one run: their mixers recorded, and measured column by column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Keys, Seen
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.probing.activations import axis_of, by_rows
from maskcli.probing.calls import Call, record
from maskcli.probing.columns import Columns, find_own_layer, leaking_rows, measure_columns, measure_slots
from maskcli.probing.expected import attends, expected_of
from maskcli.probing.plan import Plan
from maskcli.probing.runs import Run
from maskcli.probing.subject import Subject

Progress = Callable[[str], None]


class Source(NamedTuple):
    """A leaf of a call that carries content, and which arguments of the model it comes from."""

    leaf: int
    comes_from: frozenset[str]


def recorded(subject: Subject, run: Run, paths: Sequence[str]) -> list[tuple[Call, list[Source]]]:
    """The calls of some modules in a run, each with its sources.

    A source changes with the content of the model's arguments; masks, positions and biases do not.
    """
    calls, _ = record(partial(run.answer, subject), subject.model, run.rows, paths, results=False)
    changing: dict[str, list[Call]] = {}
    for name in run.content:
        changing[name], _ = record(
            partial(run.answer, subject, run.everywhere(subject, name)),
            subject.model,
            run.rows,
            paths,
            results=False,
        )
    return [(call, _sources(call, changing, run.rows)) for call in calls]


def _sources(call: Call, changing: dict[str, list[Call]], rows: int) -> list[Source]:
    """The sources of a call, one for each distinct tensor."""
    import torch

    found: list[Source] = []
    for at, leaf in enumerate(call.leaves):
        if axis_of(leaf, rows) is None or any(at in call.twins(source.leaf) for source in found):
            continue
        names = frozenset(
            name
            for name, calls in changing.items()
            for other in calls
            if other.key == call.key and not torch.equal(other.leaves[at], leaf)
        )
        if names:
            found.append(Source(at, names))
    return found


def seen_in(subject: Subject, plan: Plan, run: Run, paths: Sequence[str], told: Progress) -> list[Seen]:
    """What the mixers at some paths see in a run."""
    found: list[Seen] = []
    for call, sources in recorded(subject, run, paths):
        told(call.path)
        found += _of_call(subject, plan, run, call, sources)
    return found


def _of_call(subject: Subject, plan: Plan, run: Run, call: Call, sources: list[Source]) -> list[Seen]:
    """What one call sees of each of its sources; those that reach only their own place are left out."""
    slots = find_own_layer(call) if call.caches() else None
    rows = leaking_rows(call, [each.leaf for each in sources], run.rows, plan.seed)
    measured = []
    for source in sources:
        length = by_rows(call.leaves[source.leaf], run.rows).shape[1]
        keys = plan.columns(length, _borders(run))
        measured.append(
            (source, keys, measure_columns(call, source.leaf, run.rows, keys, plan.seed, lambda _: None))
        )

    found: list[Seen] = []
    for source, keys, columns in measured:
        whose = _whose(source, [each for each, _, _ in measured], columns)
        if slots is not None and whose == "self":
            cached = measure_slots(call, slots, run.rows, plan.seed)
            found.append(
                _seen(subject, plan, run, call, "cache", _with_slots(columns, cached, run.past), None)
            )
        elif _mixes(columns) or len(measured) == 1:
            found.append(_seen(subject, plan, run, call, whose, columns, keys))
    if rows and found:
        found[0] = replace(found[0], rows=rows)
    return found


def _whose(source: Source, others: list[Source], columns: Columns) -> Keys:
    """Whether keys are those of another sequence: they do not change with what queries change with."""
    queries, keys = columns.reached.shape[1:]
    elsewhere = any(other.comes_from - source.comes_from for other in others)
    return "cross" if elsewhere or queries != keys else "self"


def _mixes(columns: Columns) -> bool:
    """Whether any place reaches another one."""
    cells = columns.reached | columns.soft
    queries, keys = cells.shape[1:]
    return queries != keys or bool((cells & ~np.eye(queries, dtype=bool)).any())


def _with_slots(own: Columns, cached: Columns, past: int) -> Columns:
    """Columns of the tokens before, of those at hand, and of the empty slots behind them.

    A cache that keeps no more than a window holds the last tokens before.
    """
    queries = own.reached.shape[1]
    held = min(past, cached.reached.shape[2])
    missing = np.zeros((*own.reached.shape[:2], past - held), bool)

    def joined(before: Array, now: Array) -> Array:
        return np.concatenate([missing, before[:, :, :held], now, before[:, :, past + queries :]], 2)

    reached, soft = joined(cached.reached, own.reached), joined(cached.soft, own.soft)
    return Columns(reached, soft, own.noise + cached.noise)


def _seen(
    subject: Subject,
    plan: Plan,
    run: Run,
    call: Call,
    keys: Keys,
    columns: Columns,
    measured: tuple[int, ...] | None,
) -> Seen:
    kind = type(call.module).__name__
    layout = _layout(run, columns, keys)
    return Seen(
        module=call.path,
        kind=kind,
        setting=run.setting,
        keys=keys,
        reached=Mask.from_dense(columns.reached[:, None]).compact(),
        soft=Mask.from_dense(columns.soft[:, None]).compact(),
        noise=columns.noise,
        columns=measured,
        layout=layout,
        expected=expected_of(subject, plan.declared, call.path, kind, keys, layout),
        attention=attends(call.path, kind),
    )


def _layout(run: Run, columns: Columns, keys: Keys) -> Layout:
    """Sizes, past, padding and documents of a call; those of the source where keys are another sequence's."""
    batch, queries, count = columns.reached.shape
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
