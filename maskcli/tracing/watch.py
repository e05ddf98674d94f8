"""Watch a running program: every attention call that it makes, wherever it makes it.

A wrapper around `torch.nn.Module.__call__` says which module is at work; a mode of torch shows the functions
that are called, with their arguments, wherever there may be something to see. The program computes what it
would without: what is watched is called as it is, once.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from maskcli.tracing.added import added_in_front
from maskcli.tracing.aside import step_aside
from maskcli.tracing.calls import Call, Place
from maskcli.tracing.checker import Checker
from maskcli.tracing.children import Children, before_exit, tell_starts
from maskcli.tracing.doors import open_doors
from maskcli.tracing.eager import keep_eager
from maskcli.tracing.modules import Modules
from maskcli.tracing.parts import Part, Parts, seen_in
from maskcli.tracing.readers import ATTENTION, Instead, late_reader, read_attention, readers
from maskcli.tracing.seeing import let_python_run, put_below, seeing, take_away, unseen
from maskcli.tracing.trails import Trails
from maskcli.tracing.warned import point_at_program

# The number of a computation of gradients, where none is at work.
NO_TASK = -1


class Watched:
    """What is known of one thread of the program: its modules at work, and the trails of its tensors."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.modules = Modules()
        self.outside = Part()
        self.trails = Trails((self.outside,), lambda: self.modules.path)
        self.mode = seeing(self._see)
        # Whether the mode is on, a module is passed over, and a function is looked at without the mode.
        self.sees, self.passing, self.reading = False, False, False
        # How many calls of attention were seen.
        self.attentions = 0
        self.readers = watch.readers

    @property
    def watcher(self) -> Checker:
        """Who is told: a forked child has one of its own."""
        return self.watch.watcher

    # The mode.

    def see(self, wanted: bool) -> None:
        """Turn the mode on or off."""
        if wanted != self.sees:
            (put_below if wanted else take_away)(self.mode)
            self.sees = wanted

    def _see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            read = self.readers[func]
        except KeyError:
            read = self.watch.reader(func)
        if isinstance(read, Instead):
            return self._see(read.func, args, kwargs)
        if read is not None and self.watch.on and not self.reading and not going_back():
            return read(self, func, args, kwargs)
        result = func(*args, **kwargs)
        if self.trails and self.watch.on and not going_back():
            self.follow(func, args, kwargs, result)
        return result

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Follow what a function made of scores."""
        try:
            call = self.trails.follow(func, args, kwargs, result)
            if call is not None:
                self.attention(call)
        except Exception as error:
            self.watcher.trouble(error)

    def attention(self, call: Call, called: bool = False) -> None:
        """A call of attention has returned: one that the mode has shown, or that was called by its name."""
        self.attentions += 1
        self.watch.first()
        seen_in(self.trails.stack, called)
        for part in self.trails.stack:
            part.attention = True
        modules, step = self.modules, self.modules.step
        modules.recall()
        if modules.added_keys:
            with unseen():
                call = added_in_front(call, modules.added_keys)
        if self.watcher.wants(modules.path + call.inside):
            kind = modules.kind(call.weights.shape[-1] - call.added)
            place = Place(modules.path + call.inside, kind, max(step.number, 0))
            with self.watch.lock:
                self.watcher.attention(call, place, step, modules.padding)

    def named(self, read: Any, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call attention that was called by its name, and read it."""
        before = self.reading
        self.reading = True
        try:
            result = original(*args, **kwargs)
        finally:
            self.reading = before
        with unseen():
            read_attention(self, read, result, args, kwargs, called=True)
        return result

    def through(self, read: Callable[..., Call | None], result: Any, args: Any, kwargs: Any) -> None:
        """Read a function in which nothing was seen; it may be called once more, unseen."""
        self.passing = True
        try:
            with unseen():
                read_attention(self, read, result, args, kwargs, called=True)
        finally:
            self.passing = False

    def is_idle(self) -> bool:
        """Whether what happens now is not looked at."""
        return self.passing or not self.watch.on or going_back()

    def settle(self) -> None:
        """A loss has told what the calls of this step were for."""
        with self.watch.lock:
            self.watcher.settle(self.modules.step)

    # Modules.

    def call(self, original: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
        """Call a module, and see what it does."""
        part = self.watch.parts.of(module)
        before = self.sees
        if part.passes():
            self.passing = True
            if before:
                self.see(False)
            try:
                return original(module, *args, **kwargs)
            finally:
                self.passing = False
                if before:
                    self.see(True)
        stack, depth = self.trails.stack, self.modules.depth
        self._enter(module, args, kwargs)
        part.path = self.modules.path
        self.trails.stack = (*stack, part)
        self.see(not part.is_silent())
        try:
            result = original(module, *args, **kwargs)
            if depth == 0:
                with unseen():
                    self.modules.returned(result)
            return result
        finally:
            self.modules.leave(depth)
            self.trails.stack = stack
            self.see(before if len(stack) > 1 else self._outside())

    def _outside(self) -> bool:
        """A model, or a part of one, was left: whether what comes until the next one is watched."""
        self.outside.calls = self.modules.step.number + 1
        return not self.outside.is_silent()

    def _enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module is called; the step before is over when it is a model."""
        try:
            if type(module).__name__ == "OptimizedModule":
                self.watcher.changed("compiled regions ran eagerly")
            with unseen():
                outermost = self.modules.depth == 0
                ended = self.modules.enter(module, args, kwargs)
                if outermost and self.watch.models is not None:
                    self.watch.models.keep(module, args, kwargs, self.modules.step)
                if ended is not None and ended.number >= 0:
                    self.ends(ended)
        except Exception as error:
            self.watcher.trouble(error)

    def ends(self, step: Any) -> None:
        """A step is over."""
        with self.watch.lock:
            self.watcher.step_ends(step)
            for where, shape in self.trails.open.values():
                self.watcher.missed(where, shape)
            self.trails.open.clear()

    def leave(self) -> None:
        """The thread, or the watch, comes to its end."""
        try:
            self.ends(self.modules.step)
        except Exception as error:
            self.watcher.trouble(error)
        self.modules.leave(0)
        self.trails = Trails((self.outside,), lambda: self.modules.path)
        self.see(False)


def _models() -> Any:
    from maskcli.tracing.measured import Models

    return Models()


class Watch:
    """The watch over a program, from `start` to `stop`; the watcher is told of what it does."""

    def __init__(self, watcher: Checker) -> None:
        self.watcher = watcher
        self.parts, self.lock = Parts(), threading.RLock()
        self.on = False
        self._undo = ExitStack()
        self._threads = threading.local()
        self.children: Children | None = None
        self.models = _models() if watcher.options.measure else None
        self._reported = False

    def start(self) -> None:
        """Watch all threads from here on."""
        self.readers = readers()
        self._wrap()
        self.on = True
        self.thread().see(True)
        _WATCHING.add(self)

    def stop(self) -> None:
        """Leave the program alone."""
        if self.on:
            self.thread().leave()
            self.watcher.unseen(self.parts.unseen())
        self.on = False
        self._undo.close()

    @contextmanager
    def apart(self, recorder: str | None) -> Iterator[None]:
        """Step aside for what records the program, and say so where that runs it."""
        if not self.on:
            yield
            return
        if recorder is not None:
            self.watcher.changed(f"{recorder} ran unwatched")
        watched = self.thread()
        before, self.on = watched.sees, False
        watched.see(False)
        self._undo.close()
        try:
            yield
        finally:
            self._wrap()
            self.on = True
            watched.see(before)

    def first(self) -> None:
        """The first attention of this process."""
        if not self._reported and self.children is not None:
            self.children.began()
        self._reported = True

    def started(self, method: str) -> None:
        """A child process was started by a method of multiprocessing."""
        why = self.children.why_not(method) if self.children is not None else None
        if why is not None:
            self.watcher.unfollowed(why)

    def forked(self) -> None:
        """This is a forked child: its report is its own, and is left however it ends."""
        children = self.children
        if not self.on or children is None:
            self.on = False
            return
        self.lock, self._reported = threading.RLock(), False
        self.watcher = Checker(self.watcher.program, self.watcher.options)

        def last() -> None:
            self.stop()
            children.leave(self.watcher.report())

        before_exit(last)

    def thread(self) -> Watched:
        """What is known of this thread."""
        try:
            known: Watched = self._threads.watched
        except AttributeError:
            known = self._threads.watched = Watched(self)
        return known

    def reader(self, func: Callable[..., Any]) -> Any:
        """What is done about a function that is called for the first time."""
        self.readers[func] = late_reader(func)
        return self.readers[func]

    def _wrap(self) -> None:
        import torch

        keep_eager(self._undo, lambda what: self.watcher.changed(what))
        let_python_run(self._undo, lambda mode: mode is self.thread().mode)
        self._wrap_modules(torch.nn.Module)
        self._wrap_attention(torch.nn.functional)
        self._wrap_threads()
        tell_starts(self._undo, self.started)
        open_doors(self, self._undo)
        step_aside(self._undo, self.apart)
        point_at_program(self._undo)

    def _wrap_modules(self, kind: Any) -> None:
        import torch

        original, threads, task = kind.__call__, self._threads, torch._C._current_graph_task_id

        @functools.wraps(original)
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            # As `is_idle`, without its calls: nothing else is run as often.
            watched = getattr(threads, "watched", None) or self.thread()
            if watched.passing or not self.on or task() != NO_TASK:
                return original(module, *args, **kwargs)
            return watched.call(original, module, args, kwargs)

        kind.__call__ = call
        self._undo.callback(setattr, kind, "__call__", original)

    def _wrap_attention(self, functional: Any) -> None:
        """Attention that is called by its name, as nearly always, is seen where the mode is off as well."""
        name = "scaled_dot_product_attention"
        original = getattr(functional, name)

        @functools.wraps(original)
        def attention(*args: Any, **kwargs: Any) -> Any:
            watched = self.thread()
            if watched.is_idle():
                return original(*args, **kwargs)
            return watched.named(ATTENTION[name], original, args, kwargs)

        setattr(functional, name, attention)
        self._undo.callback(setattr, functional, name, original)

    def _wrap_threads(self) -> None:
        """Threads that begin from here on are watched from their first function."""
        begin = getattr(threading.Thread, "_bootstrap_inner", None)
        if begin is None:
            return

        @functools.wraps(begin)
        def bootstrap(thread: threading.Thread) -> None:
            if self.on:
                self.thread().see(True)
            try:
                begin(thread)
            finally:
                self.thread().leave()

        threading.Thread._bootstrap_inner = bootstrap  # type: ignore[attr-defined]
        self._undo.callback(setattr, threading.Thread, "_bootstrap_inner", begin)


_WATCHING: weakref.WeakSet[Watch] = weakref.WeakSet()


def _forked() -> None:
    for watch in list(_WATCHING):
        watch.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def going_back() -> bool:
    """Whether gradients are being computed: what is called now is called again (gradient checkpointing)."""
    import torch

    return torch._C._current_graph_task_id() != NO_TASK
