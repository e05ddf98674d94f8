"""A training set at a glance: its numbers and shares, and those of the turns of each role."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from maskcli.auditing.results import Audited, Glance

if TYPE_CHECKING:
    from rich.console import Console


# In the order of a conversation.
ROLES = ("system", "user", "assistant", "tool")


class Line(NamedTuple):
    """A number, what it counts, its share, and of what that is. `deep` ones are a part of the line above."""

    label: str
    number: int
    share: str = ""
    of: str = ""
    deep: bool = False


def print_glance(audited: Audited, console: Console) -> None:
    """The table of numbers, then that of turns."""
    from rich.table import Table
    from rich.text import Text

    from maskcli.report.terminal import clean

    console.print(Text(clean(audited.name), style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for line in lines(audited.glance):
        indent = "    " if line.deep else "  "
        table.add_row(f"{indent}{line.label}", f"{line.number:,}", line.share, line.of)
    console.print(table)
    if audited.glance.turns:
        console.print()
        _print_turns(audited.glance, console)


def lines(glance: Glance) -> Iterator[Line]:
    """All that is known of a set, in reading order."""
    rows, real = glance.rows, glance.real
    yield Line("rows", rows)
    yield Line("tokens", glance.tokens)
    yield Line("padding", glance.padding, share(glance.padding, glance.tokens), deep=True)
    if glance.counted is not None:
        # More than what is real can only be padding that is counted too.
        over = glance.counted > real
        whole, of = (glance.tokens, "of all") if over else (real, "of the rest")
        yield Line("counted by the loss", glance.counted, share(glance.counted, whole), of, deep=True)
    for label, number in (
        ("rows with nothing counted", glance.rows_uncounted),
        ("rows counted whole", glance.rows_whole),
    ):
        if number is not None:
            yield Line(label, number, share(number, rows))
    if glance.answers:
        yield Line("answers", glance.answers)
    if glance.answers and glance.answer_ends_counted is not None:
        ends = glance.answer_ends_counted
        yield Line("whose end is counted", ends, share(ends, glance.answers), deep=True)
    if glance.rows_longest:
        yield Line(
            f"rows of {glance.longest:,}, the longest", glance.rows_longest, share(glance.rows_longest, rows)
        )
    if glance.rows_longest and glance.rows_longest_without_end is not None:
        cut = glance.rows_longest_without_end
        yield Line("without an end", cut, share(cut, glance.rows_longest), deep=True)
    yield from _packed(glance)


def _packed(glance: Glance) -> Iterator[Line]:
    """Rows of several documents."""
    if glance.packed_rows:
        yield Line("packed rows", glance.packed_rows, share(glance.packed_rows, glance.rows))
        if glance.documents is not None:
            mean = glance.documents / glance.packed_rows
            yield Line("documents in them", glance.documents, f"{mean:,.1f}", "a row", deep=True)


def share(part: int, whole: int) -> str:
    """A share in percent. Only none is 0 % and only all is 100 %; labels on padding make it more.

    >>> [share(part, 30_000) for part in (0, 1, 9_999, 29_999, 30_000, 31_000)]
    ['0 %', '<0.1 %', '33.3 %', '>99.9 %', '100 %', '103.3 %']
    """
    if part in (0, whole):
        return "100 %" if part else "0 %"
    percent = part / whole * 100
    if percent < 0.1:
        return "<0.1 %"
    return ">99.9 %" if 99.9 < percent < 100 else f"{percent:.1f} %"


def _print_turns(glance: Glance, console: Console) -> None:
    """Turns, tokens and the counted share of each role."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column()
    for _ in range(3):
        table.add_column(justify="right")
    table.add_row(*(Text(heading, style="dim") for heading in ("  role", "turns", "tokens", "counted")))
    known = sorted(glance.turns, key=lambda role: ROLES.index(role) if role in ROLES else len(ROLES))
    for role in known:
        turns, tokens, counted = glance.turns[role]
        told = "" if glance.counted is None else share(counted, tokens)
        table.add_row(f"  {role}", f"{turns:,}", f"{tokens:,}", told)
    console.print(table)
