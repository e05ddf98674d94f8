"""Tensors that a spec names, such as token_type_ids: of the file at hand, or FILE:TENSOR."""

from __future__ import annotations

from collections.abc import Sequence

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors import Roled, Tensor, find_tensor, open_tensors, split_target
from maskcli.tensors.axes import token_rows

# Tensors that an error lists.
LISTED = 6


def named_rows(name: str, tensors: Sequence[Roled]) -> Array:
    """The rows [b, L] of a tensor: of these, by its name, the end of its name, or its role; or of a file."""
    tensor = held(name, tensors) or _of_file(name, tensors)
    rows = token_rows(tensor)
    if rows is None:
        raise MaskcliError(
            f"{name!r} has the shape {list(tensor.shape)}, and a spec reads rows of numbers [B, K] or [B]"
        )
    if rows.dtype == bool:
        return rows.astype(int)
    if rows.dtype.kind not in "iu":
        raise MaskcliError(f"{name!r} holds {tensor.dtype}, and a spec reads whole numbers")
    return rows


def held(name: str, tensors: Sequence[Roled]) -> Tensor | None:
    """The tensor of this name, else the only one whose name ends so, else the only one of this role."""
    called = [roled.tensor for roled in tensors if roled.tensor.name == name]
    ending = [roled.tensor for roled in tensors if roled.tensor.name.rpartition(".")[2] == name]
    playing = [roled.tensor for roled in tensors if roled.role == name]
    return next((found[0] for found in (called, ending, playing) if len(found) == 1), None)


def _of_file(name: str, tensors: Sequence[Roled]) -> Tensor:
    path, inside = split_target(name)
    if inside is None and path == name and "." not in path:
        names = ", ".join(roled.tensor.name for roled in tensors[:LISTED])
        among = f"none of those at hand ({names}) is called so" if names else "there is no file that holds it"
        raise MaskcliError(
            f"a spec reads the tensor {name!r}, and {among}; save it beside the others, or write FILE:TENSOR"
        )
    file = open_tensors(path)
    if inside is not None:
        return find_tensor(file, inside)
    if len(file.tensors) != 1:
        raise MaskcliError(f"{path!r} holds {len(file.tensors)} tensors; say which: {path}:NAME")
    return file.tensors[0]
