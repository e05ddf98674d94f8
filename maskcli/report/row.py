"""Rows of a training set in a terminal and as JSON: a line a token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from maskcli.auditing.showing import ShownRow, SideOfRow
from maskcli.report.forms import SCHEMA_VERSION, Form, in_pieces, on_screen
from maskcli.report.marked import COUNTED
from maskcli.report.tables import HEAD, MOST_TOKENS, TAIL
from maskcli.report.terminal import PIPE_WIDTH, clean, json_text

if TYPE_CHECKING:
    from rich.console import Console

# Columns whose names are long, in a table.
HEADINGS = {"attention_mask": "attn", "position_id": "pos", "token_type_id": "type", "document": "doc"}
# Tokens that are alike, with which they are told in one line.
ALIKE = 3
WORDS = ("token", "turn")


class Rows(NamedTuple):
    """Rows, how an id becomes text (None: it stays a number), and whether long ones are shown in full."""

    rows: tuple[ShownRow, ...]
    token: Callable[[int], str] | None
    full: bool = False


def _text(rows: Rows, console: Console) -> None:
    """A table for each side of each row."""
    from rich.text import Text

    for number, shown in enumerate(rows.rows):
        for side in shown.sides:
            if number or side is not shown.sides[0]:
                console.print()
            length = len(next(iter(side.columns.values()), []))
            title = f"{clean(shown.row.file)}, row {shown.row.row}"
            whose = f", {side.name}" if side.name else ""
            console.print(Text(f"{title}{whose}: {length:,} tokens", style="bold"))
            _print_side(side, rows, console)


def _print_side(side: SideOfRow, rows: Rows, console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = _told(side, rows.token)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        words, wraps = name in WORDS, name == "token"
        heading = HEADINGS.get(name, name)
        table.add_column(heading, justify="left" if words else "right", overflow="fold", no_wrap=not wraps)
    lines: list[Sequence[str]] = list(zip(*columns.values(), strict=True))
    if not rows.full:
        lines = list(_folded(lines))
    short = len(lines) <= MOST_TOKENS or rows.full or console.width == PIPE_WIDTH
    shown = lines if short else [*lines[:HEAD], ["…"] * len(columns), *lines[-TAIL:]]
    for line in shown:
        facts = dict(zip(columns, line, strict=True))
        style = COUNTED if facts.get("counted") == "yes" else ""
        table.add_row(*(Text(text, style=style if name == "token" else "") for name, text in facts.items()))
    console.print(table)
    if not short:
        hidden = len(lines) - HEAD - TAIL
        console.print(Text(f"{hidden:,} more lines in between; --full shows them", style="dim"))


def _folded(lines: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Lines, those that are alike but for their index as one: padding is the same again and again."""
    for _, group in groupby(lines, key=lambda line: line[1:]):
        alike = list(group)
        if len(alike) < ALIKE:
            yield from alike
        else:
            yield f"{alike[0][0]}..{int(alike[-1][0]) + 1}", *alike[0][1:]


def _told(side: SideOfRow, token: Callable[[int], str] | None) -> dict[str, list[str]]:
    """The columns of a table as text; the parts of turns are told with their roles."""
    columns = side.columns
    length = len(next(iter(columns.values()), []))
    told: dict[str, list[str]] = {"index": list(map(str, range(length)))}
    for name, values in columns.items():
        if name == "turn":
            parts = zip(columns["role"], columns["part"], strict=True)
            told["turn"] = [_turn(role, part) for role, part in parts]
        elif name not in ("role", "part"):
            told[name] = [_value(value) for value in values]
        if name == "id" and token is not None:
            told["token"] = ["" if number is None else clean(token(number)) for number in values]
    return told


def _turn(role: str | None, part: str | None) -> str:
    return " ".join(word for word in (role, "" if part == "content" else part) if word)


def _value(value: Any) -> str:
    if value is None or value is False:
        return ""
    return "yes" if value is True else clean(value)


def _json(rows: Rows) -> Iterator[str]:
    """One object: rows, their sides, and an object for each token."""
    told = [
        {**shown.row._asdict(), "sides": [_side(side, rows.token) for side in shown.sides]}
        for shown in rows.rows
    ]
    yield json_text({"schema_version": SCHEMA_VERSION, "rows": told}) + "\n"


def _side(side: SideOfRow, token: Callable[[int], str] | None) -> dict[str, Any]:
    columns = dict(side.columns)
    if token is not None and "id" in columns:
        columns["token"] = [None if number is None else token(number) for number in columns["id"]]
    lines = zip(*columns.values(), strict=True)
    tokens = [{"index": at, **dict(zip(columns, values, strict=True))} for at, values in enumerate(lines)]
    return {"name": side.name or None, "tokens": tokens}


FORMS: tuple[Form[Callable[[Rows, str | None], None]], ...] = (
    Form("text", (".txt",), on_screen(_text)),
    Form("json", (".json",), in_pieces(_json)),
)
