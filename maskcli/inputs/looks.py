"""What `inspect` is given: files with all their tensors described, or one tensor of each to look into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.meant.facts import Declared
from maskcli.meant.metadata import from_metadata
from maskcli.scene.describe import Described, describe
from maskcli.scene.named import labels_among
from maskcli.tensors import TOLD, Roled, Zoom, named_tensor, open_tensors, place, role_in, split_target

# Heads of one picture.
MOST_HEADS = 64


class Inspected(NamedTuple):
    """Files by path with their tensors, and the part of each tensor to look at (None: just listed).

    With `every_head` a picture shows all heads of the part; `tokenizer` names its tokens,
    and `declared` is what its weights should be.
    """

    files: list[tuple[str, list[Described]]]
    zoom: Zoom | None
    every_head: bool = False
    tokenizer: str | None = None
    declared: Declared = Declared()

    def looked(self) -> list[Described]:
        """The tensors to look into. Raises MaskcliError when the part lies outside of one."""
        if self.zoom is None:
            return []
        looked = [tensors[0] for _, tensors in self.files]
        for described in looked:
            place(described.roled.tensor, self.zoom)
        return looked

    def zooms(self, described: Described) -> list[Zoom]:
        """The parts of a tensor that a picture shows: one, or one for each head."""
        zoom, sizes = self.zoom or Zoom(), described.roled.tensor.shape[:-2]
        if not self.every_head:
            return [zoom]
        if not sizes:
            raise MaskcliError(f"--head all: {described.roled.tensor.name!r} has no heads; leave it out")
        heads = sizes[-1]
        if heads > MOST_HEADS:
            raise MaskcliError(
                f"--head all: {heads:,} heads are more than the {MOST_HEADS} of a picture; pass --head N"
            )
        return [zoom._replace(head=head) for head in range(heads)]


def inspected(
    targets: Sequence[str],
    zoom: Zoom | None,
    convention: str | None,
    past: int | None,
    every_head: bool = False,
    tokenizer: str | None = None,
    declared: Declared | None = None,
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
        roled = [role_in(file, tensor) for tensor in chosen]
        masks = any(one.role == "mask" for one in roled)
        labels = labels_among([role_in(file, tensor) for tensor in file.tensors]) if masks else {}
        told = from_metadata(file.metadata, file.path)
        described = [
            describe(one, convention or _told(one, told), told.past if past is None else past, labels)
            for one in roled
        ]
        files.append((file.path, described))
    return Inspected(files, zoom, every_head, tokenizer, declared or Declared())


def _told(roled: Roled, told: Declared) -> str | None:
    """The convention that a file tells of its masks over queries, and of the one that was written."""
    return told.convention if roled.role == "mask" or roled.why == TOLD else None
