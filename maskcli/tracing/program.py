"""Run a program as Python itself would: its arguments, path, `__main__`, exit code and traceback."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import CodeType, TracebackType
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.tracing.lines import HERE

INTERRUPTED = 130


class Program(NamedTuple):
    """What to run as `__main__`: how to get its code, its file, `sys.path[0]`, and the spec of a module."""

    name: str
    code: Callable[[], CodeType]
    file: str
    folder: str
    spec: ModuleSpec | None


def script(path: str) -> Program:
    """A Python file, read and compiled when it runs, so that a syntax error is told as Python tells it."""
    if not os.path.isfile(path):
        raise MaskcliError(f"there is no Python file {path!r}; pass a script, or a module with -m")
    file = os.path.abspath(path)

    def code() -> CodeType:
        with io.open_code(file) as opened:
            return compile(opened.read(), file, "exec", dont_inherit=True)

    return Program(path, code, file, os.path.dirname(os.path.realpath(path)), None)


def module(name: str) -> Program:
    """A module, or the `__main__` of a package, as `python -m` finds it."""
    sys.path.insert(0, os.getcwd())
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError, AttributeError) as error:
        raise MaskcliError(f"-m {name!r}: {error}") from None
    finally:
        sys.path.pop(0)
    get_code = getattr(spec.loader, "get_code", None) if spec is not None else None
    if spec is None or get_code is None or spec.origin is None:
        raise MaskcliError(f"-m {name!r}: there is no such module that could be run")
    chosen = spec.name
    return Program(spec.origin, lambda: get_code(chosen), spec.origin, os.getcwd(), spec)


def run(program: Program, arguments: list[str]) -> int:
    """Run a program to its end; its exit code. What it raises is told on standard error, as Python does."""
    sys.argv[:] = [program.name, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = program.folder
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=program.file,
        __builtins__=__builtins__,
        __spec__=program.spec,
        __package__=program.spec.parent if program.spec else None,
        __loader__=program.spec.loader if program.spec else None,
        __cached__=None,
    )
    sys.modules["__main__"] = main
    try:
        exec(program.code(), main.__dict__)
    except SystemExit as stop:
        return _exit_code(stop)
    except BaseException as error:
        _tell(error)
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _exit_code(stop: SystemExit) -> int:
    """The exit code of sys.exit(x): x itself, 0 for None; other things are printed and mean 1."""
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)
    return 1


def _tell(error: BaseException) -> None:
    """Print a traceback that begins in the program and leaves out what watches it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        cause.__traceback__ = _own(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    sys.excepthook(type(error), error, error.__traceback__)


def _own(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of this package."""
    if trace is None:
        return None
    rest = _own(trace.tb_next)
    if trace.tb_frame.f_code.co_filename.startswith(HERE):
        return rest
    return TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)
