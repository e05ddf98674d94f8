"""Watch a running program: every attention call that it makes, wherever it makes it.

A TorchFunctionMode sees torch's functions with their arguments; a wrapper around `torch.nn.Module.__call__` says which module
calls them. The program computes what it would without: what is watched is called as it is, and looked at afterwards.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from maskcli.tracing import trails
from maskcli.tracing.calls import Call, Place, Torch, of_sdpa
from maskcli.tracing.flex import of_flex
from maskcli.tracing.steps import Habits, Modules, Step, user_line

Handler = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Watcher(Protocol):
    """Who is told of what the program does."""

    def wants(self, module: str) -> bool:
        """Whether calls of this module are to be looked at."""

    def attention(self, call: Call, place: Place, step: Step, padding: Torch | None) -> None:
        """An attention call has returned."""

    def loss(self, target: Torch, ignored: int, step: Step) -> None:
        """A cross-entropy is about to be computed."""

    def step_ends(self, step: Step) -> None:
        """The step is over: the next one begins, or the program ends."""

    def changed(self, what: str) -> None:
        """Watching makes the program take another way."""

    def trouble(self, error: Exception) -> None:
        """Something could not be looked at."""


class Watch:
    """The watch over one thread of a program, from `start` to `stop`."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.modules = Modules()
        self.trails = trails.Trails()
        self._thread = threading.get_ident()
        self._undo = ExitStack()
        self._on = False
        # Inside of a module that is passed over, and how many things there were to see so far.
        self._passing, self._events = False, 0
        self._habits = Habits()
        self._handlers: dict[Any, Handler | None] = {}

    def start(self) -> None:
        """Watch this thread from here on."""
        self._thread = threading.get_ident()
        self._handlers = self._table()
        self._undo.enter_context(_eager(self.watcher.changed))
        self._undo.enter_context(self._called_modules())
        self._mode = _mode(self._dispatch, self._handlers)
        self._undo.enter_context(self._mode)
        self._on = True
        _forget_in_children()
        _WATCHING.add(self)

    def stop(self) -> None:
        """Leave the program alone."""
        if self._on:
            self._end_step()
        self._on = False
        self.trails.clear()
        self.modules.leave(0)
        self._undo.close()

    def forget(self) -> None:
        """Watch no more, but leave everything as it is: this is a forked child in the middle of its parent's work."""
        self._on = False

    def _here(self) -> bool:
        return self._on and threading.get_ident() == self._thread

    def _end_step(self) -> None:
        with self._safely():
            self.watcher.step_ends(self.modules.step)

    @contextmanager
    def _safely(self) -> Iterator[None]:
        """Whatever goes wrong here must not reach the program."""
        try:
            yield
        except Exception as error:
            self.watcher.trouble(error)

    @contextmanager
    def _called_modules(self) -> Iterator[None]:
        import torch
        from torch.overrides import _get_current_function_mode, _pop_mode_temporarily

        original = torch.nn.Module.__call__

        @functools.wraps(original)
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            if self._passing or not self._here() or _going_back():
                return original(module, *args, **kwargs)
            depth, events = self.modules.depth, self._events
            try:
                self._enter(module, args, kwargs)
                passing = self._habits.passes(module) and _get_current_function_mode() is self._mode  # type: ignore[no-untyped-call]
            except Exception as error:
                passing = False
                self.watcher.trouble(error)
            try:
                if not passing:
                    return original(module, *args, **kwargs)
                self._passing = True
                with _pop_mode_temporarily():
                    return original(module, *args, **kwargs)
            finally:
                self.modules.leave(depth)
                self._passing = self._passing and not passing
                if not passing:
                    self._habits.note(module, self._events != events)

        torch.nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.nn.Module.__call__ = original  # type: ignore[method-assign]

    def _enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before = self.modules.step
        if type(module).__name__ == "OptimizedModule":
            self.watcher.changed("compiled regions ran eagerly")
        if self.modules.enter(module, args, kwargs) and before.number >= 0:
            with self._safely():
                self.watcher.step_ends(before)

    def _dispatch(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = self._handlers.get(func)
        if handler is None and func not in self._handlers:
            # The kernel of FlexAttention is imported with it; until then there is nothing to look it up by.
            handler = self._handlers[func] = self._flex if type(func).__name__ == "FlexAttentionHOP" else None
        if handler is None or not self._on or _going_back():
            return func(*args, **kwargs)
        return handler(func, args, kwargs)

    def _table(self) -> dict[Any, Handler | None]:
        """What is done about each of torch's functions."""
        import torch
        from torch.nn import functional

        table: dict[Any, Handler | None] = {}
        for name, follow in trails.FOLLOWED.items():
            for room in (torch, torch.Tensor, functional, torch.special):
                if (function := getattr(room, name, None)) is not None:
                    table[function] = self._following(follow, begins=follow in _BEGINNINGS)
        table[functional.scaled_dot_product_attention] = self._sdpa
        table[functional.multi_head_attention_forward] = self._multi_head
        table[functional.embedding] = self._embedding
        table[functional.cross_entropy] = self._cross_entropy
        return table

    def _following(self, follow: trails.Follow, begins: bool) -> Handler:
        def handler(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = func(*args, **kwargs)
            if begins or self.trails:
                try:
                    begun = self.trails.count
                    call = follow(self.trails, result, args, kwargs)
                    self._events += self.trails.count - begun
                    if call is not None:
                        self._attention(call)
                except Exception as error:
                    self.watcher.trouble(error)
            return result

        return handler

    def _sdpa(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        with self._safely():
            self._attention(of_sdpa(_bound(_SDPA, args, kwargs), result, self.modules.step.single))
        return result

    def _flex(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        with self._safely():
            query, key, value, score_mod, block_mask, scale = args[:6]
            self._attention(of_flex(query, key, value, score_mod, block_mask, scale, result[0]))
        return result

    def _multi_head(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """nn.MultiheadAttention: its body, without the dispatch that led here, so that what it calls is seen as well."""
        with self._safely():
            if not kwargs.get("training", True) and not _gradients((*args, *kwargs.values())):
                self.watcher.changed("nn.MultiheadAttention left its fused fast path")
        with self._mode:
            return _undispatched(func)(*args, **kwargs)

    def _embedding(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._events += 1
        with self._safely():
            self.modules.looked_up(args[0] if args else kwargs["input"])
        return func(*args, **kwargs)

    def _cross_entropy(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._events += 1
        with self._safely():
            bound = inspect.signature(func).bind(*args, **kwargs).arguments
            if not bound["target"].is_floating_point():
                self.watcher.loss(
                    bound["target"].detach(), bound.get("ignore_index", -100), self.modules.step
                )
        return func(*args, **kwargs)

    def _attention(self, call: Call) -> None:
        self._events += 1
        path = self.modules.path
        if self.watcher.wants(path):
            place = Place(path, self.modules.kind, max(self.modules.step.number, 0), user_line())
            self.watcher.attention(call, place, self.modules.step, self.modules.padding)


# Watches that a forked child has to forget.
_WATCHING: weakref.WeakSet[Watch] = weakref.WeakSet()


@functools.cache
def _forget_in_children() -> None:
    """See to it, once, that processes which the program forks are not watched."""

    def forget() -> None:
        for watch in _WATCHING:
            watch.forget()

    os.register_at_fork(after_in_child=forget)


_BEGINNINGS = (trails.product, trails.biased_product, trails.contraction)
# The parameters of scaled_dot_product_attention, which is no Python function, and what they are when they are left out.
_SDPA: dict[str, Any] = {
    "query": None,
    "key": None,
    "value": None,
    "attn_mask": None,
    "dropout_p": 0.0,
    "is_causal": False,
    "scale": None,
    "enable_gqa": False,
}


def _bound(parameters: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**parameters, **dict(zip(parameters, args, strict=False)), **kwargs}


def _mode(dispatch: Handler, handlers: dict[Any, Handler | None]) -> Any:
    """A mode of torch that hands the functions that are not known to be of no interest, with their arguments, to `dispatch`."""
    from torch.overrides import TorchFunctionMode

    class Watching(TorchFunctionMode):
        """Sees all functions of torch that this thread calls."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if handlers.get(func, dispatch) is None:
                return func(*args) if kwargs is None else func(*args, **kwargs)
            return dispatch(func, args, {} if kwargs is None else kwargs)

    return Watching()


def _going_back() -> bool:
    """Whether gradients are being computed: modules that are called now are called again (gradient checkpointing)."""
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


@contextmanager
def _eager(changed: Callable[[str], None]) -> Iterator[None]:
    """Nothing is compiled: what has been runs as it was written. dynamo, slow to import, is left alone until it is needed."""
    import torch

    original = torch.compile
    forced = ExitStack()

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
    try:
        yield
    finally:
        torch.compile = original
        forced.close()
