"""Tensors that a spec names, such as token_type_ids: of the file at hand, or FILE:TENSOR."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors import Roled, Tensor, find_tensor, open_tensors, split_target
from maskcli.tensors.axes import token_rows

# Labels that tokens have at most; ids and positions have more.
MOST_LABELS = 64
MOST_CELLS = 2**22
LABEL_ROLES = (None, "token_type_ids", "segment_ids")
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


def labels_among(tensors: Sequence[Roled]) -> dict[str, Array]:
    """The tensors that label tokens with a few whole numbers, by name, as rows [b, L]."""
    found: dict[str, Array] = {}
    for roled in tensors:
        rows = token_rows(roled.tensor) if _may_label(roled) else None
        if rows is not None and np.unique(rows).size <= MOST_LABELS:
            found[roled.tensor.name] = rows
    return found


def _may_label(roled: Roled) -> bool:
    """Whether a tensor can say to what tokens belong, and not what they are or where they stand."""
    tensor = roled.tensor
    rows = tensor.dtype.startswith(("int", "uint")) and len(tensor.shape) <= 2
    return rows and math.prod(tensor.shape) <= MOST_CELLS and roled.role in LABEL_ROLES


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
