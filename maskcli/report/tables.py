"""`show` in a terminal: token tables, masks, and the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskcli.inputs.texts import Shown
from maskcli.masks.conventions import CONVENTIONS
from maskcli.masks.mask import Mask
from maskcli.masks.views import blocks
from maskcli.report.abreast import MOST_SEQUENCES, print_masks, print_tables
from maskcli.report.colours import ATTENDS, PAINTS
from maskcli.report.maps import IGNORE, glyphs_of
from maskcli.report.shown import token_facts
from maskcli.report.terminal import clean, cut

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from maskcli.text import Batch

# Longer token tables show their head and tail: a screen is no place for a thousand rows.
MOST_TOKENS, HEAD, TAIL = 64, 40, 8


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
    print_masks(shown, console)
    _print_numbers(shown, console)


def _print_tokens(console: Console, batch: Batch, items: range, name: str | None) -> None:
    """A table of tokens for each item."""
    print_tables([_token_table(batch, item, name) for item in items], console)


def _token_table(batch: Batch, item: int, name: str | None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # A title is no wider than its table.
    title = None if name is None else Text(_title(batch, item, name), no_wrap=True, overflow="ellipsis")
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


def _legend(shown: Shown) -> Text:
    """What the characters and colours of a map mean: of the reasons, those that occur."""
    from rich.text import Text

    glyphs, attends = glyphs_of(shown), PAINTS[ATTENDS]
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
