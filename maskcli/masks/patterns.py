"""Kinds of masks with a shape of their own: draft trees, ranges of keys and rows, block diffusion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.masks.layout import Layout, at_positions
from maskcli.masks.mask import Mask
from maskcli.masks.runs import MAX_RUNS


def tree(layout: Layout, *parents: int) -> Mask:
    """The last tokens are a tree of these parents: each sees its ancestors, itself and all before the tree.

    Tokens before the tree are causal. The masks of Medusa, EAGLE and SpecInfer, whose first node is the root.
    """
    root = tree_begins(layout, parents)
    runs = _tree_runs(parents, root)
    places = range(layout.past, layout.past + layout.queries)
    rows = [runs[at - root] if at >= root else np.array([[0, at + 1]]) for at in places]
    counts = np.array([len(row) for row in rows])
    whole = np.concatenate(rows)
    return Mask.from_runs(layout.shape, (1, 1, layout.queries), counts, whole[:, 0], whole[:, 1])


def tree_begins(layout: Layout, parents: tuple[int, ...]) -> int:
    """The key of the first node: the tree ends at the last query, wherever its nodes stand in the text."""
    late = next((node for node, parent in enumerate(parents) if parent >= node), None)
    if late is not None:
        raise MaskcliError(
            f"node {late} of the tree has the parent {parents[late]}; parents come before their children, "
            "and -1 is none: tree:-1,0,0,1,1"
        )
    end = layout.past + layout.queries
    if len(parents) > end or end > layout.keys:
        raise MaskcliError(
            f"a tree of {len(parents)} nodes does not fit: its last node stands at the last query, position "
            f"{end - 1} of {layout.keys} keys; pass fewer parents or another past"
        )
    return end - len(parents)


def _tree_runs(parents: tuple[int, ...], root: int) -> list[Array]:
    """The runs [n, 2] of each node, as key positions."""
    before = np.array([[0, root]] if root else np.zeros((0, 2)), np.int64)
    runs: list[Array] = []
    total = 0
    for node, parent in enumerate(parents):
        inherited = runs[parent] if parent >= 0 else before
        own = [[root + node, root + node + 1]]
        if len(inherited) and inherited[-1, 1] == root + node:
            own = [[int(inherited[-1, 0]), root + node + 1]]
            inherited = inherited[:-1]
        total += len(inherited) + 1
        if total > MAX_RUNS:
            raise MaskcliError(
                f"this tree needs more than {MAX_RUNS:,} runs of keys; write one with fewer nodes"
            )
        runs.append(np.concatenate([inherited, own]))
    return runs


def tree_ancestors(parents: tuple[int, ...]) -> list[list[int]]:
    """For each node 1 where another node is itself or one of its ancestors, else 0."""
    ancestors: list[list[int]] = []
    for node, parent in enumerate(parents):
        row = list(ancestors[parent]) if parent >= 0 else [0] * len(parents)
        row[node] = 1
        ancestors.append(row)
    return ancestors


def keys(layout: Layout, *borders: int) -> Mask:
    """k lies in one of the ranges START:STOP."""
    runs = list(_merged(borders, layout.keys))
    starts, stops = np.array(runs, np.int64).reshape(-1, 2).T
    return Mask.from_runs(layout.shape, (1, 1, 1), np.array([len(runs)]), starts, stops)


def rows(layout: Layout, *borders: int) -> Mask:
    """Query q, a row of the matrix, lies in one of the ranges START:STOP."""
    stops = np.zeros(layout.queries, np.int64)
    for start, stop in _merged(borders, layout.queries):
        stops[start:stop] = layout.keys
    return Mask.from_intervals(layout.shape, 0, stops.reshape(1, 1, -1))


def _merged(borders: tuple[int, ...], end: int) -> Iterator[tuple[int, int]]:
    """Ranges in order, those that meet as one, cut at `end`."""
    held: tuple[int, int] | None = None
    for start, stop in sorted(zip(borders[::2], borders[1::2], strict=True)):
        start, stop = min(start, end), min(stop, end)
        if held is not None and start <= held[1]:
            held = (held[0], max(held[1], stop))
            continue
        if held is not None:
            yield held
        held = (start, stop) if start < stop else None
    if held is not None:
        yield held


@at_positions
def block_diffusion(layout: Layout, size: int, noised: int | None = None) -> Mask:
    """k // B <= p // B; with N, N noised tokens before the N clean ones, as in training (BD3-LM).

    Noised tokens see their own block and the clean ones of earlier blocks; clean ones see clean ones of no
    later block.
    """
    position = layout.positions
    if noised is None:
        return Mask.from_intervals(layout.shape, 0, (position // size + 1) * size)

    first = position // size * size
    is_noised = position < noised
    own = Mask.from_intervals(layout.shape, first, np.where(is_noised, np.minimum(first + size, noised), 0))
    clean = np.where(is_noised, first, ((position - noised) // size + 1) * size)
    return own | Mask.from_intervals(layout.shape, noised, noised + clean)
