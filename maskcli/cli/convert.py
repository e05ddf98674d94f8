"""maskcli convert: a mask as another library wants it."""

from __future__ import annotations

from typing import Annotated

import typer

from maskcli.cli import Exit, command
from maskcli.cli.completion import masks, targets
from maskcli.cli.options import OUTPUT, Form, From, Lengths, Output, PaddingSide, Past, option
from maskcli.errors import MaskcliError


@command(
    "Write a mask as another library reads it.",
    "maskcli convert mask.npy --from mha --to additive --dtype bfloat16 -o mask.safetensors",
    'maskcli convert "causal & padding" --lengths 9,6 --to mha --heads 2 -o mask.npz',
    'maskcli convert "causal & sliding:4" --to flash-attn',
    rewrites=True,
)
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE[:TENSOR]|SPEC", help="A saved mask, or a mask spec.", autocompletion=masks
        ),
    ],
    to: Annotated[
        str,
        option(
            "--to",
            help="sdpa, mha, megatron, hf, additive, binary; "
            "or flash-attn, flex, xformers, jax for arguments.",
            panel=OUTPUT,
            metavar="CONVENTION",
            autocompletion=targets,
        ),
    ],
    convention: From = None,
    past: Past = None,
    lengths: Lengths = None,
    padding_side: PaddingSide = None,
    dtype: Annotated[
        str | None,
        option(
            help="The type to write, such as bfloat16. Default: the convention's.",
            panel=OUTPUT,
            metavar="DTYPE",
        ),
    ] = None,
    fill: Annotated[
        str,
        option(
            help="What an additive mask puts on ignored cells: min, -inf or a number.",
            panel=OUTPUT,
            metavar="FILL",
        ),
    ] = "-inf",
    heads: Annotated[
        int | None,
        option(
            help="Heads of an mha mask [B*H, Q, K], to read or to write.",
            panel=OUTPUT,
            min=1,
            max=2**20,
            metavar="N",
        ),
    ] = None,
    form: Form = None,
    output: Output = None,
) -> int:
    """Write a mask the way another library reads it: a tensor with -o, or the arguments that need no tensor.

    The size of a spec comes from --lengths and --past, where the result depends on it. Nothing is lost in
    silence: a mask that the target cannot hold is refused, with the reason.
    """
    from maskcli.api.converting import conversion, lost, without_tensor
    from maskcli.api.written import Written
    from maskcli.inputs.padding import real_keys
    from maskcli.report.arguments import FORMS
    from maskcli.report.forms import choose
    from maskcli.report.terminal import say
    from maskcli.tensors import writable

    converted = conversion(
        source,
        to,
        convention=convention,
        dtype=dtype,
        fill=fill,
        heads=heads,
        past=past,
        padding=real_keys(lengths, padding_side.value if padding_side else None, past or 0),
    )
    if not isinstance(converted, Written):
        choose(FORMS, form, output).write(converted, output)
        return Exit.OK
    if output is None:
        suffixes = ", ".join(writable())
        raise MaskcliError(f"--to {to} makes a tensor; say where to write it with -o FILE ({suffixes})")
    less = lost(converted)
    if less is not None:
        say(f"maskcli: note: {less}")
    flag = without_tensor(converted, past)
    if flag is not None:
        say(f"maskcli: note: {flag} says the same without a tensor")
    converted.save(output)
    return Exit.OK
