"""`show` in a terminal: token tables and masks, fitted to its width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.arrays import Array, pixel_edges
from maskcli.inputs.texts import Shown
from maskcli.masks.conventions import CONVENTIONS
from maskcli.masks.mask import Mask
from maskcli.masks.views import blocks, picture
from maskcli.report.characters import FULL, MAP_HEIGHT, MAP_WIDTH, columns, print_map, shaded
from maskcli.report.colours import ATTENDS, PAINTS
from maskcli.report.shown import token_facts
from maskcli.report.terminal import PIPE_WIDTH, clean, cut

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from maskcli.text import Batch

# Longer token tables show their head and tail: a screen is no place for a thousand rows.
MOST_TOKENS, HEAD, TAIL = 64, 40, 8
# Most samples printed one by one.
MOST_SEQUENCES = 8
# How wide a token may be on either axis before it is cut with an ellipsis, and a key where that does not fit.
LABEL = 14
LABELS = (LABEL, 8, 5, 3)
IGNORE = "·"


def print_shown(shown: Shown, console: Console) -> None:
    """Token tables, then the mask (once for all samples where they are equal), then the numbers."""
    items, queries = shown.mask.shape[0], shown.queries
    printed = range(min(items, MOST_SEQUENCES))
    # Bare lengths have no tokens to tell of; a long table of numbers in order would only push the mask away.
    if queries.ids is not None or queries.shape[1] <= MOST_TOKENS:
        _print_tokens(console, queries, printed, "sample" if items > 1 else None)
    if shown.source is not None:
        console.print()
        _print_tokens(console, shown.source, printed, "source")
    if items > MOST_SEQUENCES:
        more = items - MOST_SEQUENCES
        console.print(f"… {more} more samples; --format json or text writes them all", style="dim")

    console.print()
    if items > 1 and shown.mask.stored[0] == 1:
        _print_mask(shown, console, 0, " (the same for every sample)")
    else:
        for item in printed:
            _print_mask(shown, console, item, f" of sample {item}" if items > 1 else "")
    _print_numbers(shown, console)


def _print_tokens(console: Console, batch: Batch, items: range, name: str | None) -> None:
    """A table of tokens for each item, with a blank line between them."""
    for item in items:
        if item:
            console.print()
        console.print(_token_table(batch, item, name))


def _token_table(batch: Batch, item: int, name: str | None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = None if name is None else Text(_title(batch, item, name))
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_edge=False, pad_edge=False)
    length = batch.shape[1]
    spans = [(0, length)] if length <= MOST_TOKENS else [(0, HEAD), (length - TAIL, length)]
    parts = [token_facts(batch, item, *span) for span in spans]

    names = _told(batch, item, parts[0][0])
    for column in names:
        table.add_column(column, justify="left" if column == "token" else "right", overflow="fold")
    for index, part in enumerate(parts):
        if index:
            table.add_row(*("…" for _ in names), style="dim")
        for facts in part:
            special = "yes" if facts["special"] else ""
            told = {**facts, "special": special, "token": clean(facts["token"])}
            cells = [Text(str(told[name])) for name in names]
            table.add_row(*cells, style=None if facts["attention_mask"] else "dim")
    return table


def _told(batch: Batch, item: int, facts: dict[str, Any]) -> list[str]:
    """The columns of a table of tokens: what is known of them, and tells something."""
    silent = {"token": batch.tokenizer is None, "special": not batch.special[item].any()}
    return [name for name, value in facts.items() if value is not None and not silent.get(name)]


def _title(batch: Batch, item: int, name: str) -> str:
    """What a table of tokens is called: its number, and its text unless several share the row."""
    text = batch.texts[item] if batch.documents is None else None
    return f"{name} {item}" if text is None else f"{name} {item}: {cut(clean(text), 40)}"


def _print_mask(shown: Shown, console: Console, item: int, whose: str) -> None:
    from rich.text import Text

    console.print(Text(f"{clean(shown.spec)}{whose}: queries down, keys across", style="bold"))
    small = max(shown.mask.shape[2:]) <= MOST_TOKENS
    table = _cell_table(shown, console, item) if small else None
    if table is None:
        _print_map(shown, console, item)
    else:
        console.print(table)
    console.print()
    heads = shown.mask.stored[1]
    if heads > 1:
        console.print(f"head 0 of {heads}; heads differ, and --format json has them all", style="dim")


def _cell_table(shown: Shown, console: Console, item: int) -> Table | None:
    """A table with tokens on both axes; None when it does not fit."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    queries, keys = shown.mask.shape[2:]
    downs = [cut(clean(shown.queries.token(item, query)), LABEL) for query in range(queries)]
    acrosses = [cut(clean(shown.key_token(item, key)), LABEL) for key in range(keys)]
    plain = CONVENTIONS[shown.convention].plain
    attend, ignore = shown.values()
    written = _glyphs(shown) if plain else dict.fromkeys(PAINTS, ignore) | {ATTENDS: attend}
    label = _label_width(console, downs, acrosses, max(map(len, written.values())))
    if label is None:
        return None

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", style="dim")
    table.add_column("", justify="left")
    for across in acrosses:
        table.add_column(Text(cut(across, label)), justify="center", no_wrap=True)
    for query, row in enumerate(_reasons(shown, item).tolist()):
        cells = (Text(written[kind], style=PAINTS[kind].style) for kind in row)
        table.add_row(str(query), Text(downs[query]), *cells)
    return table


def _reasons(shown: Shown, item: int) -> Array:
    """What each cell of an item is, [Q, K]: ATTENDS, or the kind of its reason."""
    cells = np.full(shown.mask.shape[2:], ATTENDS, object)
    for kind, forbidden in shown.forbidden(item).items():
        cells[forbidden.dense(item)] = kind
    return cells


def _glyphs(shown: Shown) -> dict[str, str]:
    """A character for each kind of cell; a single reason needs no character of its own."""
    kinds = shown.kinds
    alone = {kinds[0]: IGNORE} if len(kinds) == 1 else {}
    return {kind: paint.glyph for kind, paint in PAINTS.items()} | alone


def _legend(shown: Shown) -> Text:
    """What the characters and colours of a map mean: of the reasons, those that occur."""
    from rich.text import Text

    glyphs, attends = _glyphs(shown), PAINTS[ATTENDS]
    kinds = shown.kinds
    if len(kinds) < 2:
        style = PAINTS[kinds[0]].style if kinds else ""
        return Text.assemble((attends.glyph, attends.style), " attend, ", (IGNORE, style), " ignore")
    parts = (
        Text.assemble((glyphs[kind], paint.style), f" {paint.label}")
        for kind, paint in PAINTS.items()
        if kind in (ATTENDS, *kinds)
    )
    return Text("  ").join(parts)


def _label_width(console: Console, downs: list[str], acrosses: list[str], cell: int) -> int | None:
    """The widest that keys may be called so that the table fits; None when none is narrow enough."""
    from rich.cells import cell_len

    width = MAP_WIDTH * 2 if console.width == PIPE_WIDTH else console.width
    # Beside its text a column takes a blank of padding and a divider.
    stub = len(str(len(downs) - 1)) + max(map(cell_len, downs)) + 4
    for label in LABELS:
        columns_of_keys = (max(cell, min(cell_len(across), label)) + 2 for across in acrosses)
        if stub + sum(columns_of_keys) <= width:
            return label
    return None


def _print_map(shown: Shown, console: Console, item: int) -> None:
    """Half-block characters, two queries a line, or a reduced map whose characters stand for many cells."""
    queries, keys = shown.mask.shape[2:]
    gutter = len(str(queries - 1)) + 1
    room = columns(console, gutter)
    if keys <= room and queries <= 2 * MAP_HEIGHT:
        glyphs = _half_blocks(shown.mask.dense(item))
        shares = {kind: cells.dense(item)[0::2] for kind, cells in shown.forbidden(item).items()}
        firsts = list(range(0, queries, 2))
        note = "each character is one key and two queries: █ both attend, ▀ the upper, ▄ the lower"
    else:
        share, _cells = picture(shown.mask, MAP_HEIGHT, room, item)
        glyphs = shaded(share)
        glyphs[share == 1.0] = FULL
        shares = {k: picture(cells, MAP_HEIGHT, room, item)[0] for k, cells in shown.forbidden(item).items()}
        firsts = pixel_edges(queries, MAP_HEIGHT)[:-1].tolist()
        high, wide = -(-queries // share.shape[0]), -(-keys // share.shape[1])
        covers = f"each character covers about {high:,} queries x {wide:,} keys"
        note = f"{covers}: █ all attend, ▓▒░ some"

    blank = "" if len(shares) > 1 else ", blank none"
    print_map(console, firsts, glyphs, note + blank, gutter, _with_reasons(shown, glyphs, shares))


def _with_reasons(shown: Shown, glyphs: Array, shares: dict[str, Array]) -> Array:
    """The style of each character of a map; where nobody attends its reason, by its own character.

    `shares` say how much of a character each kind forbids; a single one needs no characters.
    """
    styles = np.full(glyphs.shape, PAINTS[ATTENDS].style, object)
    if len(shares) < 2:
        return styles
    kinds = np.array(list(shares))[np.argmax(list(shares.values()), axis=0)]
    empty = glyphs == " "
    glyphs[empty] = np.vectorize(_glyphs(shown).get, otypes=[object])(kinds[empty])
    styles[empty] = np.vectorize(lambda kind: PAINTS[kind].style, otypes=[object])(kinds[empty])
    return styles


def _half_blocks(dense: Array) -> Array:
    """A character for each two cells [Q, K] above each other."""
    even = np.pad(dense, [(0, len(dense) % 2), (0, 0)])
    glyphs: Array = np.array(list(" ▄▀█"))[even[0::2] * 2 + even[1::2]]
    return glyphs


def _print_numbers(shown: Shown, console: Console) -> None:
    from rich.text import Text

    mask, block = shown.mask, shown.block
    attend, ignore = shown.values()
    convention = CONVENTIONS[shown.convention]
    batch, heads, queries, keys = mask.shape
    copies = heads // mask.stored[1]
    hint = ": these queries have no key at all" if mask.empty_rows else ""
    lines = [
        f"{attend} = attend, {ignore} = ignore ({shown.convention}, {shown.dtype}: {convention.who})",
        f"shape {[batch, mask.stored[1], queries, keys]}, broadcasts from {shown.broadcast_shape}",
        f"attended {mask.attended // copies:,} of {mask.cells // copies:,} cells ({mask.density:.2%}), "
        f"keys per query {_per_query(mask)}",
        f"empty rows {mask.empty_rows // copies:,}{hint}",
    ]
    if keys > block and queries > 1:
        full, partial, empty = (count // copies for count in blocks(mask, block, block))
        lines.append(f"blocks of {block} x {block}: {full:,} full, {partial:,} partial, {empty:,} empty")
    if convention.plain:
        several = len(shown.kinds) > 1
        console.print(Text.assemble(_legend(shown), "\n" if several else "; ", lines.pop(0)))
    for line in lines:
        console.print(Text(line))


def _per_query(mask: Mask) -> str:
    """How many keys queries see: the fewest, the most and the mean."""
    counts = mask.keys_per_query
    low, high = counts.min(), counts.max()
    span = str(low) if low == high else f"{low} to {high}"
    return f"{span} (mean {counts.mean():.4g})"
