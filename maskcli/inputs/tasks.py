"""What is to be checked: files, and the role of every tensor in each."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.inputs.files import expand
from maskcli.meant.facts import Expectation
from maskcli.tensors import (
    Roled,
    TensorFile,
    arranged,
    named_tensor,
    open_tensors,
    parse_role,
    role_of,
    split_target,
)

# Tensors that are named where a pattern matches none.
NAMED = 4


class Task(NamedTuple):
    """A file to check, `FILE[:TENSOR]`, and what --role says of its tensors, `ROLE=FILE[:TENSOR]` each."""

    target: str
    roles: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The file."""
        return split_target(self.target)[0]

    @property
    def size(self) -> int:
        """Its bytes; 0 where there is no such file."""
        try:
            return os.stat(self.path).st_size
        except (OSError, ValueError):
            return 0


def tasks_of(targets: Sequence[str], roles: Sequence[str] = ()) -> list[Task]:
    """Files, folders and patterns as files; a role goes to the file it names, another's to the only one."""
    files = expand(targets)
    said: dict[int, list[str]] = {}
    paths = [Task(file).path for file in files]
    for text in roles:
        path = parse_role(text)[1]
        if path not in paths and len(files) > 1:
            raise MaskcliError(
                f"--role {text!r} names a file that is not diagnosed, and there are several; "
                "diagnose one file at a time"
            )
        said.setdefault(paths.index(path) if path in paths else 0, []).append(text)
    return [Task(file, tuple(said.get(at, ()))) for at, file in enumerate(files)]


def open_roled(task: Task) -> tuple[TensorFile, tuple[Roled, ...]]:
    """A file and the role of every tensor, --role above names; tensors of other files join."""
    path, name = split_target(task.target)
    file = open_tensors(path)
    if name is not None:
        file = dataclasses.replace(file, tensors=(named_tensor(file, name),))
    roled = tuple(role_of(tensor) for tensor in file.tensors)
    for text in task.roles:
        joined = _said_role(text)
        same_file = joined.file.path == file.path
        name = joined.roled.tensor.name
        roled = (*(one for one in roled if not same_file or one.tensor.name != name), joined.roled)
    return file, arranged(roled)


class _Joined(NamedTuple):
    """A tensor whose role was said, and the file it is in."""

    file: TensorFile
    roled: Roled


def _said_role(text: str) -> _Joined:
    """What `ROLE=FILE[:TENSOR]` names."""
    role, path, name = parse_role(text)
    file = open_tensors(path)
    if name is None and len(file.tensors) != 1:
        raise MaskcliError(
            f"--role {text!r}: {path!r} has {len(file.tensors)} tensors; say which: {role}={path}:NAME"
        )
    tensor = named_tensor(file, name) if name else file.tensors[0]
    return _Joined(file, dataclasses.replace(role_of(tensor), role=role, why="--role"))


def check_patterns(expect: Sequence[Expectation], tasks: Sequence[Task]) -> None:
    """Refuse a pattern that fits no attention map and no mask of any file: a typo must not pass for a check.

    Files are opened until each pattern has matched, which the first one mostly settles; bad ones are reported
    in their turn.
    """
    left = [expected.pattern for expected in expect if expected.pattern is not None]
    examples: list[str] | None = None
    for task in tasks:
        if not left:
            return
        names = _names(task)
        if names is not None:
            examples = examples or names
            left = [pattern for pattern in left if not any(fnmatchcase(name, pattern) for name in names)]
    if left and examples is not None:
        there = ", ".join(examples[:NAMED]) or "none"
        raise MaskcliError(
            f"--expect pattern {left[0]!r} matches no attention map or mask; there are {there}"
        )


def _names(task: Task) -> list[str] | None:
    """The attention maps and masks of a file; None when it cannot be opened."""
    try:
        _, roled = open_roled(task)
    except Exception:
        return None
    return [one.tensor.name for one in roled if one.role in ("weights", "mask")]
