"""Signals that end a run, remembered: a library may make another error of what they raise, or nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any, NoReturn

# Seconds until a signal that a library swallowed is raised again.
AGAIN = 0.01
# What ends a run politely, and what stands there where nobody asked for anything else.
POLITE = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}

_CAME: list[int] = []
# The process that listens: those that a traced program forks from it speak for themselves.
_LISTENS: list[int] = []


def listen(names: tuple[str, ...] = tuple(POLITE)) -> None:
    """Let these signals raise, so that what is half-written is removed; one that is ignored stays so."""
    _CAME.clear()
    _LISTENS[:] = [os.getpid()]
    for name in names:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == POLITE[name]:
            signal.signal(number, _end)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _swallowed


def leave() -> None:
    """Let signals end the process as they end any other: what was asked for is done."""
    for name in POLITE:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


def came() -> int | None:
    """The signal that should have ended this run, None when none came."""
    return _CAME[0] if _CAME else None


def ended() -> int | None:
    """The signal that should have ended the run of this very process, None when none came."""
    return came() if os.getpid() in _LISTENS else None


def told(number: int) -> str:
    """What ended a run, in words."""
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


def check() -> None:
    """End a run that a signal should have ended."""
    number = came()
    if number is not None:
        _raise(number)


def _end(number: int, _frame: Any) -> NoReturn:
    _CAME.append(number)
    _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _swallowed(unraisable: sys.UnraisableHookArgs) -> None:
    """What a finalizer or a callback of C raised goes no further; a signal comes again a moment later."""
    number = came()
    if number is None or not issubclass(unraisable.exc_type, KeyboardInterrupt | SystemExit):
        sys.__unraisablehook__(unraisable)
        return
    again = threading.Timer(AGAIN, signal.raise_signal, (number,))
    again.daemon = True
    again.start()
