"""The forms of files that hold rows: how each is recognised, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.tables import ipc, jsonl, parquet
from maskcli.tables.columns import Chunk, Look, Part, Wanted
from maskcli.tables.compressed import GZIP, ZSTANDARD
from maskcli.tables.places import opened


class Form(NamedTuple):
    """A form of files, by the name that messages call it.

    Files of a folder or pattern are of it by a suffix of `suffixes`; any file is by its first bytes, `magic`.
    `look` tells a file's parts and columns, `read` the rows of a part.
    """

    name: str
    suffixes: tuple[str, ...]
    magic: tuple[bytes, ...]
    look: Callable[[str, str], Look]
    read: Callable[[Part, Wanted], Iterator[Chunk]]


FORMS: tuple[Form, ...] = (
    Form("parquet", (".parquet",), (b"PAR1",), parquet.look, parquet.read),
    Form("arrow", (".arrow", ".feather"), (ipc.FILE, ipc.STREAM), ipc.look, ipc.read),
    Form("JSON lines", (".jsonl", ".ndjson", ".json"), (b"{", GZIP, ZSTANDARD), jsonl.look, jsonl.read),
)
# Suffixes of packed files, behind another.
PACKED = (".gz", ".zst")
# Bytes that tell a file's form.
HEAD = 512


def suffixes() -> list[str]:
    """The suffixes by which files in folders are found."""
    return [suffix for form in FORMS for suffix in form.suffixes]


def is_known(name: str) -> bool:
    """Whether a file's name ends in one of them, packed or not."""
    small = name.lower()
    for packed in PACKED:
        small = small.removesuffix(packed)
    return small.endswith(tuple(suffixes()))


def form_of(path: str) -> Form:
    """The form of a file by its first bytes; MaskcliError for one that has none of them."""
    with opened(path) as file:
        head = file.read(HEAD).removeprefix(jsonl.BOM).lstrip()
    for form in FORMS:
        if head.startswith(form.magic):
            return form
    if not head:
        raise MaskcliError(f"{path!r} is empty and holds no rows; write or download it again")
    names = ", ".join(form.name for form in FORMS)
    raise MaskcliError(f"{path!r} holds no rows in a form that is read here, expected one of {names}")


def form_named(name: str) -> Form:
    """The form of a part."""
    return next(form for form in FORMS if form.name == name)
