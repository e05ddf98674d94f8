"""What a command is given as FILE...: folders and patterns become the files they stand for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from glob import has_magic
from pathlib import Path, PurePath

from maskcli.errors import MaskcliError
from maskcli.tensors import readable, split_target, suffix_of


def expand(targets: Iterable[str]) -> list[str]:
    """The files of `FILE[:TENSOR]`, folders and quoted patterns, each once and in the order given.

    A folder stands for the files with a known suffix in it and below, sorted; hidden files and folders are
    passed over and links to folders not followed. A pattern is a shell's, with ** for any folders. Raises
    MaskcliError for one without files.
    """
    found: dict[tuple[str, str | None], str] = {}
    for target in targets:
        path, name = split_target(target)
        for each in _files(path):
            found.setdefault((os.path.abspath(each), name), each if name is None else f"{each}:{name}")
    return list(found.values())


def _files(path: str) -> list[str]:
    if os.path.isdir(path):
        within = sorted(_walk(path), key=_parts)
    elif has_magic(path) and not os.path.lexists(path):
        within = sorted(_matching(path), key=_parts)
    else:
        return [path]
    if not within:
        what = "is a folder without" if os.path.isdir(path) else "matches no"
        raise MaskcliError(f"{path!r} {what} files of the types {', '.join(readable())}: check the path")
    return within


def _walk(folder: str) -> Iterator[str]:
    """The files below a folder; one that cannot be listed stands for itself, so that opening it says why."""
    closed: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=lambda error: closed.append(str(error.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in names if not name.startswith(".") and _known(name))
    yield from closed


def _matching(pattern: str) -> Iterator[str]:
    """The files that match, and those below folders that do; hidden ones only where the pattern is hidden."""
    parts = PurePath(pattern).parts
    fixed = next(at for at, part in enumerate(parts) if has_magic(part))
    root = Path(*parts[:fixed])
    hidden = any(part.startswith(".") for part in parts[fixed:])
    try:
        matches = list(root.glob(str(PurePath(*parts[fixed:]))))
    except ValueError as error:
        raise MaskcliError(
            f"{pattern!r} is not a pattern of files ({error}): write ** between slashes"
        ) from error
    for match in matches:
        if hidden or not any(part.startswith(".") for part in match.relative_to(root).parts):
            if os.path.isdir(match) and not match.is_symlink():
                yield from _walk(str(match))
            elif _known(match.name):
                yield str(match)


def _known(name: str) -> bool:
    return suffix_of(name) in readable()


def _parts(path: str) -> tuple[str, ...]:
    return PurePath(path).parts
