"""Warnings of the program point at its own line, not at the one that watches it."""

from __future__ import annotations

import sys
import warnings
from contextlib import ExitStack
from types import FrameType
from typing import Any

from maskcli.tracing.lines import HERE


def point_at_program(undo: ExitStack) -> None:
    """Give a warning of a watched function to the line that called it, as without the watch."""
    original = getattr(warnings, "_showwarnmsg", None)
    if original is None:
        return

    def show(message: Any) -> None:
        frame = _caller() if message.filename.startswith(HERE) else None
        if frame is None:
            original(message)
            return
        _forget_ours()
        known = frame.f_globals.setdefault("__warningregistry__", {})
        name = frame.f_globals.get("__name__", "<unknown>")
        line = (frame.f_code.co_filename, frame.f_lineno, name, known)
        warnings.warn_explicit(message.message, message.category, *line, source=message.source)

    warnings._showwarnmsg = show  # type: ignore[attr-defined]
    undo.callback(setattr, warnings, "_showwarnmsg", original)


def _caller() -> FrameType | None:
    """The innermost frame that is not of this package."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(HERE):
        frame = frame.f_back
    return frame


def _forget_ours() -> None:
    """A line of ours stands for all lines of the program: that it has warned says nothing of the next one."""
    for name, module in list(sys.modules.items()):
        if name.startswith("maskcli.tracing"):
            getattr(module, "__warningregistry__", {}).clear()
