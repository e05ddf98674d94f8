"""Named arrays to a file, which is replaced only when the new one is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from maskcli.errors import MaskcliError
from maskcli.tensors.atomic import replacing
from maskcli.tensors.dtypes import WRITABLE
from maskcli.tensors.formats import suffix_of, writable
from maskcli.tensors.sources import Source


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Source], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file in the format that its suffix names; `metadata` is kept by all but .npy.

    An existing file is replaced only when the new one is whole. Raises MaskcliError when the format cannot
    hold the tensors or the place cannot be written.
    """
    path, suffix = os.fspath(path), suffix_of(path)
    writer = writable().get(suffix)
    if writer is None:
        raise MaskcliError(f"{path!r} ends in {suffix!r}, expected one of {', '.join(writable())}")

    for name, source in tensors.items():
        if source.dtype not in WRITABLE:
            raise MaskcliError(
                f"{path!r} cannot hold {name!r} as {source.dtype}, expected one of {', '.join(WRITABLE)}"
            )
    why = writer.refusal(tensors)
    if why is not None:
        raise MaskcliError(f"{path!r} {why}")

    _check_room(path, sum(source.nbytes for source in tensors.values()))
    with replacing(path) as temporary:
        writer.write(temporary, tensors, metadata or {})


def holds_one(path: str) -> bool:
    """Whether the format that a suffix names holds one tensor and nothing else."""
    writer = writable().get(suffix_of(path))
    return writer is not None and writer.one


def _check_room(path: str, needed: int) -> None:
    """Refuse what the disk has no room for before the first byte, and not after the last."""
    folder = os.path.dirname(os.path.abspath(path))
    free = shutil.disk_usage(folder).free if os.path.isdir(folder) else needed
    if needed > free:
        raise MaskcliError(
            f"{path!r} would take {needed:,} bytes, and {free:,} are free there; write less, or elsewhere"
        )
