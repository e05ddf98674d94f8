"""HTTP to the one server that a user named: no redirects, no proxies, answers of bounded size in bounded
time."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from maskcli.errors import MaskcliError
from maskcli.untrusted import json_object

# One request and its whole answer; servers that load or compile a model first need some of it.
SECONDS = 120.0
CONNECT_SECONDS = 10.0
# A server that is busy (429, 503) or hangs up is asked again, after pauses of seconds.
PAUSES = (0.5, 2.0)
LONGEST_PAUSE = 10.0
BUSY = (429, 503)
# What any answer may weigh, beside what the caller says that it needs.
LEAST_BYTES = 2**16


class Reply(NamedTuple):
    """The status of an answer, and the JSON object in it (None: it holds none)."""

    status: int
    value: dict[str, Any] | None


class _Reset(Exception):  # noqa: N818 (it is asked again)
    """The server hung up before it answered."""


class _Connection(http.client.HTTPConnection):
    """A connection to addresses that were looked up once, so that no second look-up can lead elsewhere."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire.host, wire.port, timeout=wire.seconds)
        self.default_port = wire.usual_port
        self._wire = wire

    def connect(self) -> None:
        """Connect to the first address that answers; the certificate is that of the host that was named."""
        self.sock = self._wire.connected()
        self.sock.settimeout(self._wire.seconds)
        if self._wire.tls is not None:
            secured = self._wire.tls.wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock = secured
            secured.do_handshake()

    def cut(self) -> None:
        """End whatever waits for this connection; the method of the plain socket, also below TLS."""
        if self.sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class Wire:
    """Requests to the server at an address such as http://localhost:8000/v1.

    The host is looked up once. `key` goes to it as a bearer token, and nowhere else. MaskcliError when the
    address is none, or the host has no address.
    """

    def __init__(self, url: str, key: str | None = None, seconds: float = SECONDS) -> None:
        self.url = url
        self.seconds = seconds
        parts = _parts(url)
        self.host, self.port, self.path = parts.host, parts.port, parts.path
        self.tls = ssl.create_default_context() if parts.secure else None
        self.usual_port = 443 if parts.secure else 80
        self.headers = {"Accept": "application/json", "Connection": "close", **_authorization(key)}
        self.addresses = _looked_up(self.host, self.port)

    def connected(self) -> socket.socket:
        """A socket to the first of the addresses that takes it."""
        failed: OSError | None = None
        for address in self.addresses:
            try:
                return socket.create_connection(address, timeout=min(self.seconds, CONNECT_SECONDS))
            except OSError as error:
                failed = error
        raise MaskcliError(
            f"{self.url!r} cannot be reached ({_reason(failed)}); start the server, or pass its host and port"
        )

    def get(self, path: str) -> Reply:
        """What the server answers to GET."""
        return self._asked("GET", path, None, LEAST_BYTES)

    def post(self, path: str, body: dict[str, Any], most: int) -> Reply:
        """What the server answers to a JSON object; at most `most` bytes, and 64 KiB, are read of it."""
        return self._asked("POST", path, json.dumps(body).encode(), LEAST_BYTES + most)

    def _asked(self, method: str, path: str, body: bytes | None, most: int) -> Reply:
        """The answer of a server that may be busy for a while."""
        for pause in (*PAUSES, None):
            try:
                status, data, later = self._exchanged(method, path, body, most)
            except _Reset:
                if pause is None:
                    raise MaskcliError(
                        f"{self.url!r} hangs up without an answer; see what the server's own log says"
                    ) from None
                later = None
            else:
                if status not in BUSY or pause is None:
                    return Reply(status, _object(data))
            time.sleep(pause if later is None else later)
        raise AssertionError("the last try returns or raises")

    def _exchanged(
        self, method: str, path: str, body: bytes | None, most: int
    ) -> tuple[int, bytes, float | None]:
        """One request: the status, the body, and in how many seconds to come again."""
        connection = _Connection(self)
        started = time.monotonic()
        watch = threading.Timer(self.seconds, connection.cut)
        watch.daemon = True
        watch.start()
        try:
            headers = self.headers if body is None else {**self.headers, "Content-Type": "application/json"}
            connection.request(method, self.path + path, body, headers)
            with connection.getresponse() as response:
                data = response.read(most + 1)
                later = _seconds(response.getheader("Retry-After"))
        # A socket that was cut while TLS reads from it raises ValueError.
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._check_time(started)
            raise self._failed(error) from None
        finally:
            watch.cancel()
            connection.close()
        self._check_time(started)
        if len(data) > most:
            raise MaskcliError(
                f"{self.url!r} answers with more than {most // 1024} KiB where less is needed; pass the "
                "address of a server with OpenAI's API"
            )
        return response.status, data, later

    def _check_time(self, started: float) -> None:
        if time.monotonic() - started >= self.seconds:
            raise MaskcliError(
                f"{self.url!r} did not end its answer within {self.seconds:g} seconds; ask when the server "
                "is idle, or for shorter texts by --length"
            )

    def _failed(self, error: Exception) -> Exception:
        """What a broken exchange is: worth another try, or an error with its reason."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return MaskcliError(
                f"{self.url!r} has no certificate that can be trusted ({error.verify_message}); pass the "
                "host's name as its certificate says it, or set SSL_CERT_FILE"
            )
        if isinstance(error, ssl.SSLError):
            return MaskcliError(f"{self.url!r} speaks no TLS ({error.reason}); try http:// in its place")
        if isinstance(error, (ConnectionError, http.client.IncompleteRead)):
            return _Reset()
        return MaskcliError(
            f"{self.url!r} speaks no HTTP ({type(error).__name__}); pass the address of a server with "
            "OpenAI's API, such as http://localhost:8000/v1"
        )


class _Parts(NamedTuple):
    secure: bool
    host: str
    port: int
    path: str


def _parts(url: str) -> _Parts:
    """An address, taken apart; MaskcliError when it is no plain one of a server."""
    wanted = "pass one like http://localhost:8000/v1"
    plain = url.isascii() and url.isprintable() and " " not in url
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        plain, host = False, None
    if not plain or host is None or parts.scheme not in ("http", "https"):
        raise MaskcliError(f"{url!r} is no address of a server; {wanted}")
    if parts.username is not None or parts.query or parts.fragment:
        raise MaskcliError(f"the address of {host!r} holds a user, a query or a fragment; {wanted}")
    secure = parts.scheme == "https"
    return _Parts(secure, host, port or (443 if secure else 80), parts.path.rstrip("/"))


def _authorization(key: str | None) -> dict[str, str]:
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise MaskcliError(
            "the API key holds characters that no header may have; pass the key as it was given"
        )
    return {"Authorization": f"Bearer {key}"}


def _looked_up(host: str, port: int) -> list[tuple[str, int]]:
    """The addresses of a host, in the order in which the system prefers them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise MaskcliError(
            f"{host!r} has no address ({_reason(error)}); check the name of the host"
        ) from None
    return list(dict.fromkeys((str(address[0]), port) for *_, address in found))


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        return json_object(data)
    except ValueError:
        return None


def _seconds(text: str | None) -> float | None:
    """The pause that a busy server asks for, in whole seconds; None where it says none."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return None
    return min(float(text), LONGEST_PAUSE)


def _reason(error: Exception | None) -> str:
    said = isinstance(error, OSError) and error.strerror
    return str(said or error).lower()
