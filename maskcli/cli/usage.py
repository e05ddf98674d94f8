"""How a command is called: options once, and help in groups, as wide as the terminal."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from typer.core import TyperCommand

from maskcli.errors import MaskcliError

# Longer lines are hard to read on any terminal.
WIDEST = 110
# What typer tells of numbers: that they are none below 0, and limits that no one meets.
LIMITS = re.compile(r"(?:; |(?<=\[))(?:-?\d+<=)?x(?:<=|>=|>|<)[\d.]+")
FINE = "0 fine, 2 an error in one sentence"
FOUND = "0 nothing found, 1 findings, 2 what could not be read or checked"


def width() -> int:
    """The width of help."""
    return min(shutil.get_terminal_size().columns, WIDEST)


class Grouped(TyperCommand):
    """A command that takes an option of one value once.

    Its --help lists options under headings, and ends with `examples` and exit `codes`. Only one that
    `rewrites` writes over what it reads.
    """

    examples: tuple[str, ...] = ()
    codes: str = FINE
    rewrites: bool = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and refuse an option that is given twice: the last would win in silence."""
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(list(args))
            _check_once(given)
        rest = super().parse_args(ctx, args)
        if not self.rewrites:
            _check_apart(ctx.params)
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The options, and the arguments as their help calls them."""
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        names = [_called(each) if each.required else f"[{_called(each)}]" for each in arguments]
        return ["[OPTIONS]", *names]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then the options of each heading, those without one last."""
        headings: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        others = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            heading = getattr(parameter, "rich_help_panel", None)
            if record is None:
                continue
            name, told = record[0], _plain(record[1])
            if parameter.param_type_name == "argument":
                headings["Arguments"].append((_called(parameter), told))
            elif heading is None:
                others.append((name, told))
            else:
                headings.setdefault(heading, []).append((name, told))

        for heading, records in {**headings, "Options": others}.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Examples as they can be copied, and the exit codes."""
        with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
            for example in self.examples:
                formatter.write("".join(f"{line}\n" for line in copyable(example, formatter.width)))
        formatter.write_paragraph()
        formatter.write_text(f"Exit codes: {self.codes}")


def copyable(example: str, columns: int) -> list[str]:
    """A command in lines that a shell reads as one.

    >>> copyable("maskcli diff a.npy causal", 20)
    ['  maskcli diff \\\\', '      a.npy causal']
    """
    lines = textwrap.wrap(example, columns - 8, break_long_words=False, break_on_hyphens=False)
    indented = [f"{'      ' if at else '  '}{line}" for at, line in enumerate(lines)]
    return [f"{line} \\" for line in indented[:-1]] + indented[-1:]


def _called(argument: Any) -> str:
    """What help calls an argument."""
    return str(argument.metavar or argument.name.upper())


def _plain(told: str) -> str:
    """The help of a parameter without limits of its numbers."""
    return LIMITS.sub("", told).replace("[; ", "[").replace("[]", "").rstrip()


def _check_once(given: Sequence[Any]) -> None:
    """Refuse an option that takes one value and stands there several times."""
    for parameter, times in Counter(given).items():
        if times > 1 and parameter.param_type_name == "option" and not parameter.multiple:
            name = max(parameter.opts, key=len)
            joined = "; join masks by & in one" if parameter.name == "mask" else "; leave one out"
            raise MaskcliError(f"{name} was given {times} times and takes one value{joined}")


def _check_apart(given: Mapping[str, Any]) -> None:
    """Refuse a report in the place of a file that is read: what was asked about would be gone."""
    output = given.get("output")
    if not isinstance(output, str) or not os.path.isfile(output):
        return
    for word in _words(value for name, value in given.items() if name != "output"):
        # FILE, FILE:TENSOR and NAME=FILE.
        for path in (word, word.rpartition(":")[0], word.partition("=")[2]):
            if os.path.isfile(path) and os.path.samefile(path, output):
                raise MaskcliError(f"{output!r} is read, and would be written over; pass -o another file")


def _words(values: Iterable[Any]) -> Iterator[str]:
    """The texts among values, and in lists of them."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _words(value)
