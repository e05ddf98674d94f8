"""A mask as an inline SVG: readable on dark and light, and never larger for a longer text."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from maskcli.arrays import Array, dense_runs
from maskcli.inputs.texts import Shown
from maskcli.masks.views import picture
from maskcli.report.colours import ATTENDS, PAINTS
from maskcli.report.terminal import clean

# Pixels of a map on a side, whatever the length, and how wide the whole is.
PIXELS, WIDTH = 64, 256
# Up to this many tokens on a side, cells are drawn of this size with tokens on both axes.
NAMED, CELL = 24, 16
# Letters of a token that fit beside a row, and how wide one is.
LETTERS, LETTER = 12, 7
BLUE = PAINTS[ATTENDS].fill
# Half transparent grey is apart from black and from white.
IGNORED = "#80808040"
# A pixel of several cells is as blue as the share of them that attends, in so many steps.
STEPS = 4


def svg(shown: Shown, item: int = 0, head: int = 0) -> str:
    """The map of one batch item and head: queries down, keys across, blue attends."""
    share, _ = picture(shown.mask, PIXELS, PIXELS, item, head)
    tall, wide = share.shape
    named = max(shown.mask.shape[2:]) <= NAMED
    side = CELL if named else WIDTH / max(tall, wide, 1)
    names = list(_names(shown, item)) if named else []
    margin = LETTER * max((len(name) for name, _ in names), default=0) + (4 if names else 0)
    across, down = margin + wide * side, margin + tall * side

    paths = "".join(_paths(share)) + (_grid(tall, wide) if named else "")
    labels = "".join(_label(name, place, margin, side) for name, place in names)
    return (
        f'<svg role="img" aria-label="attention mask, {tall} by {wide}" width="{across:g}" height="{down:g}" '
        f'viewBox="0 0 {across:g} {down:g}" style="font:11px monospace">{labels}'
        f'<g transform="translate({margin} {margin}) scale({side:g})" shape-rendering="crispEdges">'
        f'<path fill="{IGNORED}" d="M0 0h{wide}v{tall}h-{wide}z"/>{paths}</g></svg>'
    )


def _paths(share: Array) -> Iterator[str]:
    """The attended pixels, one path for each shade: a run of pixels of a row is one rectangle."""
    shade = np.ceil(share * STEPS).astype(int)
    shade[(shade == STEPS) & (share < 1)] -= 1
    for step in range(1, STEPS + 1):
        counts, starts, stops = dense_runs(shade == step)
        rows = np.repeat(np.arange(len(counts)), counts)
        runs = zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True)
        d = "".join(f"M{start} {row}h{stop - start}v1h{start - stop}z" for row, start, stop in runs)
        if d:
            yield f'<path fill="{BLUE}" fill-opacity="{step / STEPS:g}" d="{d}"/>'


def _grid(tall: int, wide: int) -> str:
    """Lines between cells."""
    lines = [f"M0 {row}h{wide}" for row in range(1, tall)] + [f"M{key} 0v{tall}" for key in range(1, wide)]
    return f'<path stroke="currentColor" stroke-opacity="0.2" stroke-width="0.06" d="{"".join(lines)}"/>'


def _names(shown: Shown, item: int) -> Iterator[tuple[str, tuple[str, int]]]:
    """The tokens of both axes, each with its axis and its place there."""
    queries, keys = shown.mask.shape[2:]
    for query in range(queries):
        yield _short(shown.queries.token(item, query)), ("query", query)
    for key in range(keys):
        yield _short(shown.key_token(item, key)), ("key", key)


def _short(token: str) -> str:
    whole = clean(token)
    return whole if len(whole) <= LETTERS else whole[: LETTERS - 1] + "…"


def _label(name: str, place: tuple[str, int], margin: float, side: float) -> str:
    """A token left of its row, or above its column and turned."""
    axis, index = place
    middle = margin + (index + 0.5) * side + 4
    at = (
        f'x="{margin - 4:g}" y="{middle:g}" text-anchor="end"'
        if axis == "query"
        else f'transform="translate({middle:g} {margin - 4:g}) rotate(-90)"'
    )
    return f'<text {at} fill="currentColor">{escape(name)}</text>'
