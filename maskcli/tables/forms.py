"""The forms of files that hold rows: how each is recognised, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.tables import batch_files, ipc, json_whole, jsonl, parquet, streams
from maskcli.tables.columns import Chunk, Look, Part, Raw, Wanted
from maskcli.tables.compressed import expanded
from maskcli.tensors import readable


class Form(NamedTuple):
    """A form of files, by the name that messages call it.

    Files of folders and patterns are found by their `suffixes`; `holds` tells any file of this form by its
    path and first bytes. `look` tells a file's parts and columns, `read` the rows of a part.
    """

    name: str
    suffixes: tuple[str, ...]
    holds: Callable[[str, bytes], bool]
    look: Callable[[str, str], Look]
    read: Callable[[Part, Wanted], Iterator[Chunk]]


def _begins(*magic: bytes) -> Callable[[str, bytes], bool]:
    return lambda _, head: head.startswith(magic)


def _is_columns(path: str, head: bytes) -> bool:
    return head.startswith(b"{") and json_whole.is_columns(path)


# The first that holds a file reads it.
FORMS: tuple[Form, ...] = (
    Form("parquet", (".parquet",), _begins(b"PAR1"), parquet.look, parquet.read),
    Form("arrow", (".arrow", ".feather"), _begins(*ipc.MAGIC), ipc.look, ipc.read),
    Form("tensors", tuple(readable()), batch_files.holds, batch_files.look, batch_files.read),
    Form("JSON list", (".json",), _begins(b"["), json_whole.look, json_whole.read),
    Form("JSON columns", (".json",), _is_columns, json_whole.look, json_whole.read),
    Form("JSON lines", (".jsonl", ".ndjson", ".json"), _begins(b"{"), jsonl.look, jsonl.read),
)
# Suffixes of packed files, behind another.
PACKED = (".gz", ".zst")
# Bytes that tell a file's form.
HEAD = 512


def suffixes() -> list[str]:
    """The suffixes by which files in folders are found."""
    return list(dict.fromkeys(suffix for form in FORMS for suffix in form.suffixes))


def is_known(name: str) -> bool:
    """Whether a file's name ends in one of them, packed or not."""
    small = name.lower()
    for packed in PACKED:
        small = small.removesuffix(packed)
    return small.endswith(tuple(suffixes()))


def form_of(path: str, raw: Raw | None = None) -> Form:
    """The form of a file, with `raw` also of a stream of ids; MaskcliError for one that has none of them."""
    with expanded(path) as file:
        head = file.read(HEAD)
    if raw is not None and streams.holds(path, head):
        return Form("tokens", streams.SUFFIXES, streams.holds, partial(streams.look, raw=raw), streams.read)
    text = head.removeprefix(jsonl.BOM).lstrip()
    if not text:
        raise MaskcliError(f"{path!r} is empty and holds no rows; write or download it again")
    for form in FORMS:
        if form.holds(path, text):
            return form
    if raw is None and streams.holds(path, head):
        raise MaskcliError(
            f"{path!r} has no header, expected one of numpy or torch; if it is a stream of token ids, "
            "say their type, such as --dtype uint16"
        )
    names = ", ".join(form.name for form in FORMS)
    raise MaskcliError(f"{path!r} holds no rows in a form that is read here, expected one of {names}")


def reader_of(part: Part) -> Callable[[Part, Wanted], Iterator[Chunk]]:
    """Who reads a part."""
    if part.raw is not None:
        return streams.read
    return next(form.read for form in FORMS if form.name == part.form)
