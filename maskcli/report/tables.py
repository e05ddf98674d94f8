"""`show` in a terminal: token tables and masks, fitted to its width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskcli.arrays import Array, pixel_edges
from maskcli.inputs.texts import Shown
from maskcli.masks.conventions import CONVENTIONS
from maskcli.masks.mask import Mask
from maskcli.masks.views import blocks, picture
from maskcli.report.characters import FULL, MAP_HEIGHT, MAP_WIDTH, columns, print_map, shaded
from maskcli.report.shown import token_facts
from maskcli.report.terminal import PIPE_WIDTH, clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from maskcli.text import Batch

# Longer token tables show their head and tail: a screen is no place for a thousand rows.
MOST_TOKENS, HEAD, TAIL = 64, 40, 8
# Most sequences printed one by one.
MOST_SEQUENCES = 8
# The widest a token may be on either axis before it is cut with an ellipsis.
LABEL = 14
ATTEND, IGNORE = "■", "·"


def print_shown(shown: Shown, console: Console) -> None:
    """Token tables, then the mask (once for all sequences where they are equal), then the numbers."""
    items = shown.mask.shape[0]
    # Bare lengths have no tokens to tell of; a long table of numbers in order would only push the mask away.
    listed = (
        min(items, MOST_SEQUENCES)
        if shown.queries.ids is not None or shown.queries.shape[1] <= MOST_TOKENS
        else 0
    )
    for item in range(listed):
        if item:
            console.print()
        console.print(_token_table(shown.queries, item, "sequence" if items > 1 else None))
    if shown.source is not None:
        for item in range(min(items, MOST_SEQUENCES)):
            console.print()
            console.print(_token_table(shown.source, item, "source"))
    if items > MOST_SEQUENCES:
        console.print(
            f"… {items - MOST_SEQUENCES} more sequences; --format json or text writes them all", style="dim"
        )
    same = shown.mask.stored[0] == 1 and items > 1
    console.print()
    for item in range(1 if same else min(items, MOST_SEQUENCES)):
        _print_mask(shown, console, item, same)
    _print_numbers(shown, console)


def _token_table(batch: Batch, item: int, name: str | None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    _rows, length = batch.shape
    title = None if name is None else f"{name} {item}"
    text = batch.texts[item] if batch.documents is None else None
    if text is not None and name is not None:
        title = f"{title}: {_cut(clean(text), 40)}"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title and Text(title),
        title_justify="left",
        show_edge=False,
        pad_edge=False,
    )
    columns = {
        "index": "index",
        "id": "id",
        "token": "token",
        "special": "special",
        "attention_mask": "attention_mask",
    }
    columns |= {"position_id": "position_id", "segment": "segment", "label": "label"}
    optional = {
        "id": batch.ids,
        "token": batch.tokenizer or batch.texts[0],
        "segment": batch.segments,
        "label": batch.labels,
    }
    shown = [name for name in columns if optional.get(name, True) is not None]
    if not batch.special[item].any():
        shown.remove("special")
    for name in shown:
        table.add_column(columns[name], justify="left" if name == "token" else "right", overflow="fold")
    for index in _indices(length):
        if index is None:
            table.add_row(*("…" for _ in shown), style="dim")
            continue
        (facts,) = token_facts(batch, item, index, index + 1)
        cells = {**facts, "special": "yes" if facts["special"] else "", "token": clean(facts["token"])}
        table.add_row(
            *(Text(str(cells[name])) for name in shown), style=None if facts["attention_mask"] else "dim"
        )
    return table


def _indices(length: int) -> list[int | None]:
    if length <= MOST_TOKENS:
        return list(range(length))
    return [*range(HEAD), None, *range(length - TAIL, length)]


def _print_mask(shown: Shown, console: Console, item: int, same: bool) -> None:
    from rich.text import Text

    items = shown.mask.shape[0]
    whose = " (the same for every sequence)" if same else f" of sequence {item}" if items > 1 else ""
    console.print(Text(f"{shown.spec}{whose}: queries down, keys across", style="bold"))
    piped = console.width == PIPE_WIDTH
    if not _print_cells(shown, console, item, MAP_WIDTH * 2 if piped else console.width):
        _print_map(shown, console, item)
    console.print()
    if shown.mask.stored[1] > 1:
        console.print(
            f"head 0 of {shown.mask.stored[1]}; heads differ, and --format json has them all", style="dim"
        )


def _print_cells(shown: Shown, console: Console, item: int, width: int) -> bool:
    """A table with tokens on both axes; False when it does not fit."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    _, _, queries, keys = shown.mask.shape
    if queries > MOST_TOKENS or keys > MOST_TOKENS:
        return False
    downs = [_cut(clean(shown.queries.token(item, query)), LABEL) for query in range(queries)]
    acrosses = [_cut(clean(shown.key_token(item, key)), LABEL) for key in range(keys)]
    plain = CONVENTIONS[shown.convention].plain
    attend, ignore = (ATTEND, IGNORE) if plain else shown.values()
    # Beside its text a column takes a blank of padding and a divider.
    stub = len(str(queries - 1)) + max(map(cell_len, downs)) + 4
    cell = 1 if plain else max(len(attend), len(ignore))
    label = next(
        (
            w
            for w in (LABEL, 8, 5, 3)
            if stub + sum(max(cell, min(cell_len(t), w)) + 2 for t in acrosses) <= width
        ),
        None,
    )
    if label is None:
        return False
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", style="dim")
    table.add_column("", justify="left")
    for across in acrosses:
        table.add_column(Text(_cut(across, label)), justify="center", no_wrap=True)
    dense = shown.mask.dense(item)
    for query in range(queries):
        cells = (Text(attend if cell else ignore, style="green" if cell else "dim") for cell in dense[query])
        table.add_row(str(query), Text(downs[query]), *cells)
    console.print(table)
    return True


def _print_map(shown: Shown, console: Console, item: int) -> None:
    """Half-block characters, two queries a line, or a reduced map whose characters stand for many cells."""
    queries, keys = shown.mask.shape[2:]
    gutter = len(str(queries - 1)) + 1
    room = columns(console, gutter)
    if keys <= room and queries <= 2 * MAP_HEIGHT:
        note = "each character is one key and two queries: █ both attend, ▀ the upper, ▄ the lower"
        print_map(console, range(0, queries, 2), _half_blocks(shown.mask.dense(item)), note, gutter)
        return

    share, _cells = picture(shown.mask, MAP_HEIGHT, room, item)
    glyphs = shaded(share)
    glyphs[share == 1.0] = FULL
    high, wide = -(-queries // share.shape[0]), -(-keys // share.shape[1])
    covers = f"each character covers about {high:,} queries x {wide:,} keys"
    note = f"{covers}: █ all attend, ▓▒░ some, blank none"
    print_map(console, pixel_edges(queries, MAP_HEIGHT)[:-1].tolist(), glyphs, note, gutter)


def _half_blocks(dense: Array) -> Array:
    """A character for each two cells [Q, K] above each other."""
    even = np.pad(dense, [(0, len(dense) % 2), (0, 0)])
    glyphs: Array = np.array(list(" ▄▀█"))[even[0::2] * 2 + even[1::2]]
    return glyphs


def _print_numbers(shown: Shown, console: Console) -> None:
    from rich.text import Text

    mask = shown.mask
    attend, ignore = shown.values()
    convention = CONVENTIONS[shown.convention]
    glyphs = f"{ATTEND} attend, {IGNORE} ignore; " if convention.plain else ""
    batch, _, queries, keys = mask.shape
    shape = [batch, mask.stored[1], queries, keys]
    copies = mask.shape[1] // mask.stored[1]
    lines = [
        f"{glyphs}{attend} = attend, {ignore} = ignore ({shown.convention}, {shown.dtype}: {convention.who})",
        f"shape {shape}, broadcasts from {shown.broadcast_shape}",
        f"attended {mask.attended // copies:,} of {mask.cells // copies:,} cells ({mask.density:.2%}), "
        f"keys per query {_per_query(mask)}",
        f"empty rows {mask.empty_rows // copies:,}"
        + (": these queries have no key at all" if mask.empty_rows else ""),
    ]
    block = shown.block
    if keys > block and queries > 1:
        full, partial, empty = (count // copies for count in blocks(mask, block, block))
        lines.append(f"blocks of {block} x {block}: {full:,} full, {partial:,} partial, {empty:,} empty")
    for line in lines:
        console.print(Text(line))


def _per_query(mask: Mask) -> str:
    """How many keys queries see: the fewest, the most and the mean."""
    counts = mask.keys_per_query
    low, high = counts.min(), counts.max()
    return f"{low if low == high else f'{low} to {high}'} (mean {counts.mean():.4g})"


def _cut(text: str, width: int) -> str:
    """Text of at most `width` cells, an ellipsis for what is cut; wide characters count two."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…"
