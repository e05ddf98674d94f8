"""Modules as they are met: in which of them there is something to see, and which can be passed over."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from maskcli.tracing.habits import ALIKE, SAMPLED


@dataclass(eq=False)
class Part:
    """A module, how often it was called, and whether there was anything to see.

    `attends` says that its class, or that of a module inside, is called after attention, `itself` that its
    own is. `inside` is whether something was seen in it or in what it calls, `own` whether the mode has shown
    something between its calls of other modules, `called` whether attention was called by its name, which
    needs no mode; `path` and `kind` name it. What was seen once is watched for ever, what never was sampled.
    """

    attends: bool = False
    itself: bool = False
    calls: int = 0
    inside: bool = False
    own: bool = False
    called: bool = False
    attention: bool = False
    path: str = ""
    kind: str = ""

    def passes(self) -> bool:
        """A call begins: whether all of it can be passed over."""
        self.calls += 1
        return not (self.inside or self.attends) and self._is_known()

    def is_silent(self) -> bool:
        """Whether what it does by itself needs no watching."""
        looks_like_it = self.itself and not self.called
        return not (self.own or looks_like_it) and self._is_known()

    def _is_known(self) -> bool:
        return self.calls > ALIKE + 1 and self.calls % SAMPLED != 0


# Modules that are kept in mind for the report at most.
MAX_NAMED = 10_000
# The modules at work, outermost first.
Stack = tuple[Part, ...]


def seen_in(stack: Stack, called: bool = False) -> None:
    """There was something to see in the innermost of these modules: by the mode, or called by its name."""
    for part in stack:
        part.inside = True
    if stack and called:
        stack[-1].called = True
    elif stack:
        stack[-1].own = True


class Parts:
    """The modules that were met, by identity; those that are gone are forgotten."""

    def __init__(self) -> None:
        self._met: dict[int, tuple[weakref.ref[Any], Part]] = {}
        self._attending: list[Part] = []

    def of(self, module: Any) -> Part:
        """What is known of a module."""
        known = self._met.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        return self._meet(module)

    def _meet(self, module: Any) -> Part:
        at, met = id(module), self._met

        def forget(gone: weakref.ref[Any]) -> None:
            if at in met and met[at][0] is gone:
                del met[at]

        part = Part(any(map(_attends, module.modules())), _attends(module), kind=type(module).__name__)
        met[at] = (weakref.ref(module, forget), part)
        if part.itself and len(self._attending) < MAX_NAMED:
            self._attending.append(part)
        return part

    def unseen(self) -> list[str]:
        """The outermost modules that look like attention, ran, and showed none, nor did those around them."""
        ran = [part for part in self._attending if part.calls]
        named = {part.path for part in ran}
        silent = [part for part in ran if not part.attention and not _is_inside(part.path, named)]
        return list(dict.fromkeys(f"{part.path} ({part.kind})" for part in silent))


def _is_inside(path: str, others: set[str]) -> bool:
    """Whether a module is part of one of these."""
    parts = path.split(".")
    return any(".".join(parts[:count]) in others for count in range(1, len(parts)))


def _attends(module: Any) -> bool:
    return "att" in type(module).__name__.lower()
