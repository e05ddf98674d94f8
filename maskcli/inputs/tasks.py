"""What is to be checked: files, and the role of every tensor in each."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.inputs.files import expand
from maskcli.inputs.runs import Run, in_runs, open_run
from maskcli.meant.settling import Expectation
from maskcli.tensors import (
    Roled,
    TensorFile,
    arranged,
    named_tensor,
    open_tensors,
    parse_role,
    role_in,
    role_of,
    split_target,
)

# Tensors that are named where a pattern matches none.
NAMED = 4


class Task(NamedTuple):
    """A file to check, `FILE[:TENSOR]`, and what --role says of its tensors, `ROLE=FILE[:TENSOR]` each.

    Or a `run` of several files, which is checked as one and which `target` names.
    """

    target: str
    roles: tuple[str, ...] = ()
    run: Run | None = None

    @property
    def path(self) -> str:
        """The file, or the folder of the run."""
        return split_target(self.target)[0] if self.run is None else self.target

    @property
    def paths(self) -> tuple[str, ...]:
        """The files."""
        return (self.path,) if self.run is None else tuple(member.path for member in self.run.members)

    @property
    def size(self) -> int:
        """Their bytes; 0 for what does not exist."""
        return sum(map(_size, self.paths))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0


def tasks_of(targets: Sequence[str], roles: Sequence[str] = ()) -> list[Task]:
    """Files, folders and patterns as files and runs; a role goes to the file it names, or to the only one."""
    tasks = [
        Task(each) if isinstance(each, str) else Task(each.name, run=each)
        for each in in_runs(expand(targets))
    ]
    said: dict[int, list[str]] = {}
    owners = {path: at for at, task in enumerate(tasks) for path in task.paths}
    for text in roles:
        path = parse_role(text)[1]
        if path not in owners and len(tasks) > 1:
            raise MaskcliError(
                f"--role {text!r} names a file that is not diagnosed, and there are several; "
                "diagnose one file at a time"
            )
        said.setdefault(owners.get(path, 0), []).append(text)
    return [task._replace(roles=tuple(said.get(at, ()))) for at, task in enumerate(tasks)]


def open_roled(task: Task) -> tuple[TensorFile, tuple[Roled, ...]]:
    """A file and the role of every tensor, --role above names; tensors of other files join."""
    file, roled = _opened(task) if task.run is None else open_run(task.run)
    for text in task.roles:
        said, path = _said_role(text), parse_role(text)[1]
        roled = [one for one in roled if _place(one, file) not in (said.origin, path)]
        roled.append(dataclasses.replace(said, origin=None) if path == file.path else said)
    return file, arranged(tuple(roled))


def _opened(task: Task) -> tuple[TensorFile, list[Roled]]:
    path, name = split_target(task.target)
    file = open_tensors(path)
    if name is not None:
        file = dataclasses.replace(file, tensors=(named_tensor(file, name),))
    return file, [role_in(file, tensor) for tensor in file.tensors]


def _place(roled: Roled, file: TensorFile) -> str:
    """The FILE:TENSOR that a tensor lies in, FILE alone where a run has it of a file of one."""
    return roled.origin or f"{file.path}:{roled.tensor.name}"


def _said_role(text: str) -> Roled:
    """What `ROLE=FILE[:TENSOR]` names."""
    role, path, name = parse_role(text)
    file = open_tensors(path)
    if name is None and len(file.tensors) != 1:
        raise MaskcliError(
            f"--role {text!r}: {path!r} has {len(file.tensors)} tensors; say which: {role}={path}:NAME"
        )
    tensor = named_tensor(file, name) if name else file.tensors[0]
    return dataclasses.replace(role_of(tensor), role=role, why="--role", origin=f"{path}:{tensor.name}")


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
