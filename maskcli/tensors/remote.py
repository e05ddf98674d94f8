"""Files elsewhere, by an address such as s3://bucket/step1.safetensors: read in ranges, through fsspec.

Servers are believed no more than files are: no answer is longer than what was asked for, or takes longer than
a minute. What an address holds of passwords and signatures never reaches a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

from maskcli.errors import MaskcliError
from maskcli.extras import needing
from maskcli.tensors.addresses import Address, scheme_of, shown
from maskcli.tensors.storage import Handle

# Bytes asked for at a time, and the seconds that each answer may take: 70 KB a second are enough.
STEP, PATIENCE = 2**22, 60
# Seconds in which a server is reached, and in which it says something more.
CONNECT, SILENCE = 10, 20
# Bytes of a listing, or of an answer to another question.
ASIDE = 2**26
# What leads to this machine's own files, past all that is checked of them.
LOCAL = ("file", "local", "data")
WEB = ("http", "https")


class Remote(Handle):
    """A file elsewhere; what is not asked for is not fetched."""

    def __init__(self, address: str) -> None:
        self.path, self._address = shown(address), address

    @cached_property
    def _there(self) -> _There:
        return _there(self._address)

    @cached_property
    def size(self) -> int:
        """Bytes in the file, as its server says."""
        fs, path = self._there
        with _sentences(self.path):
            info = fs.info(path)
        if info.get("type") == "directory":
            raise self.error("is a folder; end it with / to read the files in it")
        if not isinstance(info.get("size"), int):
            raise self.error("does not say how large it is, so no part of it can be read; download it")
        return int(info["size"])

    def _read_once(self, view: memoryview, offset: int) -> int:
        fs, path = self._there
        count = min(len(view), STEP, self.size - offset)
        if count <= 0:
            return 0
        with _sentences(self.path):
            data = fs.cat_file(path, start=offset, end=offset + count)
        if len(data) == self.size:
            # A server without ranges sends the whole file.
            data = data[offset : offset + count]
        if len(data) > count:
            raise self.error("is sent as a whole, though a part was asked for; download it")
        view[: len(data)] = data
        return len(data)


class _There(NamedTuple):
    """A file system, and the path in it."""

    fs: Any
    path: str


def _there(address: str) -> _There:
    """Where an address leads."""
    scheme = scheme_of(address)
    if scheme in LOCAL or "::" in address:
        raise MaskcliError(
            f"{shown(address)!r} is no address of a file elsewhere; write the path of a local file itself"
        )
    with _sentences(shown(address)):
        import fsspec

        options = _options(scheme, fsspec.config.conf.get(scheme, {}))
        return _There(*fsspec.core.url_to_fs(address, **options))


def _options(scheme: str, said: dict[str, Any]) -> dict[str, Any]:
    """How long servers are waited for, beside what the user's configuration of fsspec says."""
    if scheme in WEB:
        import aiohttp

        timeout = aiohttp.ClientTimeout(PATIENCE, sock_connect=CONNECT, sock_read=SILENCE)
        bounds = {"timeout": timeout, "response_class": _bounded(), "auto_decompress": False}
        return {"client_kwargs": {**bounds, **said.get("client_kwargs", {})}}
    if scheme in ("s3", "s3a"):
        bounds = {"connect_timeout": CONNECT, "read_timeout": SILENCE, "retries": {"max_attempts": 2}}
        return {"config_kwargs": {**bounds, **said.get("config_kwargs", {})}}
    return {}


def _bounded() -> type[Any]:
    """A response of aiohttp whose body is never read past what anybody asks for."""
    from aiohttp import ClientResponse

    class Bounded(ClientResponse):
        async def read(self) -> bytes:
            limit = STEP if self.status == 206 else ASIDE
            body = bytearray()
            while block := await self.content.read(2**16):
                body += block
                if len(body) > limit:
                    self.close()
                    raise MaskcliError(f"{shown(str(self.url))!r} sends more than was asked for; download it")
            self._body = bytes(body)
            return self._body

    return Bounded


@contextmanager
def _sentences(path: str) -> Iterator[None]:
    """What goes wrong elsewhere, in one sentence without anything that a server or a library says."""
    try:
        with needing("fsspec", repr(path), "download it"):
            yield
    except MaskcliError:
        raise
    except Exception as error:
        raise MaskcliError(f"{path!r} {_why(error)}") from None


def _why(error: BaseException) -> str:
    """What an error says of a file, and what to do."""
    cause = error.__cause__
    if cause is not None and (_is_late(cause) or type(cause).__module__.startswith("aiohttp")):
        # For fsspec a file whose size could not be had is no file.
        return _why(cause)
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status == 404:
        return "does not exist; check the address"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "may not be read by this user; check the credentials"
    if _is_late(error):
        return "is answered too slowly; try again, or download it"
    if isinstance(error, ValueError) and "Protocol not known" in str(error):
        return "has an unknown beginning; write one such as s3:// or https://"
    more = f", status {status}" if status else ""
    return f"cannot be read ({type(error).__name__}{more}); check the address, or download it"


def _is_late(error: BaseException) -> bool:
    """Whether time was over: each library has an error of its own for that."""
    return type(error).__name__.endswith("TimeoutError")


def listed(address: str, known: Callable[[str], bool]) -> list[str]:
    """The addresses of files in a folder and below, or that match a pattern, if `known` by name; sorted."""
    if scheme_of(address) in WEB:
        raise MaskcliError(f"{shown(address)!r} cannot be listed, as no web server can; name each file")
    address = address.rstrip("/")
    fs, path = _there(address)
    with _sentences(shown(address)):
        found = fs.glob(path) if "*" in path else fs.find(path)
    beginning = (
        address[: len(address) - len(path)] if address.endswith(path) else address[: address.index("://") + 3]
    )
    base = path.partition("*")[0].rpartition("/")[0]
    inside = (name for name in found if known(name) and not _is_hidden(name[len(base) :]))
    return [Address(beginning + name) for name in sorted(inside, key=lambda name: name.split("/"))]


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
