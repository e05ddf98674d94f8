"""Addresses of files elsewhere, such as s3://bucket/step1.safetensors, as text."""

from __future__ import annotations

import re

# Two letters at least come first: one is a drive.
ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<login>[^/]*@)?(?P<place>[^?#]*)(?P<query>.*)", re.DOTALL
)


class Address(str):
    """An address that messages, which quote paths by their repr, show without its login and its query."""

    def __repr__(self) -> str:
        return repr(shown(self))


def scheme_of(address: str) -> str:
    """What an address begins with, in small letters."""
    return address.partition("://")[0].lower()


def is_remote(path: str) -> bool:
    """Whether a path is an address."""
    return ADDRESS.match(path) is not None


def shown(path: str) -> str:
    """An address without login and query, as messages and reports have it; any other path as it is."""
    match = ADDRESS.match(path)
    if match is None:
        return path
    return f"{match['scheme']}://{match['place']}" + ("?…" if match["query"] else "")


def place_of(path: str) -> str:
    """An address up to its query, which is no part of a name; any other path as it is."""
    match = ADDRESS.match(path)
    return path if match is None else path[: match.start("query")]


def split_address(target: str) -> tuple[str, str | None]:
    """`ADDRESS[:TENSOR]` as address and tensor: the colon stands behind the file's suffix or the query."""
    match = ADDRESS.match(target)
    assert match is not None
    name = target.rfind("/", 0, match.end("place")) + 1
    at = target.find(":", max(name, target.find(".", name)))
    return (target, None) if at < 0 else (target[:at], target[at + 1 :] or None)
