"""Folders and patterns to the files they stand for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from glob import has_magic
from pathlib import Path, PurePath

from maskcli.errors import MaskcliError
from maskcli.tensors.addresses import is_remote, place_of, shown
from maskcli.tensors.remote import listed


def files_of(path: str, known: Callable[[str], bool], types: str) -> list[str]:
    """The files that a path stands for: those in a folder and below, those that match a pattern, or itself.

    Of folders and patterns, files whose name is `known`, in the order of their paths; hidden files and
    folders are passed over and links to folders not followed. A pattern is a shell's, with ** for any
    folders. Raises MaskcliError for one without files; `types` says of which they should be.
    """
    if is_remote(path) and (is_folder(path) or is_pattern(path)):
        within = listed(path, known)
    elif os.path.isdir(path):
        within = sorted(_walk(path, known), key=_parts)
    elif is_pattern(path):
        within = sorted(_matching(path, known), key=_parts)
    else:
        return [path]
    if not within:
        what = "is a folder without" if is_folder(path) else "matches no"
        raise MaskcliError(f"{shown(path)!r} {what} files of the types {types}: check the path")
    return within


def is_folder(path: str) -> bool:
    """Whether a path is a folder; an address says so with / at its end."""
    return path.endswith("/") if is_remote(path) else os.path.isdir(path)


def is_pattern(path: str) -> bool:
    """Whether a path is a pattern, and no file of that very name; of an address only * makes it one."""
    if is_remote(path):
        return "*" in place_of(path)
    return has_magic(path) and not os.path.lexists(path)


def _walk(folder: str, known: Callable[[str], bool]) -> Iterator[str]:
    """The files below a folder; one that cannot be listed stands for itself, so that opening it says why."""
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(parent) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError:
            yield parent
            continue
        for entry in entries:
            if not entry.is_dir():
                yield from [entry.path] if known(entry.name) else []
            elif not entry.is_symlink():
                waiting.append(entry.path)


def _matching(pattern: str, known: Callable[[str], bool]) -> Iterator[str]:
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
                yield from _walk(str(match), known)
            elif known(match.name):
                yield str(match)


def _parts(path: str) -> tuple[str, ...]:
    return PurePath(path).parts
