"""maskcli inspect: what each tensor of a file is."""

from __future__ import annotations

from typing import Annotated

import typer

from maskcli.cli import Exit, app
from maskcli.cli.options import Form, From, Output, Past, ResultForm
from maskcli.errors import MaskcliError

_PICTURES = (".png", ".svg", ".pdf")


@app.command(epilog="Example:  maskcli inspect dump.safetensors:attn_mask --rows 0:16")
def inspect(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE[:TENSOR]...", help="Saved tensors, or one of them to look into."),
    ],
    batch: Annotated[int | None, typer.Option(min=0, metavar="N", help="Look into this batch item.")] = None,
    head: Annotated[int | None, typer.Option(min=0, metavar="N", help="Look into this head.")] = None,
    rows: Annotated[str | None, typer.Option(metavar="A:B", help="Look at queries A up to B.")] = None,
    keys: Annotated[str | None, typer.Option(metavar="A:B", help="Look at keys A up to B.")] = None,
    convention: From = None,
    past: Past = None,
    form: Form = None,
    output: Output = None,
) -> int:
    """List the tensors of files: type, shape, role, values, and for a mask its name.

    With --batch, --head, --rows or --keys it shows a part of FILE:TENSOR: numbers where they fit, else a map of the largest
    values; -o saves a picture of it.
    """
    from maskcli.meant.facts import convention as known
    from maskcli.report.inspected import PIXELS, as_json, print_files, print_look, save_view
    from maskcli.report.terminal import console, write
    from maskcli.report.terminal import form as form_of
    from maskcli.report.terminal import output as result
    from maskcli.scene.describe import describe, shares
    from maskcli.tensors import (
        Zoom,
        find_tensor,
        open_tensors,
        parse_range,
        place,
        roles_of,
        split_target,
        view,
    )

    wanted = Zoom(
        batch,
        head,
        (rows and parse_range(rows, "--rows")) or None,
        (keys and parse_range(keys, "--keys")) or None,
    )
    suffix = output[output.rfind(".") :].lower() if output and "." in output else ""
    picture = suffix in _PICTURES
    if picture and form is not None:
        raise MaskcliError(
            f"--format {form.value} does not fit {output!r}, whose suffix names a picture; leave one of them out"
        )
    zoomed = picture or any(value is not None for value in wanted)
    described = []
    for target in files:
        path, name = split_target(target)
        file = open_tensors(path)
        chosen = (find_tensor(file, name),) if name is not None else file.tensors
        if zoomed and len(chosen) != 1:
            raise MaskcliError(
                f"{target!r} has {len(chosen)} tensors; say which to look into: {target}:TENSOR"
            )
        roled = [each for each in roles_of(file) if each.tensor in chosen]
        described.append(
            (path, [describe(each, known(convention) if convention else None, past) for each in roled])
        )
    if picture:
        if len(files) != 1:
            raise MaskcliError(
                f"{output!r} is one picture, and {len(files)} files were given; pass one FILE:TENSOR"
            )
        each = described[0][1][0]
        tensor = each.roled.tensor
        attends = shares(each, wanted, PIXELS, PIXELS)
        seen = attends or view(tensor, wanted, PIXELS, PIXELS)
        label = (
            "share of each pixel that attends"
            if attends
            else "largest value of each pixel; red: NaN or infinite"
        )
        save_view(seen, f"{tensor.name} {list(tensor.shape)}", label, output or "")
        return Exit.OK
    chosen_form = form_of(output, form.value if form else None, {".json": "json", ".txt": "text"}, "text")
    with result(output) as stream:
        if chosen_form == ResultForm.json.value:
            write(as_json(described), stream)
            return Exit.OK
        screen = console(stream)
        looked = [tensors[0] for _, tensors in described if zoomed]
        for each in looked:
            # A place that is not there is refused before anything is printed.
            place(each.roled.tensor, wanted)
        print_files(described, screen)
        for each in looked:
            print_look(each, wanted, screen)
    return Exit.OK
