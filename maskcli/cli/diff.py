"""maskcli diff: where two masks, or two sets of weights, differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from maskcli.cli import Exit, app
from maskcli.cli.options import EosId, Form, From, Output, PadId, Past, ResultForm, Side
from maskcli.errors import MaskcliError

if TYPE_CHECKING:
    from maskcli.arrays import Array, Shape
    from maskcli.masks.kinds import Layout
    from maskcli.masks.mask import Mask
    from maskcli.report.differences import Masks, Weights
    from maskcli.tensors import Roled


@app.command(epilog='Example:  maskcli diff dump.safetensors:attn_mask "causal & padding"')
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="FILE[:TENSOR] or a mask spec.")],
    b: Annotated[
        str, typer.Argument(metavar="B", help="FILE[:TENSOR] or a mask spec, which takes its shape from A.")
    ],
    convention: From = None,
    pad_id: PadId = None,
    eos_id: EosId = None,
    ids: Annotated[
        str | None,
        typer.Option(metavar="IDS", help='Token ids that tell the padding (with --pad-id): "5 3 0; 7 4 8".'),
    ] = None,
    lengths: Annotated[
        str | None, typer.Option(metavar="N,N", help="Real lengths of the sequences: 5,3,7.")
    ] = None,
    padding_side: Annotated[Side | None, typer.Option(help="Where --lengths leave the padding.")] = None,
    past: Past = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0.0, help="How far weights may be apart. Default: by their type.")
    ] = None,
    form: Form = None,
    output: Output = None,
) -> int:
    """Compare two masks (or two sets of weights) and say what their differences mean; exit code 1 when they differ.

    Padding and documents come from the file's own attention_mask, ids, cu_seqlens or position ids, or from options; never from
    the mask that is compared.
    """
    from maskcli.report.differences import Masks, as_json, print_masks, print_weights
    from maskcli.report.terminal import console, write
    from maskcli.report.terminal import form as form_of
    from maskcli.report.terminal import output as result

    sides = (_side(a), _side(b))
    options = _Options(
        convention,
        pad_id,
        () if eos_id is None else (eos_id,),
        ids,
        lengths,
        padding_side.value if padding_side else None,
        past,
    )
    found = (None if convention else _weights(sides, tolerance)) or _masks(sides, options)
    chosen = form_of(output, form.value if form else None, {".json": "json", ".txt": "text"}, "text")
    with result(output) as stream:
        if chosen == ResultForm.json.value:
            write(as_json(found), stream)
        elif isinstance(found, Masks):
            print_masks(found, console(stream))
        else:
            print_weights(found, console(stream))
    return Exit.FOUND if found.cells else Exit.OK


class _Options(NamedTuple):
    convention: str | None
    pad_id: int | None
    eos_ids: tuple[int, ...]
    ids: str | None
    lengths: str | None
    side: str | None
    past: int | None


class _Side(NamedTuple):
    """One operand: a spec, or the tensors of a file and the one among them that was named."""

    text: str
    path: str | None = None
    tensors: tuple[Roled, ...] = ()
    tensor: Roled | None = None


def _side(text: str) -> _Side:
    import os

    from maskcli.masks.spec import File, parse
    from maskcli.tensors import find_tensor, open_tensors, roles_of, split_target

    path, name = split_target(text)
    if not os.path.exists(path) and not isinstance(parse(text), File):
        return _Side(text)
    if path.endswith(".py") or text.partition(":")[0].endswith(".py"):
        return _Side(text)
    file = open_tensors(path)
    tensors = roles_of(file)
    if name is None:
        return _Side(text, path, tensors, tensors[0] if len(tensors) == 1 else None)
    tensor = find_tensor(file, name)
    return _Side(text, path, tensors, next(each for each in tensors if each.tensor is tensor))


def _weights(sides: tuple[_Side, _Side], tolerance: float | None) -> Weights | None:
    """How far two sets of weights are apart; None when these are masks."""
    from maskcli.report.differences import Weights
    from maskcli.tensors import difference

    a, b = sides
    if a.path is None or b.path is None:
        return None
    if a.tensor and b.tensor:
        if {a.tensor.role, b.tensor.role} & {"mask", "padding_mask"}:
            return None
        return Weights(
            a.text,
            b.text,
            (
                (
                    a.tensor.tensor.name,
                    b.tensor.tensor.name,
                    difference(a.tensor.tensor, b.tensor.tensor, tolerance),
                ),
            ),
        )
    if a.tensor or b.tensor:
        return None
    others = {each.tensor.name: each for each in b.tensors}
    common = [each for each in a.tensors if each.role == "weights" and each.tensor.name in others]
    if not common:
        return None
    common.sort(key=lambda each: (each.kind, each.layer or 0))
    pairs = (
        (
            each.tensor.name,
            each.tensor.name,
            difference(each.tensor, others[each.tensor.name].tensor, tolerance),
        )
        for each in common
    )
    return Weights(a.text, b.text, tuple(pairs))


def _masks(sides: tuple[_Side, _Side], options: _Options) -> Masks:
    from maskcli.masks.compare import regions
    from maskcli.report.differences import Masks

    shapes = [_shape(side) for side in sides]
    layout = _layout(sides, shapes, options)
    a, b = (_mask(side, layout, options) for side in sides)
    return Masks(sides[0].text, sides[1].text, (a, b), regions(a, b, layout))


def _shape(side: _Side) -> Shape | None:
    """[b, h, q, K] of a file's mask; None for a spec."""
    from maskcli.scene.describe import shape_of

    tensor = _tensor(side)
    if tensor is None:
        return None
    shape = shape_of(tensor)
    if shape is None:
        raise MaskcliError(
            f"{side.text!r} has the shape {list(tensor.tensor.shape)}, expected [Q, K], [B, Q, K] or [B, H, Q, K]"
        )
    return shape


def _tensor(side: _Side) -> Roled | None:
    if side.path is None:
        return None
    if side.tensor is not None:
        from maskcli.inputs.operands import check_role

        check_role(side.tensor, side.path)
        return side.tensor
    masks = [each for each in side.tensors if each.role == "mask"]
    if len(masks) != 1:
        raise MaskcliError(
            f"{side.text!r} has {len(masks) or 'no'} masks; say which tensor: {side.text}:NAME"
        )
    return masks[0]


def _layout(sides: tuple[_Side, _Side], shapes: list[Shape | None], options: _Options) -> Layout:
    """The common shape of both sides, and the padding and documents that the options or the files tell."""
    import dataclasses

    import numpy as np

    from maskcli.meant.facts import Declared
    from maskcli.scene.assemble import layout_of

    real = _real(options)
    known = [shape for shape in shapes if shape is not None]
    if not known:
        if real is None:
            raise MaskcliError(
                "two specs have no shape of their own; pass --lengths or --ids, or compare with a file"
            )
        known = [(len(real), 1, real.shape[1], real.shape[1])]
    sizes = [max(shape[axis] for shape in known) for axis in range(4)]
    sizes[0] = max(sizes[0], len(real) if real is not None else 1)
    if (
        sizes[2] == 1
        and options.past is None
        and all(side.path is None or ((t := _tensor(side)) and t.role == "padding_mask") for side in sides)
    ):
        sizes[2] = sizes[3]
    shape = (sizes[0], sizes[1], sizes[2], sizes[3])
    under_test = {id(each.tensor) for side in sides if (each := _tensor(side)) is not None}
    declared = Declared(pad_id=options.pad_id, eos_ids=options.eos_ids, past=options.past)
    layout = layout_of((), declared, shape)
    for side in sides:
        if side.path is not None:
            witnesses = tuple(each for each in side.tensors if id(each.tensor) not in under_test)
            told = layout_of(witnesses, declared, shape)
            layout = dataclasses.replace(
                told,
                real=layout.real if layout.real is not None else told.real,
                documents=layout.documents if layout.documents is not None else told.documents,
            )
    if real is not None:
        if real.shape[1] != shape[3] or len(real) not in (1, shape[0]):
            raise MaskcliError(
                f"--lengths or --ids tell of {list(real.shape)} tokens, but the mask is {list(shape)}; pass one for each of its items"
            )
        layout = dataclasses.replace(layout, real=np.broadcast_to(real, (shape[0], shape[3])))
    return layout


def _real(options: _Options) -> Array | None:
    """Real tokens, bool [B, K], as --ids or --lengths tell."""
    from maskcli.padding import edge_padding
    from maskcli.text import batch_from_ids, batch_from_lengths

    if options.ids is not None and options.lengths is not None:
        raise MaskcliError("--ids and --lengths both tell the padding; pass one of them")
    if options.ids is not None:
        batch = batch_from_ids(options.ids, options.pad_id, padding_side=options.side)
        if options.pad_id is None or batch.ids is None:
            return batch.attention_mask
        return edge_padding(batch.ids, options.pad_id, ends=options.eos_ids)
    if options.lengths is not None:
        return batch_from_lengths(options.lengths, padding_side=options.side).attention_mask
    return None


def _mask(side: _Side, layout: Layout, options: _Options) -> Mask:
    from maskcli.inputs.operands import resolver
    from maskcli.masks.spec import build, needs, parse
    from maskcli.meant.facts import convention
    from maskcli.scene.saved_mask import read_named

    named = _tensor(side)
    if named is None:
        spec = parse(side.text)
        if "padding" in needs(spec) and layout.real is None:
            raise MaskcliError(
                f"{side.text!r} needs to know which keys are padding, and no attention_mask or ids in the file tell; pass --lengths 5,3 "
                "with --padding-side, or --ids with --pad-id"
            )
        if "documents" in needs(spec) and layout.documents is None:
            raise MaskcliError(
                f"{side.text!r} needs to know where documents begin, and no position_ids, segment_ids or cu_seqlens in the file tell; "
                "write their lengths: documents:5,3,7"
            )
        return build(spec, layout, resolver(options.convention))
    shape = _shape(side)
    assert shape is not None
    given = read_named(
        named, shape, convention(options.convention) if options.convention else None, layout.real, layout.past
    )
    mask = given.keep.broadcast_to(layout.shape)
    if mask is None:
        raise MaskcliError(
            f"{side.text!r} is a mask {list(shape)}, which does not fit the other's {list(layout.shape)}; compare masks of one shape"
        )
    return mask
