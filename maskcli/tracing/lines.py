"""Whose code a line is: the user's own, a library's, or this package's."""

from __future__ import annotations

import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from types import FrameType

HERE = str(Path(__file__).resolve().parents[1])
_LIBRARIES = tuple({sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")})


def user_line() -> tuple[str, int] | None:
    """The line of the user's code that led here: the innermost one that is no package's nor Python's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not _installed(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


@lru_cache(maxsize=4096)
def _installed(path: str) -> bool:
    return path.startswith(("<", HERE, *_LIBRARIES)) or "site-packages" in path or "dist-packages" in path
