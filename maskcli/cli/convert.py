"""maskcli convert: a mask as another library wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from maskcli.cli import Exit, app
from maskcli.cli.options import Form, From, Output, Past, ResultForm
from maskcli.errors import MaskcliError

if TYPE_CHECKING:
    from maskcli.masks.arguments import Arguments
    from maskcli.masks.conventions import Target
    from maskcli.scene.saved_mask import Given


@app.command(
    epilog="Example:  maskcli convert mask.npy --from mha --to additive --dtype bfloat16 -o mask.safetensors"
)
def convert(
    source: Annotated[str, typer.Argument(metavar="FILE[:TENSOR]", help="A saved mask.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="CONVENTION",
            help="sdpa, mha, megatron, hf, additive, binary; or flash-attn, flex, xformers, jax for arguments.",
        ),
    ],
    convention: From = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="The type to write, such as bfloat16. Default: the convention's."),
    ] = None,
    fill: Annotated[
        str,
        typer.Option(
            metavar="FILL", help="What an additive mask puts on ignored cells: min, -inf or a number."
        ),
    ] = "-inf",
    heads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Heads of an mha mask [B*H, Q, K], to read or to write."),
    ] = None,
    past: Past = None,
    form: Form = None,
    output: Output = None,
) -> int:
    """Write a mask the way another library reads it: a tensor with -o, or the arguments that need no tensor.

    Nothing is lost in silence: a mask that the target cannot hold is refused, with the reason.
    """
    from maskcli.inputs.operands import mask_tensor
    from maskcli.masks import arguments, conventions
    from maskcli.masks.naming import name_of
    from maskcli.meant.facts import convention as known
    from maskcli.report.terminal import say
    from maskcli.scene.saved_mask import read_named
    from maskcli.tensors import role_of, split_target

    if to not in conventions.CONVENTIONS and to not in arguments.TARGETS:
        choices = ", ".join((*conventions.CONVENTIONS, *arguments.TARGETS))
        raise MaskcliError(f"--to {to!r} is not a convention; choose one of {choices}")
    path, name = split_target(source)
    tensor = mask_tensor(path, name)
    declared = known(convention) if convention else None
    roled = role_of(tensor)
    role = roled.role if roled.why != "shape" else None
    shape = _shape(source, tensor.shape, role, declared, heads)
    given = read_named(roled, shape, declared, past=past)
    _check(source, given)
    if to in arguments.TARGETS:
        if dtype is not None or fill != "-inf" or heads is not None:
            raise MaskcliError(
                f"--to {to} gives arguments and no tensor; leave --dtype, --fill and --heads out"
            )
        _show(arguments.arguments(name_of(given.keep, past), to), form, output)
        return Exit.OK
    kind = conventions.dtype_of(to, dtype)
    filled = conventions.fill_of(to, fill, kind)
    if 0 in shape:
        raise MaskcliError(
            f"{source!r} has the shape {list(tensor.shape)}, without any element; there is nothing to convert"
        )
    row = conventions.CONVENTIONS[to]
    stored = row.stored(given.keep)
    conventions.fitting(stored, to, source)
    if output is None:
        from maskcli.tensors import writable

        raise MaskcliError(
            f"--to {to} makes a tensor; say where to write it with -o FILE ({', '.join(writable())})"
        )
    differs = stored[0] > 1 and stored[1] == 1 and stored[2] > 1
    if row.folds_heads and heads is None and differs:
        raise MaskcliError(
            "nn.MultiheadAttention takes [B*H, Q, K] for a mask that differs between items; say how many with --heads"
        )
    if row.causal_flag and arguments.causal_flag(name_of(given.keep, past)):
        say(f"maskcli: note: {row.causal_flag} says the same without a tensor")
    wide = heads or shape[1]
    if shape[1] not in (1, wide):
        raise MaskcliError(f"{source!r} has {shape[1]} heads, not --heads {wide}")
    target = row.target(stored, (shape[0], wide, *shape[2:]), len(tensor.shape) == 2)
    _write(given, target, to, kind, filled, output)
    return Exit.OK


def _shape(
    source: str, shape: tuple[int, ...], role: str | None, declared: str | None, heads: int | None
) -> tuple[int, int, int, int]:
    """[b, h, q, K] of the tensor: [K], [B, K] (hf, or called a padding mask), [Q, K], [B, Q, K], [B*H, Q, K] or [B, H, Q, K]."""
    from maskcli.masks.conventions import CONVENTIONS

    row = CONVENTIONS[declared] if declared else None
    folds_heads = row is not None and row.folds_heads
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    if len(shape) == 3:
        if folds_heads:
            if heads is None:
                raise MaskcliError(
                    f"{source!r} has the shape {list(shape)}, [B*H, Q, K] for mha; say how many heads with --heads"
                )
            if shape[0] % heads:
                raise MaskcliError(
                    f"{source!r} has the shape {list(shape)}, whose first axis is no multiple of --heads {heads}; pass one that is"
                )
            return shape[0] // heads, heads, shape[1], shape[2]
        if declared is None and shape[1] > 1:
            raise MaskcliError(
                f"{source!r} has three axes {list(shape)}, [B, Q, K] or [B*H, Q, K]; say which with --from (and --heads for mha)"
            )
        return shape[0], 1, shape[1], shape[2]
    if len(shape) == 2:
        if folds_heads and role is None:
            raise MaskcliError(
                f"{source!r} has two axes {list(shape)}, [B, K] (a key_padding_mask) or [Q, K] (an attn_mask); call the tensor by one "
                "of these names, or give it four axes"
            )
        called_so = role == "padding_mask" and (declared is None or folds_heads)
        over_keys = called_so or (row is not None and row.over_keys)
        return (shape[0], 1, 1, shape[1]) if over_keys else (1, 1, shape[0], shape[1])
    if len(shape) == 1:
        return 1, 1, 1, shape[0]
    raise MaskcliError(f"{source!r} has the shape {list(shape)}, expected one to four axes")


def _check(source: str, given: Given) -> None:
    """Refuse what cannot be read for certain, or would lose something."""
    if given.nan is not None:
        raise MaskcliError(
            f"{source!r} holds NaN, first at index {list(given.nan)}; mend it first (maskcli diagnose says how)"
        )
    if given.reason == "assumed":
        raise MaskcliError(
            f"{source!r} is bool, and True can mean attend or ignore; say which with --from sdpa or --from mha"
        )
    if given.added:
        extra = (
            []
            if given.values is None
            else [value for value in given.values if value != 0.0 and value != given.fill]
        )
        if given.values is None or extra or given.plus_inf:
            raise MaskcliError(
                f"{source!r} holds other values than 0 and one fill: a bias, which no other convention can hold; nothing is written"
            )
        if given.values == (0.0,) and not given.minus_inf and given.reason != "declared":
            raise MaskcliError(
                f"{source!r} is all zeros: everything attends if it is added, nothing if it is binary; say which with --from"
            )
    elif given.values is not None and not set(given.values) <= {0, 1}:
        raise MaskcliError(
            f"{source!r} holds the values {', '.join(map(str, given.values[:6]))}, expected 0 and 1; nothing is written"
        )
    elif given.values is None:
        raise MaskcliError(f"{source!r} holds many values, expected 0 and 1; nothing is written")


def _write(given: Given, target: Target, to: str, dtype: str, fill: float, output: str) -> None:
    """The mask in chunks of rows, planes in the order of the target."""
    from maskcli.masks.conventions import chunks
    from maskcli.tensors import Source, write_tensors

    name = given.tensor.name or "mask"
    values = chunks(given.keep, target, to, dtype, fill)
    write_tensors(output, {name: Source(dtype, target.shape, values)}, {"maskcli.from": to})


def _show(found: Arguments, form: ResultForm | None, output: str | None) -> None:
    from maskcli.report.terminal import form as form_of
    from maskcli.report.terminal import json_text
    from maskcli.report.terminal import output as result

    chosen = form_of(
        output, form.value if form else None, {".json": "json", ".txt": "text", ".py": "text"}, "text"
    )
    if found.why is not None and chosen == "text":
        raise MaskcliError(f"{found.to} cannot express {found.spec!r}: {found.why}")
    with result(output) as stream:
        if chosen == "json":
            facts = {"to": found.to, "spec": found.spec, "expressible": found.why is None, "why": found.why}
            print(
                json_text({"schema_version": 1, **facts, "arguments": found.arguments, "code": found.code}),
                file=stream,
            )
        else:
            print(found.code, file=stream)
