"""maskcli rule: what a rule means."""

from __future__ import annotations

from typing import Annotated

import typer

from maskcli.cli import command
from maskcli.cli.completion import rules
from maskcli.cli.options import Form
from maskcli.errors import MaskcliError


@command(
    "Explain a rule, or list them all.", "maskcli rule MSK201", "maskcli rule MSK2", "maskcli rule --all"
)
def rule(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE",
            help="A code such as MSK201, a name such as inverted-polarity, or MSK2 for a list of those.",
            autocompletion=rules,
        ),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Every rule, one line each (with --format json: all of them, whole)."),
    ] = False,
    form: Form = None,
) -> None:
    """Explain a rule: what it means, why it matters, how it looks in code and how to fix it."""
    from maskcli.diagnostics.catalogue import family, in_code_order, named
    from maskcli.report.rules import write_rule, write_rules
    from maskcli.report.terminal import output

    if every == (code is not None):
        raise MaskcliError("pass one rule code, such as maskcli rule MSK201, or --all")
    listed = in_code_order() if every else family(code or "")
    with output(None) as stream:
        if listed:
            write_rules(listed, form == "json", stream)
        else:
            write_rule(named(code or ""), form == "json", stream)
