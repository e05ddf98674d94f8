"""What tensors of a .pt claim: an element may stand for an axis, and tensors may share theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from maskcli.tensors.limits import MAX_CLAIMED
from maskcli.tensors.storage import Handle, Refused
from maskcli.tensors.tensor import Tensor

# What makes a tensor of its name and a leaf of the saved containers.
Make = Callable[[str, Any], Tensor]


def affordable(handle: Handle, make: Make) -> Make:
    """The same, which refuses tensors that claim far more bytes, all together, than the file holds."""
    room = handle.size + MAX_CLAIMED

    def made(name: str, leaf: Any) -> Tensor:
        nonlocal room
        tensor = make(name, leaf)
        if tensor.nbytes > room:
            why = (
                f"tensor {name!r} stands for {tensor.nbytes:,} bytes, far more than its file holds; save it "
                "as it was before it was expanded"
            )
            return replace(tensor, storage=Refused(why))
        room -= tensor.nbytes
        return tensor

    return made
