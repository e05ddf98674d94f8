"""What modules keep to themselves from one call to the next, such as the state of a recurrence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch.nn import Module


class Held(NamedTuple):
    """A tensor (or None) that a module holds under a name."""

    module: Module
    name: str
    value: Any


def attributes(module: Module) -> dict[Module, Mapping[str, Any]]:
    """What a module and those inside of it hold at this moment."""
    return {each: dict(vars(each)) for each in module.modules()}


def exchanged(before: Mapping[Module, Mapping[str, Any]]) -> list[Held]:
    """Of what modules held before, the tensors that others stand for now.

    What was written in place counts as the same: a call that writes all of it anew depends on none of it.
    """
    import torch

    return [
        Held(module, name, old)
        for module, held in before.items()
        for name, old in held.items()
        if (new := vars(module).get(name)) is not old and (torch.is_tensor(new) or torch.is_tensor(old))
    ]


@contextmanager
def holding(values: Sequence[Held]) -> Iterator[None]:
    """Modules that hold other values, and afterwards what they held before."""
    before = [Held(module, name, vars(module).get(name)) for module, name, _ in values]
    _hold(values)
    try:
        yield
    finally:
        _hold(before)


def _hold(values: Sequence[Held]) -> None:
    for module, name, value in values:
        module.__dict__[name] = value
