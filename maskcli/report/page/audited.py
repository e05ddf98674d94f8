"""The page of `audit`: findings with some of their rows, token by token, and the set at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from maskcli.auditing.results import Audited, Example, Told
from maskcli.masks.mask import Mask
from maskcli.report.audited import Audits, beside, closing, extent, rows_of
from maskcli.report.findings import sentence, why
from maskcli.report.glance import print_glance
from maskcli.report.page.data import Drawn, Side, Strip
from maskcli.report.page.pages import Token, save
from maskcli.report.terminal import lines

# Columns of the sets at a glance.
COLUMNS = 72
COUNTED = Strip((), "counted by the loss", "not counted")


def save_audited(audits: Audits, path: str | None, megabytes: int | None = None) -> None:
    """Write the page."""
    told = [(audited, each) for audited in audits.sets for each in audited.findings]
    drawn = [_rows(audited, each, audits.token or str) for audited, each in told if each.examples]
    cards = [_card(*each) for each in told]
    text = [*chain.from_iterable(map(_glance, audits.sets)), closing(audits)]
    title = f"maskcli audit: {', '.join(audited.name for audited in audits.sets)}"
    save(title, drawn, path, megabytes, findings=cards, text=text)


def _glance(audited: Audited) -> Iterator[str]:
    """A set in lines."""
    yield from lines(lambda console: print_glance(audited, console), COLUMNS)
    yield from ("", *beside(audited), "")


def _name(told: Told) -> str:
    return f"{told.code} {told.name}"


def _rows(audited: Audited, told: Told, token: Token) -> Drawn:
    """Rows of a finding as samples of one query each: which of their tokens the loss counts."""
    rows = told.examples
    length = max(len(row.tokens) for row in rows)
    counted, there = np.zeros((2, len(rows), length), bool)
    for at, row in enumerate(rows):
        counted[at, : len(row.tokens)] = row.counted
        there[at, : len(row.tokens)] = True
    names = [[f"row {row.row.row}"] for row in rows]
    return Drawn(
        file=audited.name,
        name=_name(told),
        role="rows",
        shape=(len(rows), 1, 1, length),
        mask=Mask.from_dense(counted[:, None, None]),
        queries=Side(names),
        keys=Side([list(map(token, row.tokens)) for row in rows], there),
        words=("counted", "should be"),
        strip=COUNTED._replace(firsts=tuple(row.first for row in rows)),
    )


def _card(audited: Audited, told: Told) -> dict[str, Any]:
    """A finding as the viewer reads it: its places are the tokens of the rows that are shown."""
    return {
        "code": told.code,
        "name": told.name,
        "severity": told.severity,
        "file": audited.name,
        "tensors": [_name(told)],
        "message": sentence(told.message),
        "fix": sentence(told.fix),
        "why": why(told.code),
        "see": f"maskcli rule {told.code}",
        "place": f"{extent(told)}: {rows_of(told)}",
        "where": {"batch": None, "heads": None, "queries": None, "keys": None},
        "places": [_place(at, row) for at, row in enumerate(told.examples) if any(row.flagged)],
    }


def _place(at: int, row: Example) -> dict[str, Any]:
    edges = np.flatnonzero(np.diff([False, *row.flagged, False])).reshape(-1, 2)
    return {"batch": [at], "heads": None, "queries": None, "keys": edges.tolist()}
