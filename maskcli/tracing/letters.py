"""The letters of an einsum of two tensors: which axes are batch, queries, keys and features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from maskcli.tracing.calls import Torch

# Letters for the axes that an ellipsis stands for, last axis last.
_REST = "αβγδεζηθ"


class Letters(NamedTuple):
    """Those of the first operand, the second and the result."""

    first: str
    second: str
    result: str

    def turned(self) -> Letters:
        """The same with the operands exchanged."""
        return Letters(self.second, self.first, self.result)

    def end(self) -> tuple[str, str] | None:
        """Where the first are weights and the second values: letters of queries ("": none) and keys."""
        keys = [one for one in self.first if one in self.second and one not in self.result]
        queries = [one for one in self.first if one in self.result and one not in self.second]
        if len(keys) != 1 or len(queries) > 1:
            return None
        return "".join(queries), keys[0]


def letters_of(values: Sequence[Any]) -> Letters | None:
    """The letters of an equation and its two tensors, with those that an ellipsis stands for, or None."""
    if len(values) != 3 or not isinstance(values[0], str):
        return None
    given, arrow, result = values[0].replace(" ", "").partition("->")
    parts = given.split(",")
    if not arrow or len(parts) != 2:
        return None
    more = [
        tensor.ndim - len(part.replace("...", "")) for part, tensor in zip(parts, values[1:], strict=True)
    ]
    left, right = (part.replace("...", _last(count)) for part, count in zip(parts, more, strict=True))
    return Letters(left, right, result.replace("...", _last(max(more))))


def _last(count: int) -> str:
    """So many letters for the axes of an ellipsis."""
    return _REST[len(_REST) - count :]


def arranged(tensor: Torch, letters: str, order: str) -> Torch:
    """A tensor with its axes in the order of these letters; one of a letter that it lacks has one element."""
    for letter in order:
        if letter not in letters:
            tensor, letters = tensor[None], letter + letters
    return tensor.permute([letters.index(letter) for letter in order])
