"""What a page holds, as one JSON object that its viewer reads.

title       what the page is of
findings    as `diagnose --format json` writes them, with `place` and `why` in words
text        lines of the report, for what no map shows
left_out    what had no room, in words
colours     the colour and the word of attending, and of each kind of reason
start       null, or the first view: {sample, head, rows, keys}
maps        a list of maps, each with

    file, name, role    where it comes from: weights, mask, padding_mask
    shape               [B, H, Q, K]
    past                keys that stand before the first query
    words               what its mask, and what it is held against, are called
    queries, keys       a side each: tokens [b][n] or null,
                        real and documents as runs [b][[start, stop, value]] or null
    mask, meant         what attends, what should: runs as in page/encoded.py, or null
    reasons             [{kind, operand, forbids}], disjoint
    high                the largest weight of the map
    planes              [{batch, head, view, whole}]: the largest weight of each of at most 512 x 512
                        pixels, and null or every cell, encoded as in page/encoded.py
    other               null, or the planes of the weights that it is compared with
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.diagnostics.finding import Finding
from maskcli.masks.mask import Mask
from maskcli.masks.reasons import Reason
from maskcli.masks.words import counted
from maskcli.report.colours import PAINTS
from maskcli.report.findings import place_in_words, why
from maskcli.report.objects import finding_entry
from maskcli.report.page.encoded import plane, runs_of_mask
from maskcli.tensors import Tensor, Zoom, view

# Pixels of an overview on a side.
PIXELS = 512
# Samples and heads of a map that are drawn.
MOST_PLANES = 4096

Place = tuple[int, int]


class Side(NamedTuple):
    """One axis of a map: the text of tokens [b][n], which are real bool [b, n], documents int [b, n]."""

    tokens: Sequence[Sequence[str]] | None = None
    real: Array | None = None
    documents: Array | None = None


@dataclass(frozen=True, eq=False)
class Drawn:
    """One map: weights (a tensor), a mask, or both, held against what was meant.

    `asked` are samples and heads whose every cell is wanted, None for all.
    """

    file: str
    name: str
    role: str
    shape: Shape
    tensor: Tensor | None = None
    mask: Mask | None = None
    meant: Mask | None = None
    reasons: tuple[Reason, ...] = ()
    queries: Side = Side()
    keys: Side = Side()
    past: int = 0
    words: tuple[str, str] = ("mask", "should be")
    asked: Collection[Place] | None = ()
    other: Tensor | None = None


@dataclass
class Room:
    """How many bytes a page has left, and what had no room, by map."""

    bytes: int
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)

    def take(self, entry: dict[str, Any] | None, what: str, how: str = "") -> dict[str, Any] | None:
        """An encoded part, None where it has no room; `what` it is, and `how` it was to be shown."""
        if entry is None:
            return None
        size = len(entry["data"])
        if size > self.bytes:
            self.refused[what, how] += 1
            return None
        self.bytes -= size
        return entry

    @property
    def sentences(self) -> list[str]:
        """What was left out."""
        return [f"{counted(count, what)}{how}" for (what, how), count in self.refused.items()]


def page_data(
    title: str,
    drawn: Iterable[Drawn],
    room: Room,
    findings: Iterable[Finding] = (),
    text: Iterable[str] = (),
    start: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON of a page."""
    maps = list(drawn)
    entries = [_map(each, room) for each in maps]
    # Every head has its overview before one has every cell.
    for each, entry in zip(maps, entries, strict=True):
        _add_planes(each, entry, room)
    for each, entry in zip(maps, entries, strict=True):
        _add_whole(each, entry, room)
    return {
        "title": title,
        "findings": list(map(_finding, findings)),
        "text": list(text),
        "left_out": room.sentences,
        "start": start,
        "colours": {name: [paint.fill, paint.label] for name, paint in PAINTS.items()},
        "maps": entries,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {**finding_entry(finding), "place": place_in_words(finding), "why": why(finding.code)}


def _map(each: Drawn, room: Room) -> dict[str, Any]:
    """A map without its weights."""
    reasons = [
        {"kind": reason.kind, "operand": reason.operand, "forbids": _mask(reason.forbids, room)}
        for reason in each.reasons
    ]
    return {
        "file": each.file,
        "name": each.name,
        "role": each.role,
        "shape": list(each.shape),
        "past": each.past,
        "words": list(each.words),
        "queries": _side(each.queries),
        "keys": _side(each.keys),
        "mask": _mask(each.mask, room),
        "meant": _mask(each.meant, room),
        "reasons": [reason for reason in reasons if reason["forbids"] is not None],
        "high": 0.0,
        "planes": [],
        "other": None,
    }


def _mask(mask: Mask | None, room: Room) -> dict[str, Any] | None:
    return None if mask is None else room.take(runs_of_mask(mask), "mask")


def _side(side: Side) -> dict[str, Any]:
    return {
        "tokens": None if side.tokens is None else [list(row) for row in side.tokens],
        "real": None if side.real is None else [_stretches(row.astype(int)) for row in side.real],
        "documents": None if side.documents is None else list(map(_stretches, side.documents)),
    }


def _stretches(values: Array) -> list[list[int]]:
    """Equal neighbours as [start, stop, value]."""
    edges = np.flatnonzero(np.diff(values)) + 1
    starts, stops = [0, *edges.tolist()], [*edges.tolist(), len(values)]
    return [[start, stop, int(values[start])] for start, stop in zip(starts, stops, strict=True)]


def _places(each: Drawn) -> list[Place]:
    """Samples and heads in the order in which they get room: those asked for, then sample by sample."""
    batch, heads = each.shape[:2]
    every = list(product(range(batch), range(heads)))
    if each.asked:
        asked = set(each.asked)
        every.sort(key=lambda place: place not in asked)
    return every[:MOST_PLANES]


def _add_planes(each: Drawn, entry: dict[str, Any], room: Room) -> None:
    """The overview of every sample and head, as far as there is room."""
    if each.tensor is None:
        return
    for place in _places(each):
        seen = room.take(_plane(each.tensor, place, PIXELS, PIXELS), "head")
        if seen is not None:
            entry["planes"].append({"batch": place[0], "head": place[1], "view": seen, "whole": None})
    if each.other is not None:
        others = [
            (place, room.take(_plane(each.other, place, PIXELS, PIXELS), "head")) for place in _places(each)
        ]
        entry["other"] = [
            {"batch": batch, "head": head, "view": seen, "whole": None}
            for (batch, head), seen in others
            if seen is not None
        ]
    entry["high"] = max((one["view"]["high"] for one in entry["planes"]), default=0.0)


def _add_whole(each: Drawn, entry: dict[str, Any], room: Room) -> None:
    """Every cell of the heads that are asked for; a small map has them already."""
    _, _, queries, keys = each.shape
    if each.tensor is None or max(queries, keys) <= PIXELS:
        return
    for one in entry["planes"]:
        place = (one["batch"], one["head"])
        if each.asked is None or place in each.asked:
            whole = _plane(each.tensor, place, queries, keys)
            one["whole"] = room.take(whole, "head", " in full resolution")


def _plane(tensor: Tensor, place: Place, tall: int, wide: int) -> dict[str, Any]:
    """The largest weights of the pixels of one sample and head."""
    axes = len(tensor.shape) - 2
    batch, head = place
    zoom = Zoom(batch, head) if axes == 2 else Zoom(batch or None, head or None)
    return plane(view(tensor, zoom, tall, wide).pixels)
