"""What an operand stands for: a spec, a saved mask, an array, or FILE.py:NAME inside a spec."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, NamedTuple

from maskcli.errors import MaskcliError
from maskcli.inputs.golden import SUFFIX, tensors
from maskcli.inputs.mask_mods import mask_in_file
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import File, Resolve, parse
from maskcli.meant.facts import Declared
from maskcli.meant.metadata import from_metadata
from maskcli.scene.saved_mask import read_mask, shape_of
from maskcli.tensors import (
    TOLD,
    Roled,
    find_tensor,
    from_array,
    is_written_mask,
    open_tensors,
    role_of,
    roles_of,
    split_target,
)
from maskcli.tensors.axes import mask_shape

# Tensors that are named where a file has several masks.
NAMED = 6
SHAPES = "[Q, K], [B, Q, K] or [B, H, Q, K]"


class Operand(NamedTuple):
    """A mask or weights as given: `text` names it; a spec has no `path`.

    Of a file there are all `tensors`, the one that was named, was written as a mask or is the only one, and
    what the file `told` of it.
    """

    text: str
    path: str | None = None
    tensors: tuple[Roled, ...] = ()
    tensor: Roled | None = None
    told: Declared = Declared()


def operand(given: Any, name: str = "the mask") -> Operand:
    """`FILE[:TENSOR]`, a spec, or an array, which errors call `name`."""
    if isinstance(given, os.PathLike):
        return from_file(os.fspath(given))
    if not isinstance(given, str):
        array = role_of(from_array("mask", given))
        return Operand(name, "", (array,), array)
    is_file = os.path.exists(split_target(given)[0]) or isinstance(parse(given), File)
    return from_file(given) if is_file and not _is_python(given) else Operand(given)


def from_file(target: str) -> Operand:
    """`FILE[:TENSOR]`."""
    path, name = split_target(target)
    if path.endswith(SUFFIX):
        return _from_json(target, path, name)
    file = open_tensors(path)
    tensors, told = roles_of(file), from_metadata(file.metadata, path)
    if name is None:
        written = [roled for roled in tensors if is_written_mask(file.metadata, roled.tensor.name)]
        only = written or tensors
        return Operand(target, path, tensors, only[0] if len(only) == 1 else None, told)
    named = next((roled for roled in tensors if roled.tensor.name == name), None)
    return Operand(target, path, tensors, named or role_of(find_tensor(file, name)), told)


def _from_json(target: str, path: str, name: str | None) -> Operand:
    """A mask that was written as JSON; nothing else is taken of it."""
    arrays = tensors(path)
    if name not in (None, "mask"):
        raise MaskcliError(f"{path!r} has no {name!r}: of JSON its mask is taken; leave :{name} out")
    roled = tuple(role_of(from_array(each, array)) for each, array in arrays.items())
    crosses = any(each.kind == "encoder" for each in roled)
    mask = replace(roled[0], role="mask", why=TOLD, kind="cross" if crosses else roled[0].kind)
    return Operand(target, path, (mask, *roled[1:]), mask, Declared(convention="sdpa"))


def mask_of(given: Operand) -> Roled | None:
    """The mask of a file or an array; None for a spec."""
    if given.path is None:
        return None
    if given.tensor is not None:
        _check_role(given.tensor, given.path)
        return given.tensor

    masks = [roled for roled in given.tensors if roled.role == "mask"]
    if len(masks) != 1:
        names = ", ".join(roled.tensor.name for roled in given.tensors[:NAMED])
        raise MaskcliError(
            f"{given.path!r} has {len(masks) or 'no'} masks among its tensors; "
            f"say which to take: {given.path}:NAME ({names})"
        )
    return masks[0]


def _check_role(roled: Roled, path: str) -> None:
    """Refuse a tensor that is known to be something else than a mask."""
    if roled.role not in ("mask", "padding_mask", None):
        raise MaskcliError(
            f"{path!r}: {roled.tensor.name!r} holds {roled.role} (by its {roled.why}) and no mask; "
            "check weights with maskcli diagnose --expect, or rename the tensor"
        )


def resolver(convention: str | None = None) -> Resolve:
    """How file operands become masks: saved ones are read in `convention`, when it is given."""

    def resolve(target: str, layout: Layout) -> Mask:
        if _is_python(target):
            return mask_in_file(target, layout, convention)
        return _saved_mask(target, layout, convention)

    return resolve


def _is_python(target: str) -> bool:
    return split_target(target)[0].endswith(".py") or target.partition(":")[0].endswith(".py")


def _saved_mask(target: str, layout: Layout, convention: str | None) -> Mask:
    """A saved mask over the layout; its leading axes may broadcast."""
    given = from_file(target)
    saved = mask_of(given)
    assert saved is not None
    tensor = saved.tensor
    sizes = tensor.shape
    over_keys = len(sizes) == 2 and sizes[0] == layout.batch != layout.queries
    shape = shape_of(saved) if saved.why == TOLD else mask_shape(sizes, over_keys=over_keys)
    convention = convention or given.told.convention
    if shape is None:
        raise MaskcliError(f"{target!r}: {tensor.name!r} has the shape {list(sizes)}, expected {SHAPES}")
    mask = read_mask(tensor, shape, convention, layout.real, layout.past).keep.broadcast_to(layout.shape)
    if mask is None:
        raise MaskcliError(
            f"{target!r}: {tensor.name!r} has the shape {list(sizes)}, "
            f"which does not broadcast to {list(layout.shape)}"
        )
    return mask
