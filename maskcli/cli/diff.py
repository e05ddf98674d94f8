"""maskcli diff: where two masks, or two sets of weights, differ."""

from __future__ import annotations

from typing import Annotated

import typer

from maskcli.cli import Exit, command
from maskcli.cli.completion import masks
from maskcli.cli.options import (
    INPUT,
    Dpi,
    EosIds,
    From,
    Ground,
    KeyPositions,
    Lengths,
    MaxSize,
    Output,
    PaddingSide,
    PadId,
    Past,
    Positions,
    Quiet,
    Title,
    check_quiet,
    form_option,
    look,
    option,
)


@command(
    "Say where two masks differ, and what it means.",
    'maskcli diff dump.safetensors:attn_mask "causal & padding"',
    'maskcli diff causal "sliding:2 & padding" --lengths 4,2',
    "maskcli diff before.safetensors after.safetensors",
    codes="0 equal, 1 different, 2 an error in one sentence",
)
def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="FILE[:TENSOR] or a mask spec.", autocompletion=masks)
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="FILE[:TENSOR] or a mask spec, which takes its shape from A.",
            autocompletion=masks,
        ),
    ],
    convention: From = None,
    pad_id: PadId = None,
    eos_id: EosIds = None,
    past: Past = None,
    positions: Positions = None,
    key_positions: KeyPositions = None,
    ids: Annotated[
        str | None,
        option(
            help='Token ids that tell the padding (with --pad-id): "5 3 0; 7 4 8".',
            panel=INPUT,
            metavar="IDS",
        ),
    ] = None,
    lengths: Lengths = None,
    padding_side: PaddingSide = None,
    tolerance: Annotated[
        float | None,
        option(
            help="How far weights may be apart. Default: by their type.", panel=INPUT, metavar="X", min=0.0
        ),
    ] = None,
    form: Annotated[
        str | None,
        form_option(
            ("text", "json", "github", "markdown"),
            "text for people, json for scripts; github, markdown for CI.",
        ),
    ] = None,
    output: Output = None,
    quiet: Quiet = False,
    title: Title = None,
    dpi: Dpi = None,
    theme: Ground = None,
    max_size: MaxSize = None,
) -> int:
    """Compare two masks (or sets of weights) and say what the differences mean.

    Padding and documents come from the file's own attention_mask, ids, cu_seqlens or position ids, or from
    options; never from the mask that is compared.
    """
    from maskcli.api.comparing import compare
    from maskcli.inputs.padding import real_tokens
    from maskcli.report.differences import FORMS
    from maskcli.report.forms import choose, drawn, sized

    check_quiet(quiet, form, output)
    chosen = drawn(sized(choose(FORMS, form, output), max_size), look(title, dpi, theme))
    side = padding_side.value if padding_side else None
    compared = compare(
        a,
        b,
        convention=convention,
        padding=real_tokens(ids, lengths, side, pad_id, tuple(eos_id or ())),
        padding_side=side,
        past=past,
        positions=positions,
        key_positions=key_positions,
        pad_id=pad_id,
        eos_id=eos_id,
        tolerance=tolerance,
    )
    if not quiet:
        chosen.write(compared, output)
    return Exit.OK if compared.equal else Exit.FOUND
