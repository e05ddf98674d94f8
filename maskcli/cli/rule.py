"""maskcli rule: what a rule means."""

from __future__ import annotations

from typing import Annotated

import typer

from maskcli.cli import app
from maskcli.cli.options import Form, ResultForm
from maskcli.errors import MaskcliError


@app.command(epilog="Example:  maskcli rule MSK201")
def rule(
    code: Annotated[
        str | None,
        typer.Argument(metavar="CODE", help="A code such as MSK201, or a name such as inverted-polarity."),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Every rule, one line each (with --format json: all of them, whole)."),
    ] = False,
    form: Form = None,
) -> None:
    """Explain a rule: what it means, why it matters, how it looks in code and how to fix it."""
    from maskcli.diagnostics.catalogue import in_code_order
    from maskcli.diagnostics.catalogue import rule as named
    from maskcli.report.rules import print_rule, rule_json
    from maskcli.report.terminal import console, json_text, output

    if every == (code is not None):
        raise MaskcliError("pass one rule code, such as maskcli rule MSK201, or --all")
    rules = in_code_order() if every else (named(code or ""),)
    with output(None) as stream:
        if form is ResultForm.json:
            entries = [rule_json(each) for each in rules]
            print(
                json_text(
                    {"schema_version": 1, "rules": entries} if every else {"schema_version": 1, **entries[0]}
                ),
                file=stream,
            )
        elif every:
            for each in rules:
                print(f"{each.code} {each.name:<22} {each.severity:<8} {each.summary}", file=stream)
        else:
            print_rule(rules[0], console(stream))
