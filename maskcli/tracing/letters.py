"""The letters of an einsum of two tensors: which axes are batch, queries, keys and features."""

from __future__ import annotations

from typing import NamedTuple

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
        """Where the first are weights and the second values: the letters of queries, "" for none, and keys."""
        keys = [one for one in self.first if one in self.second and one not in self.result]
        queries = [one for one in self.first if one in self.result and one not in self.second]
        if len(keys) != 1 or len(queries) > 1:
            return None
        return "".join(queries), keys[0]


def letters_of(equation: object, first: Torch, second: Torch) -> Letters | None:
    """The letters of an equation of two tensors, with those that an ellipsis stands for; None for another."""
    if not isinstance(equation, str):
        return None
    given, arrow, result = equation.replace(" ", "").partition("->")
    parts = given.split(",")
    if not arrow or len(parts) != 2:
        return None
    sides = [_spelled(part, tensor.ndim) for part, tensor in zip(parts, (first, second), strict=True)]
    rest = max((side.count("...") and len(_REST) for side in parts), default=0)
    more = max(first.ndim - len(parts[0]) + 3, second.ndim - len(parts[1]) + 3) if rest else 0
    return Letters(*sides, result.replace("...", _REST[len(_REST) - more :] if more else ""))


def _spelled(part: str, axes: int) -> str:
    """A side with letters for its ellipsis."""
    more = axes - len(part.replace("...", ""))
    return part.replace("...", _REST[len(_REST) - more :] if more else "")


def arranged(tensor: Torch, letters: str, order: str) -> Torch:
    """A tensor with its axes in the order of these letters; one of a letter that it lacks has one element."""
    for letter in order:
        if letter not in letters:
            tensor, letters = tensor[None], letter + letters
    return tensor.permute([letters.index(letter) for letter in order])
