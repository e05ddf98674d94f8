"""maskcli inspect: what each tensor of a file is."""

from __future__ import annotations

from typing import Annotated

import typer

from maskcli.cli import Exit, command
from maskcli.cli.completion import tensors
from maskcli.cli.options import (
    PART,
    Dpi,
    Form,
    From,
    Ground,
    MaxSize,
    Output,
    Past,
    Title,
    fact_option,
    look,
    option,
)
from maskcli.errors import MaskcliError

ALL = "all"
# Digits of the number of a head.
LONGEST = 9


@command(
    "List the tensors of files, or look into one.",
    "maskcli inspect dump.safetensors",
    "maskcli inspect dump.safetensors:attn_mask --rows 0:16",
    "maskcli inspect dump.safetensors:attentions.0 --head 2 -o weights.png",
)
def inspect(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[:TENSOR]...",
            help="Saved tensors, or one of them to look into.",
            autocompletion=tensors,
        ),
    ],
    sample: Annotated[
        int | None, option(help="Look into this sample.", panel=PART, min=0, metavar="N")
    ] = None,
    head: Annotated[
        str | None, option(help="Look into this head; all, for a picture.", panel=PART, metavar="N|all")
    ] = None,
    rows: Annotated[str | None, option(help="Look at queries A up to B.", panel=PART, metavar="A:B")] = None,
    keys: Annotated[str | None, option(help="Look at keys A up to B.", panel=PART, metavar="A:B")] = None,
    convention: From = None,
    past: Past = None,
    tokenizer: Annotated[
        str | None, option("--tokenizer", "-t", help="Names the tokens on axes.", panel=PART, metavar="NAME")
    ] = None,
    expect: Annotated[list[str] | None, fact_option("expect", PART)] = None,
    form: Form = None,
    output: Output = None,
    title: Title = None,
    dpi: Dpi = None,
    theme: Ground = None,
    max_size: MaxSize = None,
) -> int:
    """List the tensors of files: type, shape, role, values, and for a mask its name.

    With --sample, --head, --rows or --keys it shows a part of FILE:TENSOR: numbers where they fit, else a map
    of the largest values; -o saves a picture of it.
    """
    from maskcli.inputs.looks import inspected
    from maskcli.meant.facts import from_said
    from maskcli.meant.settling import convention as known
    from maskcli.report.forms import PAGES, PICTURES, choose, sized, write_as
    from maskcli.report.inspected import FORMS, PICTURE
    from maskcli.tensors import Zoom, parse_range

    chosen = choose(FORMS, form, output)
    part = Zoom(
        sample,
        None if head in (None, ALL) else _number(head or ""),
        parse_range(rows, "--rows") if rows else None,
        parse_range(keys, "--keys") if keys else None,
    )
    zoomed = chosen is PICTURE or part != Zoom()
    declared = known(convention) if convention else None
    if chosen is not PICTURE and head == ALL:
        raise MaskcliError("--head all is for a picture; end -o FILE in .png, .svg or .pdf, or name one head")
    has_axes = chosen.suffixes in (PICTURES, PAGES) or (zoomed and chosen is FORMS[0])
    if tokenizer is not None and not has_axes:
        raise MaskcliError(
            "--tokenizer names the tokens of a part as text, of a picture or a page; pass --rows or --keys, "
            "or -o FILE.png or .html, or leave it out"
        )
    if expect and not has_axes:
        raise MaskcliError(
            "--expect is what weights of a part, a picture or a page should be; pass --rows or --keys, "
            "or -o FILE.png or .html, or leave it out"
        )
    meant = from_said({"expect": expect}) if expect else None
    found = inspected(files, part if zoomed else None, declared, past, head == ALL, tokenizer, meant)
    write_as(sized(chosen, max_size), found, output, look(title, dpi, theme))
    return Exit.OK


def _number(head: str) -> int:
    """The head that --head names."""
    if not (head.isascii() and head.isdecimal()) or len(head) > LONGEST:
        raise MaskcliError(f"--head {head!r} is no head; pass a number from 0 on, or all")
    return int(head)
