"""Masks and tables of tokens on a screen: one below the other, or side by side where there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from maskcli.inputs.texts import Shown
from maskcli.report.characters import MAP_WIDTH
from maskcli.report.maps import Drawn, Place, cell_table, halves, named_rows, quarters
from maskcli.report.terminal import PIPE_WIDTH, clean

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    Picture = Table | Drawn
    Kind = Callable[..., Picture | None]

T = TypeVar("T")

# Most samples printed.
MOST_SEQUENCES = 8
# Most beside each other, and the blanks between them.
MOST_ABREAST, GAP = 4, 3
# How a mask may look, the one that tells most first.
FORMS: tuple[Kind, ...] = (cell_table, named_rows, halves, quarters)


def print_masks(shown: Shown, console: Console) -> None:
    """The mask of each sample and head, once where all are equal."""
    items, heads = shown.mask.shape[0], shown.mask.stored[1]
    same = items > 1 and shown.mask.stored[0] == 1
    several = 1 if same else min(items, MOST_SEQUENCES)
    most = min(heads, max(MOST_SEQUENCES // several, 1), MOST_ABREAST)
    places = [Place(item, head) for item in range(several) for head in range(most)]
    named = {place: _which(place, several > 1, heads > 1) for place in places}

    width = MAP_WIDTH * 2 if console.width == PIPE_WIDTH else console.width
    kind, alone = next(each for each in _drawn(shown, places, width))
    # Whoever reads a pipe wants them one by one.
    beside = 1 if console.width == PIPE_WIDTH else _abreast(shown, places, kind, width)
    if beside == 1:
        _print_in_turn(shown, named, alone, " (the same for every sample)" if same else "", console)
    else:
        room = _room(width, beside)
        _print_abreast(shown, named, [kind(shown, place, room, False) for place in places], beside, console)
    if heads > most:
        told = "head 0" if most == 1 else f"heads 0 to {most - 1}"
        console.print(f"{told} of {heads}; heads differ, and --format json has them all", style="dim")


def print_tables(tables: Sequence[Table], console: Console) -> None:
    """Tables as many beside each other as fit, with a blank line between the rows of them."""
    widest = max(console.measure(table).maximum for table in tables)
    fit = 1 if console.width == PIPE_WIDTH else (console.width + GAP) // (widest + GAP)
    beside = max(min(fit, MOST_ABREAST, len(tables)), 1)
    for number, group in enumerate(_groups(tables, beside)):
        if number:
            console.print()
        console.print(group[0] if beside == 1 else _side_by_side(group, widest))


def _drawn(shown: Shown, places: list[Place], width: int) -> Iterator[tuple[Kind, list[Picture]]]:
    """The forms in which all of the masks can be shown."""
    for kind in FORMS:
        drawn = [kind(shown, place, width) for place in places]
        fitting = [each for each in drawn if each is not None]
        if len(fitting) == len(places):
            yield kind, fitting


def _which(place: Place, of_samples: bool, of_heads: bool) -> str:
    """What tells one map from the others."""
    return ", ".join([f"sample {place.item}"] * of_samples + [f"head {place.head}"] * of_heads)


def _abreast(shown: Shown, places: list[Place], kind: Kind, width: int) -> int:
    """How many fit beside each other and tell what they tell alone."""
    whole = _tells_cells(kind(shown, places[0], width))
    for count in range(min(MOST_ABREAST, len(places)), 1, -1):
        drawn = [kind(shown, place, _room(width, count), False) for place in places]
        if all(each is not None and _tells_cells(each) == whole for each in drawn):
            return count
    return 1


def _tells_cells(drawn: Picture | None) -> bool:
    return drawn.cells if isinstance(drawn, Drawn) else True


def _room(width: int, beside: int) -> int:
    return (width - (beside - 1) * GAP) // beside


def _print_in_turn(
    shown: Shown, named: dict[Place, str], drawn: Sequence[Picture], same: str, console: Console
) -> None:
    for name, picture in zip(named.values(), drawn, strict=True):
        console.print(_heading(shown, same or (f" of {name}" if name else "")))
        console.print(_renderable(picture))
        _print_note(picture, console)
        console.print()


def _print_abreast(
    shown: Shown, named: dict[Place, str], drawn: Sequence[Picture | None], beside: int, console: Console
) -> None:
    from rich.console import Group
    from rich.text import Text

    console.print(_heading(shown, ""))
    pictures = [each for each in drawn if each is not None]
    titled = [
        Group(Text(name), _renderable(each)) for name, each in zip(named.values(), pictures, strict=True)
    ]
    for group in _groups(titled, beside):
        console.print(_side_by_side(group, max(console.measure(each).maximum for each in titled)))
        console.print()
    if isinstance(pictures[0], Drawn):
        _print_note(pictures[0], console)
        console.print()


def _heading(shown: Shown, whose: str) -> Text:
    from rich.text import Text

    return Text(f"{clean(shown.spec)}{whose}: queries down, keys across", style="bold")


def _renderable(picture: Picture) -> RenderableType:
    from rich.console import Group

    return Group(*picture.lines) if isinstance(picture, Drawn) else picture


def _print_note(picture: Picture, console: Console) -> None:
    from rich.text import Text

    if isinstance(picture, Drawn):
        console.print(Text(picture.note, style="dim"))


def _groups(whole: Sequence[T], size: int) -> Iterator[list[T]]:
    """The items, so many at once."""
    rest = iter(whole)
    while group := list(islice(rest, size)):
        yield group


def _side_by_side(parts: Sequence[RenderableType], width: int) -> Table:
    """Several beside each other, each so wide."""
    from rich.table import Table

    grid = Table.grid(padding=(0, GAP, 0, 0))
    for _ in parts:
        grid.add_column(width=width, no_wrap=True)
    grid.add_row(*parts)
    return grid
