"""What a page holds, as one JSON object that its viewer reads.

title       what the page is of
findings    cards, as `card` makes them
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
    strip               null, or of rows of tokens: at which token each begins, and what cells are and are not
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
from maskcli.report.findings import place_in_words, sentence, why
from maskcli.report.objects import finding_entry
from maskcli.report.page.encoded import plane, runs_of_mask, scale_of
from maskcli.tensors import Tensor, Zoom, view

# Pixels of an overview on a side.
PIXELS = 512
# Samples and heads of a map that are drawn.
MOST_PLANES = 4096
# How a head is shown with every cell, in what is left out.
IN_FULL = " in full resolution"

Place = tuple[int, int]


class Side(NamedTuple):
    """One axis of a map: the text of tokens [b][n], which are real bool [b, n], documents int [b, n]."""

    tokens: Sequence[Sequence[str]] | None = None
    real: Array | None = None
    documents: Array | None = None


class Strip(NamedTuple):
    """Samples that are a row of tokens each: where the first one stands, and what a cell is, and is not."""

    firsts: tuple[int, ...]
    yes: str
    no: str


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
    strip: Strip | None = None


@dataclass
class Room:
    """How many bytes a page has left, and what had no room, by map."""

    bytes: int
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)

    def take(self, entry: dict[str, Any], what: str, how: str = "") -> dict[str, Any] | None:
        """An encoded part, None where it has no room; `what` it is, and `how` it was to be shown."""
        return entry if self.take_all([entry], what, how) else None

    def take_all(self, entries: Sequence[dict[str, Any]], what: str, how: str = "") -> bool:
        """Whether parts that are of use together alone have room together; they are one in what is told."""
        size = sum(len(entry["data"]) for entry in entries)
        if size > self.bytes:
            self.refused[what, how] += 1
            return False
        self.bytes -= size
        return True

    @property
    def sentences(self) -> list[str]:
        """What was left out."""
        return [f"{counted(count, what)}{how}" for (what, how), count in self.refused.items()]


def page_data(
    title: str,
    drawn: Iterable[Drawn],
    room: Room,
    findings: Iterable[dict[str, Any]] = (),
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
        "findings": list(findings),
        "text": list(text),
        "left_out": room.sentences,
        "start": start,
        "colours": {name: [paint.fill, paint.label] for name, paint in PAINTS.items()},
        "maps": entries,
    }


def card(finding: Finding) -> dict[str, Any]:
    """A finding as `diagnose --format json` writes it, in sentences, with `place` and `why` in words."""
    said = {"message": sentence(finding.message), "fix": sentence(finding.fix), "why": why(finding.code)}
    return {**finding_entry(finding), **said, "place": place_in_words(finding)}


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
        "queries": _axis(each.queries),
        "keys": _axis(each.keys),
        "mask": _mask(each.mask, room),
        "meant": _mask(each.meant, room),
        "reasons": [reason for reason in reasons if reason["forbids"] is not None],
        "high": 0.0,
        "planes": [],
        "other": None,
        "strip": None if each.strip is None else each.strip._asdict(),
    }


def _mask(mask: Mask | None, room: Room) -> dict[str, Any] | None:
    return None if mask is None else room.take(runs_of_mask(mask), "mask")


def _axis(side: Side) -> dict[str, Any]:
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
    """The overview of every sample and head, as far as there is room, and of what it is compared with."""
    if each.tensor is None:
        return
    both = [entry["planes"]]
    if each.other is not None:
        entry["other"] = []
        both.append(entry["other"])
    for place in _places(each):
        views = _sides(each, place, PIXELS, PIXELS)
        if room.take_all(views, "head"):
            for planes, seen in zip(both, views, strict=True):
                planes.append({"batch": place[0], "head": place[1], "view": seen, "whole": None})
    entry["high"] = max((one["view"]["high"] for one in entry["planes"]), default=0.0)


def _add_whole(each: Drawn, entry: dict[str, Any], room: Room) -> None:
    """Every cell of the heads that are asked for; a small map has them already."""
    _, _, queries, keys = each.shape
    if each.tensor is None or max(queries, keys) <= PIXELS:
        return
    wanted = [
        at
        for at, one in enumerate(entry["planes"])
        if each.asked is None or (one["batch"], one["head"]) in each.asked
    ]
    sides = [planes for planes in (entry["planes"], entry["other"]) if planes is not None]
    for done, at in enumerate(wanted):
        place = (entry["planes"][at]["batch"], entry["planes"][at]["head"])
        wholes = _sides(each, place, queries, keys)
        # Cells are compared one by one: both sides have all of them, or neither.
        if not room.take_all(wholes, "head", IN_FULL):
            # The next ones are about as large.
            room.refused["head", IN_FULL] += len(wanted) - done - 1
            return
        for planes, whole in zip(sides, wholes, strict=True):
            planes[at]["whole"] = whole


def _sides(each: Drawn, place: Place, tall: int, wide: int) -> list[dict[str, Any]]:
    """One sample and head of the weights and of those that they are compared with, on one scale."""
    tensors = [tensor for tensor in (each.tensor, each.other) if tensor is not None]
    pixels = [_pixels(tensor, place, tall, wide) for tensor in tensors]
    scale = scale_of(*pixels)
    return [plane(one, scale) for one in pixels]


def _pixels(tensor: Tensor, place: Place, tall: int, wide: int) -> Array:
    """The largest weights of the pixels of one sample and head."""
    axes = len(tensor.shape) - 2
    batch, head = place
    zoom = Zoom(batch, head) if axes == 2 else Zoom(batch or None, head or None)
    return view(tensor, zoom, tall, wide).pixels
