"""What is known of modules at work: which are called, by what names, and what they say of the tokens."""

from __future__ import annotations

import inspect
import os
import re
import sys
import weakref
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from types import FrameType
from typing import Any, NamedTuple

from maskcli.tensors import Kind, role_by_name
from maskcli.tracing.asked import IGNORED, counted
from maskcli.tracing.calls import Torch, quietly
from maskcli.tracing.facts import Facts, generating, of_model
from maskcli.tracing.lines import user_line
from maskcli.tracing.steps import Loss, Step

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
# How torch's losses are told to keep those of all labels apart.
EACH = 0
# Tables of positions and kinds, whose indices are no token ids.
_POSITIONS = re.compile(r"pos|wpe")
_NO_IDS = re.compile(r"pos|wpe|type|segment|rel|bias|bucket")
# What attention calls the keys that come from another sequence than its queries.
_OTHER_SEQUENCE = re.compile(
    r"(.*_)?(keys?|mem|memory|context|ctx|cond|encoder_hidden_states|encoded|enc|src|source|key_value_states|text|kv)"
    r"(_.*)?"
)
# A module compiled by torch.compile stands in a wrapper of this name.
_COMPILED = "_orig_mod"


class _Frame(NamedTuple):
    """A module that is being called, the padding mask that it alone was given, and its call."""

    path: str
    padding: Torch | None
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Known(NamedTuple):
    """A module's path in its model, whether that has an encoder and a decoder, and what is known of it."""

    path: str
    two_sided: bool
    facts: Facts


class Modules:
    """The modules being called, outermost first, and the names that the outermost one gives them."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()
        self._frames: list[_Frame] = []
        self._called: weakref.WeakSet[Any] = weakref.WeakSet()
        self._encoded: dict[int, tuple[weakref.ref[Torch], Step]] = {}
        self.step = Step(-1, False)

    def enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step | None:
        """A module is called; the step before, if a new one begins. A single layer or a loss begins none."""
        ended = None
        if not self._frames and (_holds_parts(module) or _is_table(module)):
            if module not in self._known:
                self._name(_whole(module))
            if self._begins(module):
                ended, self.step = self.step, self._step(self._known[module])
                self._called.clear()
            self._called.add(module)
            self._encoded = {at: known for at, known in self._encoded.items() if known[0]() is not None}
        known = self._known.get(module)
        path = known.path if known is not None else self.path
        said = _said(module, args, kwargs)
        named = path or type(module).__name__
        self._frames.append(_Frame(named, said.get("key_padding_mask"), module, args, kwargs))
        for name, tensor in said.items():
            self._note(name, tensor, path)
        return ended

    def _step(self, known: _Known) -> Step:
        before = self.step if self.step.facts is known.facts else None
        step = Step(self.step.number + 1, known.two_sided, known.facts, generating())
        # Who decodes in a loop of their own follows no gradients.
        goes_on = step.generating or not _follows_gradients()
        step.real_before = before.real_so_far() if before is not None and goes_on else None
        return step

    def _begins(self, module: Any) -> bool:
        """Whether a step begins with this call.

        Parts of a model that are called one by one, as by `model.encode` or `model.forward`, are one step
        until one of them is called again; so are tables of tokens that are part of nothing, and what follows.
        """
        known, called = self._known[module], [self._known[part] for part in self._called]
        if module in self._called or not called:
            return True
        if all(_is_table(part) and not self._known[part].path for part in self._called):
            known.facts.join(self.step.facts)
            self.step.facts, self.step.two_sided = known.facts, known.two_sided
            return False
        in_parts = known.path != "" and all(part.path for part in called)
        return not (in_parts and known.facts is self.step.facts)

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
    def added_keys(self) -> int:
        """How many keys nn.MultiheadAttention adds behind those of the tokens, where it is at work."""
        # As attributes they would be looked for in vain, at length, in nearly every module.
        held = vars(self._frames[-1].module) if self._frames else {}
        learned = held.get("bias_k", held.get("_parameters", {}).get("bias_k")) is not None
        return int(learned) + int(held.get("add_zero_attn") is True)

    def kind(self, keys: int) -> Kind:
        """The kind of attention over so many keys: by what the innermost module was given, and its path."""
        kind = _kind_by(self.path)
        if kind == "cross" or (self._frames and _has_two_sequences(self._frames[-1], keys)):
            return "cross"
        return kind if self.step.two_sided else "self"

    def looked_up(
        self, input: Torch, weight: Torch, padding_idx: int | None = None, *_: Any, **__: Any
    ) -> None:
        """An embedding is looked up: token ids or positions, by the name of its module."""
        table = ".".join(self.path.split(".")[-2:])
        if _POSITIONS.search(table):
            self._note("position_ids", input, self.path)
        elif input.ndim == 2 and not _NO_IDS.search(table):
            side = self.step.side(_kind_by(self.path))
            self.step.facts.pad(padding_idx, f"padding_idx of {self.path}")
            self.step.facts.vocabularies.add(weight.shape[0])
            self.step.note_ids(side, "decoder_input_ids" if side == "decoder" else "input_ids", input)

    def compared(self, target: Torch, reduction: int, ignored: int) -> Torch | None:
        """Logits are about to be compared with labels: which, where each of them has a loss of its own."""
        if target.is_floating_point():
            return None
        facts, target = self.step.facts, target.detach()
        facts.trains, facts.ignored = True, ignored
        facts.pad(ignored, "ignore_index of the loss")
        if reduction != EACH:
            self.step.note_loss(Loss(target, ignored, _loss()))
            return None
        labels = target.masked_fill(target == ignored, IGNORED)
        self.step.note_asked(Loss(labels, IGNORED, _loss()))
        return labels

    def likened(self, input: Any, target: Torch, *_: Any, **__: Any) -> None:
        """Log-probabilities are about to be compared with probabilities, such as smoothed labels."""
        if target.ndim < 2 or target.shape != input.shape:
            return
        target = target.detach()
        labels = target.argmax(-1).masked_fill(target.sum(-1) == 0, IGNORED)
        self.step.facts.trains = True
        self.step.note_loss(Loss(labels, IGNORED, _loss()))

    def asked(self, labels: Torch, picked: Torch) -> None:
        """A loss by hand asks for labels, and goes on with what was picked."""
        self.step.note_asked(Loss(labels, IGNORED, _loss()))
        self.goes_on(labels, picked)

    def goes_on(self, labels: Torch, losses: Torch) -> None:
        """A program goes on with the losses of labels: their gradient tells which of them count."""
        step, source = self.step, _loss()

        def came(gradient: Torch) -> None:
            found = counted(labels, gradient)
            if found is not None:
                step.note_counted(Loss(found, IGNORED, source))

        # What is summed at once counts alike.
        if losses.requires_grad and losses.numel() >= labels.numel():
            losses.register_hook(came)

    def returned(self, result: Any) -> None:
        """The outermost module returns: what an encoder returns alone is what its decoder looks at later."""
        held = tuple(result.values()) if isinstance(result, dict) else result
        values = held if isinstance(held, tuple) else (held,)
        for value in values:
            if _are_states(value):
                self._encoded[id(value)] = weakref.ref(value), self.step

    def recall(self) -> None:
        """Attention looks at what an earlier step encoded: that step's tokens are those of the keys."""
        states = _states(self._frames[-1]) if self._frames and self._encoded else ()
        for _, state in states[1:2]:
            known = self._encoded.get(id(state))
            if known is not None and known[0]() is state:
                self.step.recall(known[1])

    def _name(self, whole: Any) -> None:
        """Name all modules of a model, in place of what parts of it were called when they were seen alone."""
        paths = {
            module: ".".join(part for part in path.split(".") if part != _COMPILED)
            for path, module in whole.named_modules()
        }
        # A layer called `decoder`, such as one that turns states into logits, makes no side of its own.
        sides = {_kind_by(path) for module, path in paths.items() if any(True for _ in module.children())}
        two_sided = {"encoder", "decoder"} <= sides
        facts = of_model(whole, two_sided)
        self._known.update({module: _Known(path, two_sided, facts) for module, path in paths.items()})

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


def _states(frame: _Frame) -> tuple[tuple[str, Torch], ...]:
    """The first sequences of states [.., .., D] that a module was given, at most two, by name."""
    given = [*frame.kwargs.items()]
    if frame.args:
        given = [*zip(_parameters(type(frame.module).forward), frame.args, strict=False), *given]
    return tuple(islice(((name, value) for name, value in given if _are_states(value)), 2))


def _are_states(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 3 and bool(value.is_floating_point())


def _has_two_sequences(frame: _Frame, count: int) -> bool:
    """Whether so many keys are of another sequence than the queries, by what a module was given.

    A block with self-attention of its own is given two as well: its keys are as many as its queries.
    """
    states = _states(frame)
    if len(states) < 2:
        return False
    (_, queries), (name, keys) = states
    if queries is keys or not _OTHER_SEQUENCE.fullmatch(name) or count not in keys.shape[:2]:
        return False
    if queries.shape != keys.shape:
        return count not in queries.shape[:2]
    with quietly():
        same = bool((queries == keys).all())
    return not same and "att" in type(frame.module).__name__.lower()


def _loss() -> str:
    """The loss that is at work, with the user's line."""
    source = user_line()
    return "the loss" if source is None else f"the loss ({os.path.basename(source[0])}:{source[1]})"


def _holds_parts(module: Any) -> bool:
    """Whether a module has modules and parameters of its own."""
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def _is_table(module: Any) -> bool:
    import torch

    return isinstance(module, torch.nn.Embedding)


def _follows_gradients() -> bool:
    import torch

    return torch.is_grad_enabled()


def _whole(module: Any) -> Any:
    """The outermost module at work: `model.generate` calls the encoder first, and the model names it."""
    import torch

    whole = module
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owners = [value for value in frame.f_locals.values() if isinstance(value, torch.nn.Module)]
        for owner in owners:
            if any(part is whole for part in owner.modules()):
                whole = owner
        frame = frame.f_back
    return whole


def _said(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Torch]:
    """The arguments that may speak of tokens, by name."""
    import torch

    named = [(name, value) for name, value in kwargs.items() if _speaks(name)]
    if args:
        named += [(name, args[at]) for at, name in _positional(type(module).forward) if at < len(args)]
    return {name: value for name, value in named if isinstance(value, torch.Tensor) and value.ndim <= 2}


@lru_cache(maxsize=4096)
def _positional(forward: Callable[..., Any]) -> tuple[tuple[int, str], ...]:
    """Where the arguments of a module's forward that may speak of tokens stand."""
    return tuple((at, name) for at, name in enumerate(_parameters(forward)) if _speaks(name))


@lru_cache(maxsize=4096)
def _parameters(forward: Callable[..., Any]) -> tuple[str, ...]:
    """What a module's forward calls its arguments."""
    try:
        return tuple(inspect.signature(forward).parameters)[1:]
    except (TypeError, ValueError):
        return ()


@lru_cache(maxsize=4096)
def _speaks(name: str) -> bool:
    """Whether an argument's name speaks of the tokens; slots of a cache count padding as well, and do not."""
    return role_by_name(name)[0] in ROLES and name != "cache_position"
