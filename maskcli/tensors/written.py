"""How the axes of a mask that maskcli wrote are to be read, as the file's metadata tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from maskcli.tensors.roles import Roled, role_of
from maskcli.tensors.tensor import Tensor, TensorFile

# The name of the mask, its axes, the heads that are folded into them, and that of a cross mask.
MASK, AXES, HEADS, SIDE = "maskcli.mask", "maskcli.axes", "maskcli.heads", "maskcli.side"
OVER_KEYS, FOLDED, CROSS = "B,K", "B*H,Q,K", "cross"
# Who tells the role of such a mask.
TOLD = "metadata"


def told_of_mask(name: str, axes: str, heads: int, *, cross: bool = False) -> dict[str, str]:
    """The metadata that tell how a mask of these `axes`, such as "B*H,Q,K", is to be read.

    >>> told_of_mask("mask", "B,K", 1)
    {'maskcli.mask': 'mask', 'maskcli.axes': 'B,K'}
    """
    told = {MASK: name, AXES: axes}
    if axes == FOLDED:
        told[HEADS] = str(heads)
    return told | ({SIDE: CROSS} if cross else {})


def role_in(file: TensorFile, tensor: Tensor) -> Roled:
    """The role of a tensor of a file: as metadata say of a mask that was written here, else by itself."""
    roled = role_of(tensor)
    if not is_written_mask(file.metadata, tensor.name) or tensor.refusal is not None:
        return roled
    over_keys = file.metadata.get(AXES) == OVER_KEYS and len(tensor.shape) == 2
    return replace(
        roled,
        role="padding_mask" if over_keys else "mask",
        why=TOLD,
        kind="cross" if file.metadata.get(SIDE) == CROSS else roled.kind,
        heads=_heads(file.metadata, tensor),
    )


def is_written_mask(metadata: Mapping[str, str], name: str) -> bool:
    """Whether metadata say that this tensor is the mask that was written."""
    return metadata.get(MASK) == name


def _heads(metadata: Mapping[str, str], tensor: Tensor) -> int:
    """The heads in the first of three axes, where they can be so many; metadata may say anything."""
    text = metadata.get(HEADS, "")
    heads = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 1
    fits = len(tensor.shape) == 3 and heads > 0 and tensor.shape[0] % heads == 0
    return heads if fits else 1
