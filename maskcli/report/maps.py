"""A mask on a screen: a table of its cells, or lines of characters under a ruler of its keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maskcli.arrays import Array, pixel_edges
from maskcli.inputs.texts import Shown
from maskcli.masks.conventions import CONVENTIONS
from maskcli.masks.mask import Mask
from maskcli.masks.views import picture
from maskcli.report.characters import FULL, MAP_HEIGHT, MAP_WIDTH, shaded
from maskcli.report.colours import ATTENDS, PAINTS
from maskcli.report.terminal import clean, cut

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# Queries that have a line with the name of their token, at most.
MOST_NAMED = 64
# How wide a token may be on either axis before it is cut with an ellipsis, and a key where that does not fit.
LABEL = 14
LABELS = (LABEL, 8, 5, 3)
# Characters of a line, at least, and of one beside others where a character is more than a cell.
NARROWEST, COARSE = 10, 40
IGNORE = "·"
# A character for each two cells above each other, and for each two by two: the upper ones count most.
HALVES = " ▄▀█"
QUARTERS = " ▗▖▄▝▐▞▟▘▚▌▙▀▜▛█"
TICK = "╷"


class Place(NamedTuple):
    """One of the maps of a mask."""

    item: int
    head: int


class Drawn(NamedTuple):
    """A map as lines, and what its characters are; `cells` where each is told by itself."""

    lines: list[Text]
    note: str
    cells: bool


def cell_table(shown: Shown, place: Place, width: int, alone: bool = True) -> Table | None:
    """A table with tokens on both axes; None when it does not fit."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    queries, keys = shown.mask.shape[2:]
    if max(queries, keys) > MOST_NAMED:
        return None
    downs = [cut(clean(shown.queries.token(place.item, query)), LABEL) for query in range(queries)]
    acrosses = [cut(clean(shown.key_token(place.item, key)), LABEL) for key in range(keys)]
    attend, ignore = shown.values()
    plain = CONVENTIONS[shown.convention].plain
    written = glyphs_of(shown) if plain else dict.fromkeys(PAINTS, ignore) | {ATTENDS: attend}
    label = _label_width(width, downs, acrosses, max(map(len, written.values())))
    if label is None or not (alone or label in LABELS[:2]):
        return None

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", style="dim")
    table.add_column("", justify="left")
    for across in acrosses:
        table.add_column(Text(cut(across, label)), justify="center", no_wrap=True)
    for query, row in enumerate(_reasons(shown, place).tolist()):
        cells = (Text(written[kind], style=PAINTS[kind].style) for kind in row)
        table.add_row(str(query), Text(downs[query]), *cells)
    return table


def _reasons(shown: Shown, place: Place) -> Array:
    """What each cell is, [Q, K]: ATTENDS, or the kind of its reason."""
    cells = np.full(shown.mask.shape[2:], ATTENDS, object)
    for kind, forbidden in shown.forbidden(place.item).items():
        cells[forbidden.dense(*place)] = kind
    return cells


def _label_width(width: int, downs: list[str], acrosses: list[str], cell: int) -> int | None:
    """The widest that keys may be called so that the table fits; None when none is narrow enough."""
    from rich.cells import cell_len

    # Beside its text a column takes a blank of padding and a divider.
    stub = len(str(len(downs) - 1)) + max(map(cell_len, downs)) + 4
    for label in LABELS:
        columns_of_keys = (max(cell, min(cell_len(across), label)) + 2 for across in acrosses)
        if stub + sum(columns_of_keys) <= width:
            return label
    return None


def named_rows(shown: Shown, place: Place, width: int, alone: bool = True) -> Drawn | None:
    """A line a query, behind the name of its token; None where there are too many, or is no room."""
    from rich.cells import cell_len

    queries, keys = shown.mask.shape[2:]
    if queries > MOST_NAMED:
        return None
    names = [cut(clean(shown.queries.token(place.item, query)), LABEL) for query in range(queries)]
    numbers = [f"{query:>{len(str(queries - 1))}}" for query in range(queries)]
    known = any(name != number.strip() for name, number in zip(names, numbers, strict=True))
    widest = max(map(cell_len, names))
    padded = [f"  {name}{' ' * (widest - cell_len(name))}" if known else "" for name in names]
    labels = [number + name for number, name in zip(numbers, padded, strict=True)]
    room = min(width, MAP_WIDTH) - cell_len(labels[0]) - 1
    if room < (NARROWEST if alone else min(COARSE, keys)):
        return None

    share, _ = picture(shown.mask, queries, room, *place)
    share = np.broadcast_to(share, (queries, share.shape[1]))
    shares = _shares(shown, place, queries, room)
    whole = keys <= room
    marks = glyphs_of(shown)
    glyphs = np.where(share > 0, marks[ATTENDS], IGNORE) if whole else _shaded(share)
    styles = _with_reasons(glyphs, share > 0, shares, marks if whole or len(shares) > 1 else None)
    each = "each character is one key" if whole else f"{_covers(1, keys, share)}: {FULL} all attend, ▓▒░ some"
    return Drawn([_ruler(labels[0], keys, share.shape[1]), *_lines(labels, glyphs, styles)], each, whole)


def halves(shown: Shown, place: Place, width: int, alone: bool = True) -> Drawn | None:
    """Half blocks, two queries a line; None where the mask is larger."""
    queries, keys = shown.mask.shape[2:]
    room = min(width, MAP_WIDTH) - len(str(queries - 1)) - 1
    if keys > room or queries > 2 * MAP_HEIGHT:
        return None
    labels = _numbers(range(0, queries, 2), queries)
    dense = shown.mask.dense(*place)
    even = np.pad(dense, [(0, queries % 2), (0, 0)])
    glyphs = np.array(list(HALVES))[even[0::2] * 2 + even[1::2]]
    shares = {kind: cells.dense(*place)[0::2] for kind, cells in shown.forbidden(place.item).items()}
    note = "each character is one key and two queries: █ both attend, ▀ the upper, ▄ the lower"
    return _map(shown, labels, glyphs, shares, keys, note, True)


def quarters(shown: Shown, place: Place, width: int, alone: bool = True) -> Drawn | None:
    """Quarter blocks: a cell each, or, where these are too many, the part of a character that attends."""
    queries, keys = shown.mask.shape[2:]
    room = max(min(width, MAP_WIDTH) - len(str(queries - 1)) - 1, NARROWEST)
    high, wide = min(-(-queries // 2), MAP_HEIGHT), min(-(-keys // 2), room)
    if not alone and wide < min(COARSE, -(-keys // 2)):
        return None
    share, cells = picture(shown.mask, 2 * high, 2 * wide, *place)
    odd = [(0, size % 2) for size in share.shape]
    parts, totals = _by_quarters(np.pad(np.rint(share * cells), odd)), _by_quarters(np.pad(cells, odd))
    attends = parts > 0
    glyphs = np.array(list(QUARTERS))[attends @ np.array([8, 4, 2, 1])]
    # Where each part attends a little, how much tells more than where.
    mixed = (attends | (totals == 0)).all(-1) & (parts.sum(-1) < totals.sum(-1))
    glyphs[mixed] = shaded(parts.sum(-1) / totals.sum(-1))[mixed]

    # A single reason is told from nothing.
    shares = _shares(shown, place, *glyphs.shape) if len(shown.kinds) > 1 else {}
    labels = _numbers(pixel_edges(queries, 2 * high)[:-1:2].tolist(), queries)
    exact = bool(cells.max() == 1)
    each = "each character is two keys and two queries" if exact else _covers(queries, keys, glyphs)
    note = f"{each}: █ all attend, {'▘▞▙ these' if exact else '▘▞▙ some there, ▓▒░ some'}"
    return _map(shown, labels, glyphs, shares, keys, note, exact)


def glyphs_of(shown: Shown) -> dict[str, str]:
    """A character for each kind of cell; a single reason needs no character of its own."""
    kinds = shown.kinds
    alone = {kinds[0]: IGNORE} if len(kinds) == 1 else {}
    return {kind: paint.glyph for kind, paint in PAINTS.items()} | alone


def _by_quarters(cells: Array) -> Array:
    """Cells [2 Q, 2 K] by character, [Q, K, 4]: the upper two, the lower two."""
    high, wide = cells.shape[0] // 2, cells.shape[1] // 2
    return cells.reshape(high, 2, wide, 2).transpose(0, 2, 1, 3).reshape(high, wide, 4)


def _shares(shown: Shown, place: Place, high: int, wide: int) -> dict[str, Array]:
    """How much of each character a kind of reason forbids."""
    parts: dict[str, Mask] = shown.forbidden(place.item)
    return {kind: picture(cells, high, wide, *place)[0] for kind, cells in parts.items()}


def _shaded(share: Array) -> Array:
    glyphs = shaded(share)
    glyphs[share == 1.0] = FULL
    return glyphs


def _covers(queries: int, keys: int, drawn: Array) -> str:
    """How much one character stands for."""
    high, wide = -(-queries // drawn.shape[0]) if queries > 1 else 1, -(-keys // drawn.shape[1])
    return f"each character covers about {f'{high:,} queries x ' if queries > 1 else ''}{wide:,} keys"


def _map(
    shown: Shown,
    labels: list[str],
    glyphs: Array,
    shares: dict[str, Array],
    keys: int,
    note: str,
    cells: bool,
) -> Drawn:
    several = len(shares) > 1
    styles = _with_reasons(glyphs, glyphs != " ", shares, glyphs_of(shown) if several else None)
    blank = "" if several else ", blank none"
    lines = [_ruler(labels[0], keys, glyphs.shape[1]), *_lines(labels, glyphs, styles)]
    return Drawn(lines, note + blank, cells)


def _with_reasons(
    glyphs: Array, attends: Array, shares: dict[str, Array], marks: dict[str, str] | None
) -> Array:
    """The style of each character of a map; where nobody attends that of its reason, and its mark.

    `shares` say how much of a character each kind forbids.
    """
    styles = np.full(glyphs.shape, PAINTS[ATTENDS].style, object)
    if marks is None or not shares:
        return styles
    whole = [np.broadcast_to(share, glyphs.shape) for share in shares.values()]
    kinds = np.array(list(shares))[np.argmax(whole, axis=0)]
    empty = ~attends
    glyphs[empty] = np.vectorize(marks.get, otypes=[object])(kinds[empty]) if empty.any() else IGNORE
    styles[empty] = [PAINTS[kind].style for kind in kinds[empty]]
    return styles


def _numbers(firsts: Iterable[int], queries: int) -> list[str]:
    return [f"{first:>{len(str(queries - 1))}}" for first in firsts]


def _lines(labels: Sequence[str], glyphs: Array, styles: Array) -> list[Text]:
    """A line of characters behind each label."""
    from rich.text import Text

    lines = []
    for label, line, looks in zip(labels, glyphs.tolist(), styles.tolist(), strict=True):
        whole = Text.assemble((f"{label} ", "dim"), no_wrap=True)
        for look, run in groupby(zip(line, looks, strict=True), key=itemgetter(1)):
            whole.append("".join(glyph for glyph, _ in run), style=look)
        whole.rstrip()
        lines.append(whole)
    return lines


def _ruler(label: str, keys: int, wide: int) -> Text:
    """The numbers of keys above the characters that stand for them, at round distances."""
    from rich.cells import cell_len
    from rich.text import Text

    line = "".join(ticks(keys, wide))
    return Text(f"{' ' * (cell_len(label) + 1)}{line}", "dim", no_wrap=True)


def ticks(keys: int, wide: int) -> list[str]:
    """Ticks of a ruler over `wide` characters, each with what follows it up to the next.

    >>> ticks(100, 25)
    ['╷0   ', '╷20  ', '╷40  ', '╷60  ', '╷80  ']
    """
    least = len(f"{keys:,}") + 2
    steps = (base * 10**power for power in range(10) for base in (1, 2, 5))
    step = next(step for step in steps if step * wide >= least * keys or step >= keys)
    places = list(range(0, keys, step))
    columns = [place * wide // keys for place in places]
    parts = zip(places, columns, [*columns[1:], wide], strict=True)
    made = [f"{TICK}{place:,}".ljust(stop - start) for place, start, stop in parts]
    # The last may have no room for its number.
    return made if len(made[-1]) <= wide - columns[-1] else [*made[:-1], TICK]
