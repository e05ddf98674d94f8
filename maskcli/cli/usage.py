"""How a command is called: options once, and help in groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from maskcli.errors import MaskcliError


class Grouped(TyperCommand):
    """A command that takes an option of one value once, and whose --help lists options under headings."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and refuse an option that is given twice: the last would win in silence."""
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(list(args))
            _check_once(given)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then the options of each heading, those without one last."""
        headings: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        others = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            heading = getattr(parameter, "rich_help_panel", None)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                headings["Arguments"].append(record)
            elif heading is None:
                others.append(record)
            else:
                headings.setdefault(heading, []).append(record)

        for heading, records in {**headings, "Options": others}.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _check_once(given: Sequence[Any]) -> None:
    """Refuse an option that takes one value and stands there several times."""
    for parameter, times in Counter(given).items():
        if times > 1 and parameter.param_type_name == "option" and not parameter.multiple:
            name = max(parameter.opts, key=len)
            joined = "; join masks by & in one" if parameter.name == "mask" else "; leave one out"
            raise MaskcliError(f"{name} was given {times} times and takes one value{joined}")
