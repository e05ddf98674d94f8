"""A program that is watched runs as it is written: nothing is compiled."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any


def keep_eager(undo: ExitStack, changed: Callable[[str], None]) -> None:
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
