"""FILE.py:NAME: a function in a Python file of the user's own."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.extras import EXTRAS, missing
from maskcli.untrusted import read_bytes

# Functions that a sentence names, and bytes of a file that are looked through for them.
NAMED, LARGEST = 4, 2**20


def load_function(path: str, name: str) -> tuple[Callable[..., Any], ModuleType]:
    """The function, and its module, which is run for it; MaskcliError says why there is none."""
    if not os.path.isfile(path):
        raise MaskcliError(f"there is no file {path!r}; write FILE.py:NAME with the path of a Python file")
    specification = importlib.util.spec_from_file_location("maskcli_user_code", path)
    if specification is None or specification.loader is None:
        raise MaskcliError(f"{path!r} is no Python file; write FILE.py:NAME")
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
            raise missing(error.name, repr(path), str(error)) from error
        raise MaskcliError(f"{path!r} fails when it is loaded: {in_words(error)}") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise MaskcliError(f"{path!r} has no function {name!r}; it has {', '.join(functions[:8]) or 'none'}")
    return function, module


def functions_in(path: str) -> list[str]:
    """The first functions that a Python file defines, as its text tells: nothing is run."""
    import ast

    try:
        tree = ast.parse(read_bytes(path, LARGEST))
    except (MaskcliError, SyntaxError, ValueError, RecursionError):
        return []
    return [each.name for each in tree.body if isinstance(each, ast.FunctionDef)][:NAMED]


def in_words(error: BaseException) -> str:
    """What a user's code raised, in a line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
