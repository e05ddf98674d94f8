"""What records or compiles a program must record nothing of ours: the watch steps aside meanwhile."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from maskcli.tracing.doors import holding
from maskcli.tracing.imports import after_import

# Functions that record what a program does, by their modules, and whether that runs the program, unseen.
_RECORDERS = (
    ("torch.export", "export", True),
    ("torch.export", "export_for_training", True),
    ("torch.jit", "trace", True),
    ("torch.jit", "trace_module", True),
    ("torch.jit", "script", False),
    ("torch.fx", "symbolic_trace", True),
    ("torch.fx.experimental.proxy_tensor", "make_fx", True),
    ("torch.onnx", "export", True),
)


def step_aside(undo: ExitStack, apart: Callable[[str | None], Any]) -> None:
    """Wrap the recorders, those that are imported and those that will be; `apart` is a context for each."""
    for module, name, runs in _RECORDERS:
        undo.callback(after_import(module, functools.partial(_wrap, undo, apart, module, name, runs)))


def _wrap(undo: ExitStack, apart: Callable[[str | None], Any], module: str, name: str, runs: bool) -> None:
    original = getattr(sys.modules[module], name, None)
    if original is None:
        return

    @functools.wraps(original)
    def recorder(*args: Any, **kwargs: Any) -> Any:
        with apart(f"{module}.{name}" if runs else None):
            made = original(*args, **kwargs)
        return _later(made, apart, f"{module}.{name}") if name == "make_fx" else made

    for each in holding(name, original):
        setattr(each, name, recorder)
        undo.callback(setattr, each, name, original)


def _later(made: Callable[..., Any], apart: Callable[[str | None], Any], name: str) -> Callable[..., Any]:
    """make_fx records when what it returned is called."""

    @functools.wraps(made)
    def record(*args: Any, **kwargs: Any) -> Any:
        with apart(name):
            return made(*args, **kwargs)

    return record
