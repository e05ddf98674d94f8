"""Where a running program is: the module it is in, the step, what it says of its tokens, and the user's own line."""

from __future__ import annotations

import inspect
import re
import sys
import sysconfig
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from maskcli.tensors import Kind, role_by_name
from maskcli.tracing.calls import Torch, quietly

# What arguments of a module may say of the tokens, and the depth of modules down to which they are believed: what is called
# `inputs` or `target` further in is something else.
ROLES = {
    "input_ids": 2,
    "labels": 2,
    "token_type_ids": 2,
    "padding_mask": 1000,
    "position_ids": 1000,
    "segment_ids": 1000,
    "cu_seqlens": 1000,
}
# Tables of positions and kinds, whose indices are no token ids.
_POSITIONS = re.compile(r"pos|wpe")
_NO_IDS = re.compile(r"pos|wpe|type|segment|rel|bias|bucket")
# Calls without anything to see after which a module is only looked at in one of so many.
SILENT, WATCHED = 2, 32
# A module compiled by torch.compile stands in a wrapper of this name.
_COMPILED = "_orig_mod"


@dataclass(frozen=True, eq=False)
class Step:
    """One call of the outermost module, and what it says of its tokens: (name, tensor) by role and side.

    `two_sided` says that the model has an encoder and a decoder.
    """

    number: int
    two_sided: bool
    tokens: dict[tuple[str, Kind], tuple[str, Torch]] = field(default_factory=dict)

    @property
    def batch(self) -> int | None:
        """How many samples there are."""
        return next(
            (
                len(tensor)
                for (role, _), (_, tensor) in self.tokens.items()
                if role in ("input_ids", "padding_mask")
            ),
            None,
        )

    @property
    def single(self) -> bool:
        """Whether the model is given one token a sample, as when it decodes."""
        lengths = [
            tensor.shape[-1]
            for (role, kind), (_, tensor) in self.tokens.items()
            if role == "input_ids" and kind != "encoder"
        ]
        return lengths == [1]

    def side(self, kind: Kind) -> Kind:
        """The side that a name speaks of: a model with one side has no encoder to tell from it."""
        return (
            ("encoder" if kind == "self" else kind)
            if self.two_sided
            else ("self" if kind == "encoder" else kind)
        )

    def note(self, role: str, kind: Kind, name: str, tensor: Torch) -> None:
        """Keep the first that is said of a role; a copy, since the program may use its buffers again."""
        if (role, kind) not in self.tokens:
            with quietly():
                self.tokens[role, kind] = name, tensor.detach().clone()


@dataclass(frozen=True, eq=False)
class _Frame:
    """A module that is being called, and the padding mask that it alone was given."""

    path: str
    padding: Torch | None


class _Known(NamedTuple):
    """A module's path in its model, and whether that has an encoder and a decoder."""

    path: str
    two_sided: bool


class Modules:
    """The modules being called, outermost first, and the names that the outermost one gives them."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()
        self._frames: list[_Frame] = []
        self.step = Step(-1, False)

    def enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """A module is called; whether a new step begins with it. A single layer or a loss begins none."""
        begins = (
            not self._frames
            and any(True for _ in module.children())
            and any(True for _ in module.parameters())
        )
        if begins:
            if module not in self._known:
                self._name(_whole(module))
            self.step = Step(self.step.number + 1, self._known[module].two_sided)
        known = self._known.get(module)
        path = known.path if known is not None else self._frames[-1].path if self._frames else ""
        said = _said(module, args, kwargs)
        self._frames.append(_Frame(path or type(module).__name__, said.get("key_padding_mask")))
        for name, tensor in said.items():
            self._note(name, tensor, path)
        return begins

    @property
    def depth(self) -> int:
        """How many modules are being called."""
        return len(self._frames)

    def leave(self, depth: int) -> None:
        """The modules beyond this depth have returned."""
        del self._frames[depth:]

    @property
    def path(self) -> str:
        """The innermost module."""
        return self._frames[-1].path if self._frames else ""

    @property
    def padding(self) -> Torch | None:
        """The padding mask that the innermost module was given that was given one of its own."""
        return next((frame.padding for frame in reversed(self._frames) if frame.padding is not None), None)

    @property
    def kind(self) -> Kind:
        """The kind of attention that the innermost module computes, by its path."""
        _, kind = role_by_name(f"{self.path}.query")
        return kind if kind == "cross" or self.step.two_sided else "self"

    def looked_up(self, indices: Torch) -> None:
        """An embedding is looked up: token ids or positions, by the name of its module."""
        leaf = self.path.rpartition(".")[2]
        if _POSITIONS.search(leaf):
            self._note("position_ids", indices, self.path)
        elif indices.ndim == 2 and not _NO_IDS.search(leaf):
            _, kind = role_by_name(self.path.rpartition(".")[0] + ".query")
            side = self.step.side(kind)
            self.step.note(
                "input_ids", side, "decoder_input_ids" if side == "decoder" else "input_ids", indices
            )

    def _name(self, whole: Any) -> None:
        """Name all modules of a model, in place of what parts of it were called when they were seen alone."""
        paths = {
            module: ".".join(part for part in path.split(".") if part != _COMPILED)
            for path, module in whole.named_modules()
        }
        kinds = {role_by_name(f"{path}.query")[1] for path in paths.values()}
        for module, path in paths.items():
            self._known[module] = _Known(path, {"encoder", "decoder"} <= kinds)

    def _note(self, name: str, tensor: Torch, path: str) -> None:
        role, kind = role_by_name(name)
        if role is None or len(self._frames) > ROLES.get(role, 0) or name == "key_padding_mask":
            return
        if kind == "self" and role != "labels":
            kind = role_by_name(f"{path}.query")[1]
        if role in ("position_ids", "cu_seqlens") or tensor.ndim == 2:
            self.step.note(role, kind if role == "labels" else self.step.side(kind), name, tensor)


@dataclass(eq=False)
class _Habit:
    """How often a module was called, and in how many calls, one after the other, there was nothing to see."""

    attends: bool
    calls: int = 0
    silent: int = 0


class Habits:
    """Which modules hold no attention: two calls without anything to see, and from then on only one of many is watched."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, _Habit] = weakref.WeakKeyDictionary()

    def passes(self, module: Any) -> bool:
        """Whether a module that is called now can be left alone. One that is called attention is always watched."""
        habit = self._known.get(module)
        if habit is None:
            habit = self._known[module] = _Habit(
                any("att" in type(each).__name__.lower() for each in module.modules())
            )
        habit.calls += 1
        return habit.silent >= SILENT and not habit.attends and habit.calls % WATCHED != 0

    def note(self, module: Any, seen: bool) -> None:
        """A watched call has ended, with something to see or not."""
        habit = self._known.get(module)
        if habit is not None:
            habit.silent = 0 if seen else habit.silent + 1


def _whole(module: Any) -> Any:
    """The outermost module at work: `model.generate` calls the encoder first, and it is the model that names it."""
    import torch

    whole = module
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module) and any(each is whole for each in owner.modules()):
            whole = owner
        frame = frame.f_back
    return whole


def _said(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Torch]:
    """The arguments that may speak of tokens, by name."""
    import torch

    named = [(name, args[at]) for at, name in _positional(type(module).forward) if at < len(args)]
    named += [(name, value) for name, value in kwargs.items() if _speaks(name)]
    return {name: value for name, value in named if isinstance(value, torch.Tensor) and value.ndim <= 2}


@lru_cache(maxsize=4096)
def _positional(forward: Callable[..., Any]) -> tuple[tuple[int, str], ...]:
    """Where the arguments of a module's forward that may speak of tokens stand."""
    try:
        parameters = list(inspect.signature(forward).parameters)[1:]
    except (TypeError, ValueError):
        return ()
    return tuple((at, name) for at, name in enumerate(parameters) if _speaks(name))


@lru_cache(maxsize=4096)
def _speaks(name: str) -> bool:
    """Whether an argument's name says something of the tokens. Slots of a cache count padding as well and say nothing."""
    return role_by_name(name)[0] in ROLES and name != "cache_position"


def user_line() -> tuple[str, int] | None:
    """The line of the user's code that led here: the innermost one that no installed package nor Python itself wrote."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not _installed(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


_HERE = str(Path(__file__).resolve().parents[1])
_LIBRARIES = tuple({sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")})


@lru_cache(maxsize=4096)
def _installed(path: str) -> bool:
    return path.startswith(("<", _HERE, *_LIBRARIES)) or "site-packages" in path or "dist-packages" in path
