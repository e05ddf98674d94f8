"""Defaults of options in pyproject.toml: [tool.maskcli.diagnose] and the like."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from maskcli.errors import MaskcliError

# Bytes of a pyproject.toml that are read.
LARGEST = 2**20
TABLE = "tool.maskcli"
# What options take, by their type: what TOML has for it, and in words. All others take text.
KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}
# What marks the root of a repository: nothing above it is looked at.
ROOT = ".git"


def defaults(command: Any, commands: Iterable[str]) -> dict[str, Any]:
    """What the nearest pyproject.toml with a [tool.maskcli] says of a command's options, by parameter.

    It is looked for from the current folder up to the root of the repository, or there alone where there is
    none. Raises MaskcliError for a table that no command has, an unknown option or a value of another kind.
    """
    for path in _candidates():
        tables = _tables(path)
        if tables is not None:
            _check_known(path, TABLE, tables, commands, "command")
            return _of_command(path, command, tables.get(command.name, {}))
    return {}


def _candidates() -> list[Path]:
    """The files of that name that count, the nearest first; none in a folder that is gone."""
    try:
        here = Path.cwd()
    except OSError:
        return []
    folders = (here, *here.parents)
    root = next((at for at, folder in enumerate(folders) if (folder / ROOT).exists()), 0)
    files = (folder / "pyproject.toml" for folder in folders[: root + 1])
    return [file for file in files if file.is_file()]


def _tables(path: Path) -> Mapping[str, Any] | None:
    """The table of maskcli, where a file has one. What does not name it is not even parsed."""
    from maskcli.untrusted import read_bytes

    data = read_bytes(path, LARGEST)
    if b"maskcli" not in data:
        return None
    whole = _parsed(path, data)
    tool = whole.get("tool")
    tables = tool.get("maskcli") if isinstance(tool, dict) else None
    if tables is not None and not isinstance(tables, dict):
        raise MaskcliError(
            f"{_named(path)}: {TABLE} is no table; write [{TABLE}.diagnose] and options below it"
        )
    return tables


def _parsed(path: Path, data: bytes) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise MaskcliError(f"{_named(path)} is not valid TOML ({error}); mend it, or run elsewhere") from None


def _of_command(path: Path, command: Any, table: Any) -> dict[str, Any]:
    """The defaults for one command, each checked as if it stood on the command line."""
    where = f"{TABLE}.{command.name}"
    if not isinstance(table, dict):
        raise MaskcliError(f"{_named(path)}: {where} is no table; write [{where}] and options below it")
    options = {name: each for each in command.params for name in _names(each)}
    _check_known(path, where, {_spelled(key): None for key in table}, options, "option")
    context = command.context_class(command, info_name=command.name)
    annotations = _annotations(command.name)
    found = {}
    for key, given in table.items():
        parameter = options[_spelled(key)]
        at = f"{_named(path)}: {where}.{key}"
        found[parameter.name] = _value(at, parameter, annotations[parameter.name], given, context)
    return found


def _annotations(command: str) -> dict[str, Any]:
    """What the function of a command says of its parameters."""
    function = getattr(import_module(f"maskcli.cli.{command}"), command)
    parameters = inspect.signature(function, eval_str=True).parameters
    return {name: parameter.annotation for name, parameter in parameters.items()}


def _names(parameter: Any) -> list[str]:
    """The long names of an option, as a table has them; none of an argument, or of what prints and exits."""
    if parameter.param_type_name != "option" or parameter.is_eager:
        return []
    return [name.removeprefix("--") for name in parameter.opts if name.startswith("--")]


def _spelled(key: str) -> str:
    return key.replace("_", "-")


def _value(where: str, parameter: Any, annotation: Any, given: Any, context: Any) -> Any:
    """A value as the option takes it."""
    several = bool(getattr(parameter, "multiple", False))
    values = given if several and isinstance(given, list) else [given]
    kind, words = _kind(annotation, several)
    for value in values:
        if type(value) not in kind:
            raise MaskcliError(f"{where} is {value!r}, and {words} was expected")
    texts = [value if kind == (bool,) else str(value) for value in values]
    checked = texts if several else texts[0]
    try:
        parameter.process_value(context, checked)
    except Exception as error:
        raise MaskcliError(f"{where}: {getattr(error, 'message', error)}".rstrip(".")) from None
    return checked


def _kind(annotation: Any, several: bool) -> tuple[tuple[type, ...], str]:
    """The types of values that an option takes, and what they are called."""
    inner = annotation
    while get_args(inner):
        # Annotated[int | None, …], list[str] | None: the first of what it is made of is what counts.
        inner = get_args(inner)[0]
    types, words = KINDS.get(inner, ((str,), "text"))
    return types, words + (" or a list of them" if several else "")


def _check_known(path: Path, where: str, keys: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse a name that is none, with the one that it is like."""
    names = list(known)
    for key in keys:
        if key not in names:
            close = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(names))}"
            raise MaskcliError(f"{_named(path)}: {where} has {key!r}, which is no {what}; {hint}")


def _named(path: Path) -> str:
    return repr(os.path.relpath(path))
