"""Watch a running program: every attention call that it makes, wherever it makes it.

A TorchFunctionMode sees torch's functions with their arguments; a wrapper around `torch.nn.Module.__call__`
says which module calls them. The program computes what it would without: what is watched is called as it is.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any

from maskcli.tracing.calls import Call, Place
from maskcli.tracing.checker import Checker
from maskcli.tracing.flex import of_flex
from maskcli.tracing.lines import user_line
from maskcli.tracing.modules import Modules
from maskcli.tracing.sdpa import of_sdpa
from maskcli.tracing.trails import BEGINNINGS, CHANGES, Trails

Handler = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
# How calls of torch's attention functions are read, from the modules at work, the result and the arguments:
# by the function's name in torch.nn.functional, or by that of its type where it is imported late.
ATTENTION: dict[str, Callable[..., Call]] = {
    "scaled_dot_product_attention": of_sdpa,
    "FlexAttentionHOP": of_flex,
}


class Watch:
    """The watch over one thread of a program, from `start` to `stop`; the watcher is told of what it does."""

    def __init__(self, watcher: Checker) -> None:
        self.watcher = watcher
        self.modules, self.trails = Modules(), Trails()
        self._undo = ExitStack()
        self._on = False
        # Inside of a module that is passed over, and how many things there were to see so far, beside trails.
        self._passing, self._events = False, 0

    def start(self) -> None:
        """Watch this thread from here on."""
        self._thread = threading.get_ident()
        self._handlers = self._table()
        self._mode = self._seeing_functions()
        _keep_eager(self._undo, self.watcher.changed)
        self._wrap_modules()
        self._undo.enter_context(self._mode)
        self._on = True
        _WATCHING.add(self)

    def stop(self) -> None:
        """Leave the program alone."""
        if self._on:
            with self._safely():
                self.watcher.step_ends(self.modules.step)
        self._on = False
        self.trails = Trails()
        self.modules.leave(0)
        self._undo.close()

    @contextmanager
    def _safely(self) -> Iterator[None]:
        """Whatever goes wrong here must not reach the program."""
        try:
            yield
        except Exception as error:
            self.watcher.trouble(error)

    # Modules.

    def _wrap_modules(self) -> None:
        import torch
        from torch.overrides import _pop_mode_temporarily

        original = torch.nn.Module.__call__

        @functools.wraps(original)
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            elsewhere = not self._on or threading.get_ident() != self._thread
            if self._passing or elsewhere or _going_back():
                return original(module, *args, **kwargs)
            depth, events = self.modules.depth, self._events + self.trails.count
            self._passing = self._enter(module, args, kwargs)
            watched = not self._passing
            try:
                if not watched:
                    with _pop_mode_temporarily():
                        return original(module, *args, **kwargs)
                result = original(module, *args, **kwargs)
                if depth == 0:
                    self.modules.returned(result)
                return result
            finally:
                self.modules.leave(depth)
                self._passing = False
                if watched:
                    self.modules.watched(module, self._events + self.trails.count != events)

        torch.nn.Module.__call__ = call  # type: ignore[method-assign]
        self._undo.callback(setattr, torch.nn.Module, "__call__", original)

    def _enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """A module is called; whether it can be passed over."""
        from torch.overrides import _get_current_function_mode

        try:
            if type(module).__name__ == "OptimizedModule":
                self.watcher.changed("compiled regions ran eagerly")
            ended = self.modules.enter(module, args, kwargs)
            current = _get_current_function_mode()  # type: ignore[no-untyped-call]
            passes = self.modules.passes(module) and current is self._mode
            if ended is not None and ended.number >= 0:
                self.watcher.step_ends(ended)
            return passes
        except Exception as error:
            self.watcher.trouble(error)
            return False

    # Functions of torch.

    def _seeing_functions(self) -> Any:
        """A mode of torch that hands functions of interest, with their arguments, to their handlers."""
        from torch.overrides import TorchFunctionMode

        handlers, watch = self._handlers, self

        class Seeing(TorchFunctionMode):
            """Sees all functions of torch that this thread calls."""

            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                try:
                    handler = handlers[func]
                except KeyError:
                    handler = watch._handler(func)
                kwargs = {} if kwargs is None else kwargs
                if handler is None or not watch._on or _going_back():
                    return func(*args, **kwargs)
                return handler(func, args, kwargs)

        return Seeing()

    def _handler(self, func: Callable[..., Any]) -> Handler | None:
        """What is done about a function that is called for the first time."""
        read = ATTENTION.get(type(func).__name__)
        self._handlers[func] = None if read is None else self._after(read, self.modules)
        return self._handlers[func]

    def _table(self) -> dict[Any, Handler | None]:
        """What is done about each of torch's functions."""
        import torch
        from torch.nn import functional

        table: dict[Any, Handler | None] = {}
        rooms = (torch, torch.Tensor, functional, torch.special)
        for (name, follow), room in product({**BEGINNINGS, **CHANGES}.items(), rooms):
            if hasattr(room, name):
                table[getattr(room, name)] = self._after(follow, self.trails, always=name in BEGINNINGS)
        for name, read in ATTENTION.items():
            if hasattr(functional, name):
                table[getattr(functional, name)] = self._after(read, self.modules)
        table[functional.multi_head_attention_forward] = self._multi_head
        table[functional.embedding] = self._before(self.modules.looked_up)
        for loss in (functional.cross_entropy, functional.nll_loss):
            table[loss] = self._before(self._compared)
        for pick in (torch.gather, torch.Tensor.gather):
            table[pick] = self._before(self.modules.picked)
        table[functional.kl_div] = self._before(self._likened)
        return table

    def _after(
        self, read: Callable[..., Call | None], known: Modules | Trails, always: bool = True
    ) -> Handler:
        """Read what a function returned, with what is known; where there are trails only, unless `always`."""

        def handler(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = func(*args, **kwargs)
            if always or self.trails:
                try:
                    call = read(known, result, *args, **kwargs)
                    if call is not None:
                        self._attention(call)
                except Exception as error:
                    self.watcher.trouble(error)
            return result

        return handler

    def _before(self, look: Callable[..., None]) -> Handler:
        """Look at the arguments of a function."""

        def handler(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._events += 1
            with self._safely():
                look(*args, **kwargs)
            return func(*args, **kwargs)

        return handler

    def _multi_head(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """nn.MultiheadAttention: its body, without the dispatch that led here, so that its calls are seen."""
        with self._safely():
            if not kwargs.get("training", True) and not _gradients((*args, *kwargs.values())):
                self.watcher.changed("nn.MultiheadAttention left its fused fast path")
        with self._mode:
            return _undispatched(func)(*args, **kwargs)

    def _compared(self, *args: Any, **kwargs: Any) -> None:
        """A loss is about to be computed: what the step's calls were for is known now."""
        self.modules.compared(*args, **kwargs)
        self.watcher.settle(self.modules.step)

    def _likened(self, *args: Any, **kwargs: Any) -> None:
        self.modules.likened(*args, **kwargs)
        self.watcher.settle(self.modules.step)

    def _attention(self, call: Call) -> None:
        self._events += 1
        modules, step = self.modules, self.modules.step
        modules.recall()
        if self.watcher.wants(modules.path):
            place = Place(modules.path, modules.kind, max(step.number, 0), user_line())
            self.watcher.attention(call, place, step, modules.padding)


_WATCHING: weakref.WeakSet[Watch] = weakref.WeakSet()


def _forget() -> None:
    """A forked child is in the middle of its parent's work: nothing is watched, and all stays as it is."""
    for watch in _WATCHING:
        watch._on = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _going_back() -> bool:
    """Whether gradients are being computed: what is called now is called again (gradient checkpointing)."""
    import torch

    return torch._C._current_graph_task_id() != -1


@functools.lru_cache(maxsize=8)
def _undispatched(func: Callable[..., Any]) -> Callable[..., Any]:
    """The same function without its look for modes."""
    assert isinstance(func, types.FunctionType)
    inner = {**func.__globals__, "has_torch_function": lambda _: False}
    body = types.FunctionType(func.__code__, inner, func.__name__, func.__defaults__, func.__closure__)
    body.__kwdefaults__ = func.__kwdefaults__
    return body


def _gradients(arguments: tuple[Any, ...]) -> bool:
    """Whether gradients are recorded for any of these."""
    import torch

    return torch.is_grad_enabled() and any(getattr(value, "requires_grad", False) for value in arguments)


def _keep_eager(undo: ExitStack, changed: Callable[[str], None]) -> None:
    """Nothing is compiled: what has been runs as written. dynamo, slow to import, is left until needed."""
    import torch

    original = torch.compile
    forced = undo.enter_context(ExitStack())

    def force() -> None:
        forced.close()
        forced.enter_context(torch.compiler.set_stance("force_eager"))

    @functools.wraps(original)
    def compile_(*args: Any, **kwargs: Any) -> Any:
        if not sys._getframe(1).f_globals.get("__name__", "").startswith("torch.nn.attention"):
            # FlexAttention that nobody compiles goes through a compiler that only calls it.
            changed("compiled regions ran eagerly")
        force()
        return original(*args, **kwargs)

    if "torch._dynamo" in sys.modules:
        force()
    torch.compile = compile_
    undo.callback(setattr, torch, "compile", original)
