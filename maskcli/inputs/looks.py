"""What `inspect` is given: files with all their tensors described, or one tensor of each to look into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.scene.describe import Described, describe
from maskcli.scene.named import labels_among
from maskcli.tensors import Zoom, named_tensor, open_tensors, place, role_of, split_target


class Inspected(NamedTuple):
    """Files by path with their tensors, and the part of each tensor to look at (None: just listed)."""

    files: list[tuple[str, list[Described]]]
    zoom: Zoom | None

    def looked(self) -> list[Described]:
        """The tensors to look into. Raises MaskcliError when the part lies outside of one."""
        if self.zoom is None:
            return []
        looked = [tensors[0] for _, tensors in self.files]
        for described in looked:
            place(described.roled.tensor, self.zoom)
        return looked


def inspected(
    targets: Sequence[str], zoom: Zoom | None, convention: str | None, past: int | None
) -> Inspected:
    """`FILE[:TENSOR]`s described; where a part is looked at, each has to name one tensor."""
    files = []
    for target in targets:
        path, name = split_target(target)
        file = open_tensors(path)
        chosen = (named_tensor(file, name),) if name is not None else file.tensors
        if zoom is not None and len(chosen) != 1:
            raise MaskcliError(
                f"{file.path!r} has {len(chosen)} tensors; say which to look into: {file.path}:TENSOR"
            )
        roled = [role_of(tensor) for tensor in chosen]
        masks = any(one.role == "mask" for one in roled)
        labels = labels_among([role_of(tensor) for tensor in file.tensors]) if masks else {}
        files.append((file.path, [describe(one, convention, past, labels) for one in roled]))
    return Inspected(files, zoom)
