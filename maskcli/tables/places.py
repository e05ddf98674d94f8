"""Where tables lie: the one place where a path is opened and a folder or pattern becomes files."""

from __future__ import annotations

import os
from typing import BinaryIO

from maskcli.errors import MaskcliError
from maskcli.tensors import Remote, is_remote
from maskcli.tensors.streams import stream_of
from maskcli.untrusted import check_file


def opened(path: str) -> BinaryIO:
    """A file of any size, open to be read from any place; nothing but a regular file is."""
    if is_remote(path):
        return stream_of(Remote(path))
    check_file(path)
    try:
        return open(path, "rb")
    except OSError as error:
        raise MaskcliError(f"{path!r} cannot be read ({error.strerror}); check its permissions") from None


def exists(path: str) -> bool:
    """Whether there is a file; of one elsewhere, whether it can be reached."""
    if not is_remote(path):
        return os.path.exists(path)
    try:
        return Remote(path).size >= 0
    except MaskcliError:
        return False


def size_of(path: str) -> int:
    """Bytes of a file."""
    return Remote(path).size if is_remote(path) else os.path.getsize(path)
