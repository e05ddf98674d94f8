"""What is known of modules at work: which are called, by what names, and what they say of the tokens."""

from __future__ import annotations

import inspect
import re
import sys
import weakref
from collections.abc import Callable
from functools import lru_cache
from types import FrameType
from typing import Any, NamedTuple

from maskcli.tensors import Kind, role_by_name
from maskcli.tracing.calls import Torch
from maskcli.tracing.habits import Habit
from maskcli.tracing.steps import Step

# What arguments of a module may say of the tokens, and the depth of modules down to which they are believed:
# what is called `inputs` or `target` further in is something else.
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
# A module compiled by torch.compile stands in a wrapper of this name.
_COMPILED = "_orig_mod"


class _Frame(NamedTuple):
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
        self._habits: weakref.WeakKeyDictionary[Any, Habit | None] = weakref.WeakKeyDictionary()
        self._frames: list[_Frame] = []
        self.step = Step(-1, False)

    def enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step | None:
        """A module is called; the step before, if a new one begins. A single layer or a loss begins none."""
        ended = None
        if not self._frames and _holds_parts(module):
            if module not in self._known:
                self._name(_whole(module))
            ended, self.step = self.step, Step(self.step.number + 1, self._known[module].two_sided)
        known = self._known.get(module)
        path = known.path if known is not None else self.path
        said = _said(module, args, kwargs)
        self._frames.append(_Frame(path or type(module).__name__, said.get("key_padding_mask")))
        for name, tensor in said.items():
            self._note(name, tensor, path)
        return ended

    @property
    def depth(self) -> int:
        """How many modules are being called."""
        return len(self._frames)

    def leave(self, depth: int) -> None:
        """The modules beyond this depth have returned."""
        del self._frames[depth:]

    def passes(self, module: Any) -> bool:
        """Whether a module that is called now holds no attention, by its names and by what was seen in it."""
        try:
            habit = self._habits[module]
        except KeyError:
            attends = any("att" in type(part).__name__.lower() for part in module.modules())
            habit = self._habits[module] = None if attends else Habit()
        return habit is not None and not habit.due() and habit.outcome is False

    def watched(self, module: Any, seen: bool) -> None:
        """A watched call has ended, with something to see or not."""
        habit = self._habits.get(module)
        if habit is not None:
            habit.ended(seen)

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
        kind = _kind_by(self.path)
        return kind if kind == "cross" or self.step.two_sided else "self"

    def looked_up(self, input: Torch, *_: Any, **__: Any) -> None:
        """An embedding is looked up: token ids or positions, by the name of its module."""
        parent, leaf = self.path.rpartition(".")[::2]
        if _POSITIONS.search(leaf):
            self._note("position_ids", input, self.path)
        elif input.ndim == 2 and not _NO_IDS.search(leaf):
            side = self.step.side(_kind_by(parent))
            self.step.note(
                "input_ids", side, "decoder_input_ids" if side == "decoder" else "input_ids", input
            )

    def compared(self, input: Any, target: Torch, *more: Any, ignore_index: int = -100, **_: Any) -> None:
        """Logits are about to be compared with labels; `ignore_index` may stand third of `more`."""
        self.step.note_targets(target.detach(), more[2] if len(more) > 2 else ignore_index)

    def _name(self, whole: Any) -> None:
        """Name all modules of a model, in place of what parts of it were called when they were seen alone."""
        paths = {
            module: ".".join(part for part in path.split(".") if part != _COMPILED)
            for path, module in whole.named_modules()
        }
        two_sided = {"encoder", "decoder"} <= {_kind_by(path) for path in paths.values()}
        self._known.update({module: _Known(path, two_sided) for module, path in paths.items()})

    def _note(self, name: str, tensor: Torch, path: str) -> None:
        """An argument of the innermost module may say something of the tokens."""
        role, kind = role_by_name(name)
        if role is None or len(self._frames) > ROLES.get(role, 0) or name == "key_padding_mask":
            return
        if role not in ("position_ids", "cu_seqlens") and tensor.ndim != 2:
            return
        if role != "labels":
            kind = self.step.side(_kind_by(path) if kind == "self" else kind)
        self.step.note(role, kind, name, tensor)


def _kind_by(path: str) -> Kind:
    """The kind of attention that a module of this path computes."""
    return role_by_name(f"{path}.query")[1]


def _holds_parts(module: Any) -> bool:
    """Whether a module has modules and parameters of its own."""
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def _whole(module: Any) -> Any:
    """The outermost module at work: `model.generate` calls the encoder first, and the model names it."""
    import torch

    whole = module
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module) and any(part is whole for part in owner.modules()):
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
    """Whether an argument's name speaks of the tokens; slots of a cache count padding as well, and do not."""
    return role_by_name(name)[0] in ROLES and name != "cache_position"
