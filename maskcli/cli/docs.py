"""maskcli docs: the pages of the documentation."""

from __future__ import annotations

from typing import Annotated

import typer

from maskcli.cli import command
from maskcli.cli.completion import pages


@command(
    "Read the documentation, offline.", "maskcli docs", "maskcli docs masks", "maskcli docs rules | less"
)
def docs(
    page: Annotated[
        str | None,
        typer.Argument(
            metavar="PAGE", help="A page, such as masks. Default: list them.", autocompletion=pages
        ),
    ] = None,
) -> None:
    """List the pages of the documentation, or print one: set for the terminal, and as Markdown in a pipe."""
    from maskcli.report.pages import write_page, write_pages
    from maskcli.report.terminal import output

    with output(None) as stream:
        if page is None:
            write_pages(stream)
        else:
            write_page(page, stream)
