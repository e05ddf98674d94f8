"""Results as a notebook shows them: small HTML of its own, in which every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import singledispatch
from html import escape
from typing import Any

import numpy as np

from maskcli.api.comparing import Comparison
from maskcli.api.showing import of_mask
from maskcli.auditing.results import Audited
from maskcli.diagnostics.diagnose import Report
from maskcli.diagnostics.finding import Finding
from maskcli.diagnostics.probed import ProbeReport
from maskcli.inputs.texts import Shown
from maskcli.masks.mask import Mask
from maskcli.masks.words import counted
from maskcli.report.findings import place_in_words, sentence
from maskcli.report.glance import lines, share
from maskcli.report.measured import HEADINGS, layers_of, opening, whole_model
from maskcli.report.svg import svg
from maskcli.report.terminal import clean
from maskcli.report.terminal import lines as printed
from maskcli.tracing.trace import Trace

# Readable on white and on black.
SEVERITIES = {"error": "#d9363e", "warning": "#b8740f", "note": "#2f81b7"}
# Of what is printed, as wide as most read code.
COLUMNS = 100
# Maps of a batch, rows of a table, before the rest is counted.
MOST_MAPS, MOST_ROWS = 4, 50
CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"


def plot(mask: Mask | Shown) -> Any:
    """The Figure of a mask."""
    from maskcli.report.pictures.masks import figure_of_mask

    return figure_of_mask(_shown(mask))


def text(mask: Mask | Shown) -> str:
    """What `maskcli show` prints of a mask."""
    from maskcli.report.tables import print_shown

    shown = _shown(mask)
    return "\n".join(line.rstrip() for line in printed(lambda console: print_shown(shown, console), COLUMNS))


@singledispatch
def html(result: object) -> str:
    """A result as HTML; a type of results is a function below."""
    raise TypeError(f"nothing is known of how {type(result).__name__} looks")


@html.register
def _(mask: Mask) -> str:
    return html(_shown(mask))


@html.register
def _(shown: Shown) -> str:
    mask = shown.mask
    attend, ignore = shown.values()
    planes = [*np.ndindex(*mask.stored[:2])]
    maps = [svg(shown, *plane) for plane in planes[:MOST_MAPS]]
    left = len(planes) - len(maps)
    told = [
        f"{list(mask.shape)}, queries down, keys across: blue attends; "
        f"{attend} = attend, {ignore} = ignore ({shown.convention})",
        f"attended {mask.attended:,} of {mask.cells:,} cells ({mask.density:.2%}), "
        f"empty rows {mask.empty_rows:,}",
        f"… {counted(left, 'more map')} of other samples and heads" if left else "",
        *shown.warnings,
    ]
    return _block(_bold(shown.spec), " ".join(maps), *map(_text, told))


@html.register
def _(compared: Comparison) -> str:
    rows = [(f"{region.cells:,}", region.meaning) for region in compared.regions]
    pairs = [(f"{pair.difference.cells:,}", f"{pair.a} and {pair.b}") for pair in compared.tensors]
    names = f"A: {compared.a}, B: {compared.b}"
    table = _table(("cells", "what differs"), [*rows, *pairs])
    return _block(_bold("equal" if compared.equal else "different"), _text(names), table)


@html.register
def _(report: Report) -> str:
    opening, *closing = str(report).splitlines()[-1:]
    return _block(_bold(opening), _findings(report.findings), *map(_text, closing))


@html.register
def _(trace: Trace) -> str:
    return html(trace.report)


@html.register
def _(report: ProbeReport) -> str:
    behaviour = report.behaviour
    rows = [
        (layers.name, "; ".join(settings), *row)
        for layers in layers_of(behaviour)
        for row, settings in layers.rows
    ]
    return _block(
        _bold(report.closing),
        _text(opening(behaviour)),
        _table(("layers", *HEADINGS), rows),
        *map(_text, whole_model(behaviour)),
        _findings(report.findings),
    )


@html.register
def _(audited: Audited) -> str:
    glance = [(line.label, f"{line.number:,}", f"{line.share} {line.of}") for line in lines(audited.glance)]
    found = [
        (told.code, told.name, told.severity, share(told.rows, told.of), sentence(told.message), told.fix)
        for told in audited.findings
    ]
    return _block(
        _bold(str(audited).splitlines()[-1]),
        _table(("", "", ""), glance),
        _table(("code", "rule", "severity", "rows", "what", "fix"), found),
    )


def _findings(findings: Sequence[Finding]) -> str:
    rows = [
        (
            each.code,
            each.name,
            each.severity,
            sentence(each.message),
            place_in_words(each),
            sentence(each.fix),
        )
        for each in findings
    ]
    return _table(("code", "rule", "severity", "what", "where", "fix"), rows)


def _shown(mask: Mask | Shown) -> Shown:
    return mask if isinstance(mask, Shown) else of_mask(mask)


# HTML


def _block(*parts: str) -> str:
    """Parts below each other."""
    whole = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div class="maskcli" style="overflow-x:auto">{whole}</div>'


def _text(text: object) -> str:
    return escape(clean(text))


def _bold(text: object) -> str:
    return f"<b>{_text(text)}</b>"


def _table(headings: Sequence[str], rows: Sequence[Iterable[str]]) -> str:
    """Rows of text; nothing where there are none."""
    if not rows:
        return ""
    head = "".join(f'<th style="{CELL}">{_text(each)}</th>' for each in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:MOST_ROWS])
    more = f"… {len(rows) - MOST_ROWS:,} more" if len(rows) > MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(text: str) -> str:
    colour = f";color:{SEVERITIES[text]}" if text in SEVERITIES else ""
    return f'<td style="{CELL}{colour}">{_text(text)}</td>'
