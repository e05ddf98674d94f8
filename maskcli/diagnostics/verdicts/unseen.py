"""Too little attention: runs of keys that rows of every head may see, and never do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Rows
from maskcli.diagnostics.verdicts.verdict import LEAK_FLOOR
from maskcli.masks.mask import Mask
from maskcli.measure.passes import measure
from maskcli.measure.sample import Sample
from maskcli.scene.scene import Attention, once

# Fewer rows that miss a run of keys, or fewer cells, may do so by chance.
ROWS, CELLS = 4, 16
# Beside a run that a mask hides, nearly all cells weigh something in some head, however sharp the heads are
# together; where more than this share weighs nothing, weights underflow or are sparse.
STRAY = 0.02
# Runs of keys that are looked for in all rows at once.
MOST_RUNS = 8
# A border that moves along with the query is missed by as many rows as the run has keys; chance takes fewer.
EDGE = 8
# How far rounding takes equal weights apart, and rows that read a run, so that it is no padding.
EVEN, READERS = 0.01, 2
# Rows that are read before a map gets a closer look, and those of one head at most.
GLANCE, GLANCE_ROWS = 256, 8


class Unseen(NamedTuple):
    """Rows [B, H, Q] that never see a run of keys, and those keys [B, K]."""

    rows: Rows
    keys: Array


@once
def never_seen(attention: Attention) -> Unseen | None:
    """Runs of keys that the declaration and the input allow, and that weigh exactly 0 in every head.

    A few rows are looked at first, and all of them only where those miss something. The borders of a run are
    the same in every row that misses it: a window or a decay, whose border moves along with the query, is
    none.
    """
    allowed = _allowed(attention)
    if allowed is None or not _at_a_glance(attention, allowed):
        return None
    runs = _suspects(attention, allowed)
    if not runs:
        return None
    rows, keys = np.zeros(attention.shape[:3], bool), np.zeros((attention.shape[0], attention.shape[3]), bool)
    for run, missing in zip(runs, _missing(attention, allowed, runs), strict=True):
        cells = missing.sum(axis=1) * (run[1] - run[0])
        missing = missing & ((missing.sum(axis=1) >= ROWS) & (cells >= CELLS))[:, None]
        rows |= missing[:, None]
        keys[missing.any(axis=1), run[0] : run[1]] = True
    return Unseen(rows, keys) if rows.any() else None


def is_chunked(attention: Attention, unseen: Unseen) -> bool:
    """Whether rows see nothing in front of what they miss, as in a causal layer of chunks."""
    if attention.future_expected is None:
        return False
    sample = attention.sample
    flagged = sample.of(unseen.rows)[..., None]
    seen: Array = np.any((sample.values > 0) & flagged, axis=(1, 2))
    keys = unseen.keys[: sample.items]
    in_front = seen & (np.cumsum(keys, axis=1) == 0) & np.any(keys, axis=1, keepdims=True)
    return not in_front.any()


def _allowed(attention: Attention) -> Mask | None:
    """What was declared, within the documents where the weights keep to those; None without a declaration."""
    bound = attention.declared is not None and attention.declared.bound
    if attention.expected is None or bound or attention.shape[3] < 2:
        return None
    same = attention.same_document
    if same is None or attention.measured.mass["documents"][attention.real].any():
        return attention.expected
    return attention.expected & same


def _at_a_glance(attention: Attention, allowed: Mask) -> bool:
    """Whether some row of a few misses a key in all heads: nearly no map has one, and is read no further."""
    batch, heads, queries = attention.shape[:3]
    rows = min(queries, max(2, min(GLANCE_ROWS, GLANCE // (batch * heads))))
    items = max(1, min(batch, GLANCE // (rows * heads)))
    for item in np.unique(np.linspace(0, batch - 1, items).astype(int)).tolist():
        for query in np.unique(np.linspace(0, queries - 1, rows).astype(int)).tolist():
            if not attention.real_rows[item, 0, query]:
                continue
            may = allowed.dense(item, 0, (query, query + 1))[0].copy()
            for head in range(heads):
                row = (item * heads + head) * queries + query
                may &= ~(attention.tensor.rows(row, row + 1)[0] != 0)
                if not may.any():
                    break
            if may.any():
                return True
    return False


def _suspects(attention: Attention, allowed: Mask) -> list[tuple[int, int]]:
    """Runs of keys that sampled rows miss, with the same borders; none where weights are sparse."""
    sample = attention.sample
    may: Array = np.all(sample.allowed(allowed), axis=1)
    seen: Array = np.any(sample.values > 0, axis=1)
    empty: Array = np.any(sample.of(attention.looks_empty), axis=1)
    rows: Array = np.all(sample.of(attention.real_rows), axis=1) & ~empty
    may, seen = may & rows[..., None], seen & rows[..., None]
    unseen = may & ~seen
    if not unseen.any() or _follows_the_query(attention, sample, may, seen):
        return []

    held = np.zeros_like(unseen)
    runs: dict[tuple[int, int], int] = {}
    for item in range(sample.items):
        for start, stop in _runs(unseen[item], may[item]):
            missed = unseen[item, :, start:stop]
            runs[start, stop] = runs.get((start, stop), 0) + int(missed.sum())
            held[item, :, start:stop] |= missed
    stray = (unseen & ~held).sum()
    if stray > STRAY * max(seen.sum(), 1) or not _is_sharp(sample, held, seen):
        return []
    return sorted(sorted(runs, key=lambda run: -runs[run])[:MOST_RUNS])


def _runs(unseen: Array, may: Array) -> Iterator[tuple[int, int]]:
    """Runs of two or more keys that the same rows [n, K] miss, of those that may see them."""
    both = may[:, 1:] & may[:, :-1]
    differ: Array = np.any(both & (unseen[:, 1:] != unseen[:, :-1]), axis=0)
    missed: Array = np.any(unseen, axis=0)
    alike = ~differ & missed[1:] & missed[:-1]
    borders = np.flatnonzero(~alike) + 1
    for start, stop in zip([0, *borders], [*borders, unseen.shape[1]], strict=True):
        if missed[start] and stop - start > 1:
            yield int(start), int(stop)


def _follows_the_query(attention: Attention, sample: Sample, may: Array, seen: Array) -> bool:
    """Whether rows that miss something look back equally far: over a window, or until weights fade."""
    distances = np.where(seen, attention.placement.distances(sample.queries), -1).max(axis=2)
    reach = np.where(may, attention.placement.distances(sample.queries), -1).max(axis=2)
    short = (distances < reach) & (distances >= 0)
    far = distances[short]
    return far.size > 1 and bool((far == far.max()).all()) and not (seen & ~may).any()


def _is_sharp(sample: Sample, held: Array, seen: Array) -> bool:
    """Whether what stands beside a missed run weighs something: weights that fade are tiny there."""
    peak = sample.values.max(axis=1)
    beside = np.zeros_like(held)
    beside[..., 1:] |= held[..., :-1]
    beside[..., :-1] |= held[..., 1:]
    edge = peak[beside & seen & ~held]
    return edge.size > 0 and float(np.median(edge)) > LEAK_FLOOR


def _missing(attention: Attention, allowed: Mask, runs: list[tuple[int, int]]) -> Iterator[Array]:
    """For each run the rows [B, Q] that may see all of it and see nothing of it, in any head.

    No rows of an item in which others miss only its first key, or its last.
    """
    probes: dict[tuple[int, int], Mask] = {}
    for start, stop in runs:
        probes |= {part: ~Mask.from_intervals(attention.shape, *part) for part in _parts(start, stop)}
    mass = measure(attention.tensor, attention.shape, {str(part): mask for part, mask in probes.items()}).mass
    real = attention.real_rows[:, 0] & ~attention.looks_empty.any(axis=1)
    for start, stop in runs:
        may = _allows(allowed, start, stop) & real
        missing, *ends = (may & ~np.any(mass[str(part)] != 0, axis=1) for part in _parts(start, stop))
        apart = sum((end != missing).sum(axis=1, keepdims=True) for end in ends)
        kept = missing & (apart <= (stop - start) // EDGE)
        at_an_edge = start == 0 or stop == attention.shape[3]
        if attention.keys is None and at_an_edge and not _is_past(attention, stop, kept):
            kept &= _is_text(attention, allowed, mass[str((start, stop))] > 0)
        yield kept


def _is_past(attention: Attention, stop: int, missing: Array) -> bool:
    """Whether every row of every item misses all that came before the queries: no cache is all padding."""
    real = attention.real_rows[:, 0]
    return 0 < attention.past <= stop < attention.shape[3] and bool(missing[real].all())


def _is_text(attention: Attention, allowed: Mask, seen: Array) -> Array:
    """Items [B, 1] in which some rows read a run at an edge that others miss; else it may be padding.

    Rows of padding that read each other weigh all keys the same.
    """
    measured = attention.measured
    even = measured.high * allowed.keys_per_query <= measured.total * (1 + EVEN)
    readers = attention.real & ~attention.looks_empty & ~even & seen
    items: Array = np.any(readers, axis=1).sum(axis=1, keepdims=True) >= READERS
    return items


def _parts(start: int, stop: int) -> tuple[tuple[int, int], ...]:
    """A run, its first key and its last."""
    return (start, stop), (start, start + 1), (stop - 1, stop)


def _allows(allowed: Mask, start: int, stop: int) -> Array:
    """Rows [B, Q] that may see all keys of a run, in every head."""
    part = allowed.select(keys=slice(start, stop))
    rows: Array = np.all(np.broadcast_to(part.keys_per_query == stop - start, allowed.shape[:3]), axis=1)
    return rows
