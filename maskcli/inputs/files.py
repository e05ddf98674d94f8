"""What a command is given as FILE...: folders and patterns become the files they stand for."""

from __future__ import annotations

import os
from collections.abc import Iterable

from maskcli.tensors import files_of, readable, split_target, suffix_of


def expand(targets: Iterable[str]) -> list[str]:
    """The files of `FILE[:TENSOR]`, folders and quoted patterns, each once and in the order given.

    A folder stands for the files with a known suffix in it and below. Raises MaskcliError for a folder or
    pattern without files.
    """
    found: dict[tuple[str, str | None], str] = {}
    for target in targets:
        path, name = split_target(target)
        for each in files_of(path, _known, ", ".join(readable())):
            found.setdefault((os.path.abspath(each), name), each if name is None else f"{each}:{name}")
    return list(found.values())


def _known(name: str) -> bool:
    return suffix_of(name) in readable()
