"""What a probe measured as rows of a table: layers that agree are one row, runs that agree another's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from maskcli.diagnostics.behaviour import Behaviour, Compared, Reach, Seen
from maskcli.diagnostics.verdicts.called import called_by, meant_by
from maskcli.diagnostics.verdicts.cells import extra, lacking
from maskcli.masks.words import counted, first
from maskcli.report.terminal import clean, hang

if TYPE_CHECKING:
    from rich.console import Console

# Runs of one row are written below each other when they are wider than this.
RUNS = 36
HEADINGS = ("run", "measured", "expected", "cells")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)")


class Row(NamedTuple):
    """What some runs of a layer show alike: names of masks, and how many cells differ."""

    measured: str
    expected: str
    cells: str


# Rows of a layer, each with the runs that show it.
Rows = tuple[tuple[Row, tuple[str, ...]], ...]


class Layers(NamedTuple):
    """Layers that show the same in all runs: what they are called together, and their rows."""

    name: str
    rows: Rows


def layers_of(behaviour: Behaviour) -> list[Layers]:
    """The measured layers; those that show the same, and whose paths differ by numbers alone, together."""
    by_layer: dict[tuple[str, bool], list[Seen]] = {}
    for seen in behaviour.seen:
        by_layer.setdefault((seen.module, seen.keys == "cross"), []).append(seen)
    alike: dict[tuple[str, Rows], list[str]] = {}
    for (module, _), members in by_layer.items():
        alike.setdefault((NUMBER.sub("N", module), _rows(members)), []).append(module)
    return [Layers(_together(modules), rows) for (_, rows), modules in alike.items()]


def _rows(seen: Iterable[Seen]) -> Rows:
    """The runs of one layer, those that show the same together."""
    rows: dict[Row, list[str]] = {}
    for each in seen:
        rows.setdefault(_row(each), []).append(each.setting)
    return tuple((row, tuple(settings)) for row, settings in rows.items())


def _row(seen: Seen) -> Row:
    measured = str(called_by(seen))
    if seen.columns is not None:
        measured += f", from {len(seen.columns):,} of {counted(seen.layout.keys, 'column')}"
    differing = _cells(seen)
    meant = seen.expected
    if meant is None:
        return Row(measured, "", differing)
    spec = meant_by(meant, seen)
    if differing:
        return Row(measured, spec, differing)
    return Row(
        measured, f"as {meant.told} says" if spec == measured or meant.whole else f"at most {spec}", ""
    )


def _cells(seen: Seen) -> str:
    """What differs: cells that are reached and should not be, or the other way round, and rows."""
    more, fewer = extra(seen).attended, lacking(seen).attended
    parts = [f"{more:,} more"] if more else []
    parts += [f"{fewer:,} fewer"] if fewer else []
    parts += ["rows mixed"] if seen.rows else []
    return ", ".join(parts)


def _together(modules: Sequence[str]) -> str:
    """Modules whose paths differ by a number: "model.layers.0..29.self_attn"; others one by one."""
    if len(modules) == 1:
        return clean(modules[0] or "the model itself")
    paths = [NUMBER.findall(module) for module in modules]
    varying = [at for at, values in enumerate(zip(*paths, strict=True)) if len(set(values)) > 1]
    numbers = [int(path[varying[0]]) for path in paths] if len(varying) == 1 else []
    if not numbers or numbers != sorted(set(numbers)):
        return clean(first(modules, 4, " and {} more"))
    places = iter(range(len(paths[0])))
    text = _runs(numbers)
    return clean(NUMBER.sub(lambda found: text if next(places) == varying[0] else found[0], modules[0]))


def _runs(numbers: Sequence[int]) -> str:
    """Whole numbers, neighbours together: "0..4,6"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}..{high}" for low, high in parts)


# Lines


def opening(behaviour: Behaviour) -> str:
    """How many calls mix positions, or how much a server was asked."""
    if not behaviour.calls:
        return f"{clean(behaviour.model)}: {counted(behaviour.forwards, 'request')}"
    count = len(behaviour.mixing)
    verb = "mixes" if count == 1 else "mix"
    calls = f"{count:,} of {counted(behaviour.calls, 'module call')} {verb} positions"
    found = f", found in {counted(behaviour.forwards, 'run')}" if behaviour.forwards else ""
    return f"{clean(behaviour.model)}: {calls}{found}"


def whole_model(behaviour: Behaviour) -> Iterator[str]:
    """How far tokens reach through all layers, and what the comparisons of whole runs came to."""
    if behaviour.reach is not None:
        yield f"whole model: {_reach(behaviour.reach)}"
    compared = behaviour.compared
    if compared:
        agree = sum(each.agrees for each in compared)
        yield f"whole runs: {agree} of {counted(len(compared), 'comparison')} agree"
        yield from (f"  differs: {_compared(each)}" for each in compared if not each.agrees)
    yield from (f"note: {clean(note)}" for note in behaviour.notes)


def _reach(reach: Reach) -> str:
    text = f"{reach.derived}, as its layers come to"
    if reach.more:
        text += f"; it reaches {counted(reach.more, 'cell')} more, by a way that was not measured"
    if reach.fewer:
        text += f"; {counted(reach.fewer, 'cell')} of it too faint to see"
    return text


def _compared(each: Compared) -> str:
    return f"{each.test} {clean(each.what)} ({clean(each.setting)}): {each.told}"


# The table


def print_layers(layers: Sequence[Layers], console: Console) -> None:
    """The layers as a table where that fits, else one below the other."""
    rows = [row for each in layers for row, _ in each.rows]
    columns = zip(HEADINGS[1:], *rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    runs = [_lines(settings) for each in layers for _, settings in each.rows]
    left = max(len(line) for lines in runs for line in [HEADINGS[0], *lines])
    if 4 + left + sum(2 + width for width in widths) <= console.width:
        _print_table(layers, console, [left, *widths])
    else:
        _print_below(layers, console)


def _print_table(layers: Sequence[Layers], console: Console, widths: list[int]) -> None:
    from rich.text import Text

    def line(parts: Sequence[str], style: str = "") -> None:
        padded = "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True))
        console.print(Text(f"  {padded}".rstrip(), style=style))

    line(HEADINGS, "dim")
    for each in layers:
        console.print(Text(each.name, style="bold"))
        for row, settings in each.rows:
            head, *rest = _lines(settings)
            line((head, *row), "red" if row.cells else "")
            for more in rest:
                line((more, "", "", ""))


def _print_below(layers: Sequence[Layers], console: Console) -> None:
    from rich.text import Text

    for each in layers:
        console.print(Text(each.name, style="bold"), overflow="fold")
        for row, settings in each.rows:
            hang(console, "  ", "; ".join(map(clean, settings)))
            hang(console, "    measured ", row.measured)
            cells = f" ({row.cells})" if row.cells else ""
            hang(console, "    expected ", f"{row.expected or 'nothing'}{cells}")


def _lines(settings: Sequence[str]) -> list[str]:
    """Runs in lines of so many letters, each of them whole."""
    lines = [""]
    for setting in map(clean, settings):
        longer = f"{lines[-1]}; {setting}" if lines[-1] else setting
        if len(longer) <= RUNS or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(setting)
    return lines
