"""Servers that nobody vouched for: each ends in one sentence, in bounded time and memory, and gets nothing elsewhere."""

import json
import os
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from contextlib import contextmanager

import pytest

from maskcli.errors import MaskcliError
from maskcli.probing.completions import Completions
from maskcli.probing.logprobs import Untold, read
from maskcli.probing.server import _middle, measure_server
from maskcli.probing.wire import Wire

MODELS = {"data": [{"id": "m"}]}
TEXT = list(range(16, 32))


def http(value, status="200 OK", headers=()):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


@contextmanager
def answering(post, get=None):
    """The address of a server that answers in raw bytes; a function gets the socket itself."""
    server = socket.create_server(("127.0.0.1", 0))
    asked = []

    def talk(link):
        with link:
            head = link.recv(2**20).decode("latin-1")
            asked.append(head)
            reply = (http(MODELS) if get is None else get) if head.startswith("GET") else post
            try:
                if callable(reply):
                    reply(link)
                else:
                    link.sendall(reply)
                    link.shutdown(socket.SHUT_WR)
                    # What was sent is read to its end, or else closing would take the answer back.
                    while link.recv(2**16):
                        pass
            except OSError:
                pass

    def serve():
        while True:
            try:
                link, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(link,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1", asked
    finally:
        server.close()


def completion(**changed):
    """An answer to the first text."""
    told = {
        "tokens": [f"token_id:{each}" for each in range(17)],
        "token_logprobs": [None, *[-1.0] * 16],
        "top_logprobs": [None, *[{"token_id:3": -0.5}] * 16],
    }
    return {"choices": [{"index": 0, "logprobs": {**told, **changed}}]}


def drip(link):
    link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(1000):
        link.sendall(b" ")
        time.sleep(0.05)


def drip_headers(link):
    link.sendall(b"HTTP/1.1 200 OK\r\n")
    for at in range(1000):
        link.sendall(f"X-{at}: y\r\n".encode())
        time.sleep(0.05)


def continue_for_ever(link):
    for _ in range(1000):
        link.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.02)


def endless(link):
    link.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        link.sendall(b"[" * 2**16)


def endless_chunks(link):
    link.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        link.sendall(b"10000\r\n" + b"1" * 2**16 + b"\r\n")


def silent(link):
    time.sleep(30)


ESCAPES = "\x1b[31mred\x1b]0;title\x07\n"
CASES = {
    "html": (http(b"<html><script>hello</script></html>"), "answers with no JSON object"),
    "list": (http([1, 2]), "answers with no JSON object"),
    "broken JSON": (http(b'{"choices": ['), "answers with no JSON object"),
    "deep JSON": (http(b"[" * 60_000), "answers with no JSON object"),
    "large number": (http(b'{"choices": ' + b"9" * 6000 + b"}"), "answers with no JSON object"),
    "no UTF-8": (http(b"\xff\xfe{}"), "answers with no JSON object"),
    "gzip": (
        http(b"\x1f\x8b\x08" + b"\0" * 99, headers=["Content-Encoding: gzip"]),
        "answers with no JSON object",
    ),
    "redirect": (http(b"", "302 Found", ["Location: http://127.0.0.1:1/v1"]), "answers with a redirect"),
    "permanent redirect": (http(b"", "308 Moved", [f"Location: {'/v1' * 3}"]), "answers with a redirect"),
    "no choices": (http({"choices": None}), "no choices to 1 prompts"),
    "many choices": (http({"choices": [{}] * 1000}), "1000 choices to 1 prompts"),
    "index": (http({"choices": [{"index": 7}]}), "without an index of their own"),
    "choice": (http({"choices": ["text"]}), "without an index of their own"),
    "index of a wrong type": (http({"choices": [{"index": [0]}]}), "without an index of their own"),
    "no log-probs": (http({"choices": [{"index": 0, "logprobs": None}]}), "tells no log-probs of prompts"),
    "few log-probs": (http(completion(token_logprobs=[-1.0])), "tells no log-probs of prompts"),
    "empty log-probs": (http(completion(token_logprobs=[None] * 17)), "tells no log-probs of prompts"),
    "words": (http(completion(token_logprobs=[None, *["much"] * 16])), "'much' in the place of a log-prob"),
    "NaN": (http(completion(token_logprobs=[None, *[float("nan")] * 16])), "nan in the place of a log-prob"),
    "infinity": (
        http(completion(token_logprobs=[None, *[float("inf")] * 16])),
        "inf in the place of a log-prob",
    ),
    "probabilities": (http(completion(token_logprobs=[None, *[0.4] * 16])), "0.4 in the place of a log-prob"),
    "true": (http(completion(token_logprobs=[None, *[True] * 16])), "True in the place of a log-prob"),
    "escapes": (http(completion(token_logprobs=[None, *[ESCAPES] * 16])), r"'\\x1b\[31mred"),
    "alike": (http(completion()), "17 of 64|no log-probs of prompts"),
    "401": (http({"error": ESCAPES}, "401 Unauthorized"), "asks for an API key"),
    "404": (http({"error": ESCAPES}, "404 Not Found"), "has no model 'm'"),
    "418": (http({"error": ESCAPES}, "418 Teapot"), "refuses the request"),
    "500": (http({"error": ESCAPES}, "500 Oops"), "fails; see what the server's own log says"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "speaks no HTTP"),
    "many headers": (http({}, headers=[f"X-{at}: y" for at in range(200)]), "speaks no HTTP"),
    "long header": (http({}, headers=["X: " + "y" * 70_000]), "speaks no HTTP"),
    "hangs up": (b"", "hangs up without an answer"),
    "drip": (drip, "did not end its answer within 1 seconds"),
    "drip in headers": (drip_headers, "did not end its answer within 1 seconds|speaks no HTTP"),
    "continue": (continue_for_ever, "did not end its answer within 1 seconds"),
    "silence": (silent, "did not end its answer within 1 seconds"),
    "endless": (endless, r"answers with more than \d+ KiB"),
    "endless chunks": (endless_chunks, r"answers with more than \d+ KiB"),
}


@pytest.mark.combinations
@pytest.mark.parametrize("case", CASES)
def test_each_ends_in_one_sentence_soon_and_in_little_memory(case, monkeypatch):
    monkeypatch.setattr("maskcli.probing.wire.PAUSES", (0.01, 0.01))
    post, message = CASES[case]
    tracemalloc.start()
    started = time.monotonic()
    with answering(post) as (url, _), pytest.raises(MaskcliError, match=message) as raised:
        measure_server(url, seconds=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - started < 5
    assert peak < 2**24
    text = str(raised.value)
    assert text.isprintable()
    assert len(text) < 400
    assert "; " in text


@pytest.mark.parametrize(
    ("get", "message"),
    [
        (http(b"<html>"), "lists no models"),
        (http({"data": [{"id": 5}, None, {"id": "x" * 1000}]}), "lists no models"),
        (http({"data": [{"id": ESCAPES}, {"id": "b"}]}), r"serves 2 models \('\\x1b"),
        (http(b"", "301 Moved", ["Location: http://127.0.0.1:1/v1"]), r"lists no models \(status 301\)"),
        (http({"data": [{"id": "m", "max_model_len": 5}]}), "texts of -2 tokens tell nothing"),
        (endless, r"answers with more than \d+ KiB"),
    ],
)
def test_lists_of_models_are_not_believed(get, message):
    with answering(http({}), get) as (url, asked), pytest.raises(MaskcliError, match=message) as raised:
        measure_server(url, seconds=1)
    assert str(raised.value).isprintable()
    assert len(asked) == 1


def test_a_thousand_million_tokens_are_none():
    ids = completion(
        tokens=["token_id:1000000000"] * 17, top_logprobs=[None, *[{"token_id:1000000000": -0.5}] * 16]
    )
    [scored] = read(ids, [TEXT], "echo")
    assert scored.ids == [10**9]
    far = completion(tokens=[f"token_id:{10**9}9"] * 17)
    assert read(far, [TEXT], "echo")[0].ids is None
    with pytest.raises(Untold):
        read(completion(token_logprobs=[None] * 10**6), [TEXT], "echo")


def test_a_redirect_leads_nowhere():
    with answering(http({})) as (other, asked):
        moved = http(b"", "307 Temporary Redirect", [f"Location: {other}/completions"])
        with answering(moved) as (url, _), pytest.raises(MaskcliError, match="redirect"):
            measure_server(url, key="a-secret", seconds=1)
    assert asked == []


def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    with answering(http({})) as (proxy, asked):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        with answering(CASES["html"][0]) as (url, _), pytest.raises(MaskcliError, match="no JSON"):
            measure_server(url, seconds=1)
    assert asked == []


def test_a_host_is_looked_up_once(monkeypatch):
    looked = []
    usual = socket.getaddrinfo

    def look(host, *rest, **options):
        looked.append(host)
        # A second look-up would lead to another place.
        place = "127.0.0.1" if looked.count("some.where") == 1 else "127.0.0.9"
        return usual(place if host == "some.where" else host, *rest, **options)

    with answering(http({"choices": [{"index": 0, "logprobs": None}]})) as (url, asked):
        monkeypatch.setattr(socket, "getaddrinfo", look)
        with pytest.raises(MaskcliError, match="tells no log-probs"):
            measure_server(url.replace("127.0.0.1", "some.where"), seconds=1)
    assert len(asked) == 5
    assert looked.count("some.where") == 1
    assert all("Host: some.where" in head for head in asked)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000", "is no address of a server"),
        ("ftp://localhost/v1", "is no address of a server"),
        ("file:///etc/passwd", "is no address of a server"),
        ("http://", "is no address of a server"),
        ("http://host:99999/v1", "is no address of a server"),
        ("http://host/v1\r\nX: y", "is no address of a server"),
        ("http://host/v 1", "is no address of a server"),
        ("http://user:secret@host/v1", "the address of 'host' holds a user, a query or a fragment"),
        ("http://host/v1?a=b", "the address of 'host' holds a user, a query or a fragment"),
        ("http://no.such.host.invalid/v1", "'no.such.host.invalid' has no address"),
    ],
)
def test_addresses_are_checked(url, message):
    with pytest.raises(MaskcliError, match=message) as raised:
        measure_server(url)
    assert "secret" not in str(raised.value)
    assert str(raised.value).isprintable()


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(MaskcliError, match=r"cannot be reached \(connection refused\); start the server"):
        measure_server(f"http://127.0.0.1:{port}/v1")


def test_a_key_is_one_line():
    with pytest.raises(MaskcliError, match="characters that no header may have") as raised:
        measure_server("http://127.0.0.1:1/v1", key="secret\r\nX: y")
    assert "secret" not in str(raised.value)


def test_plain_http_is_no_tls():
    with answering(http({})) as (url, _), pytest.raises(MaskcliError, match="speaks no TLS"):
        measure_server(url.replace("http:", "https:"), seconds=2)


def test_certificates_are_checked(tmp_path, monkeypatch):
    """A certificate that nobody trusts is refused; trusted, it is only good for the host in it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                link, _ = server.accept()
                with context.wrap_socket(link, server_side=True) as secured:
                    secured.recv(2**16)
                    secured.sendall(http(MODELS))
            except OSError:
                if server.fileno() < 0:
                    return

    threading.Thread(target=serve, daemon=True).start()
    port = server.getsockname()[1]
    with server:
        with pytest.raises(
            MaskcliError, match=r"no certificate that can be trusted \(self-signed certificate\)"
        ):
            Wire(f"https://localhost:{port}/v1", seconds=2).get("/models")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert Wire(f"https://localhost:{port}/v1", seconds=2).get("/models").value == MODELS
        with pytest.raises(MaskcliError, match=r"no certificate that can be trusted .*IP address mismatch"):
            Wire(f"https://127.0.0.1:{port}/v1", seconds=2).get("/models")


def test_what_may_be_read_grows_with_what_was_asked():
    with answering(http(completion())) as (url, _):
        wire = Wire(url, seconds=1)
        assert wire.post("/completions", {}, 0).status == 200
        completions = Completions(wire, "m")
        assert completions.greet(TEXT).named == {3}
        with answering(http(b" " * 2**17)) as (large, _):
            with pytest.raises(MaskcliError, match="more than 64 KiB"):
                Wire(large, seconds=1).post("/completions", {}, 0)
            assert Wire(large, seconds=1).post("/completions", {}, 2**17).value is None


@pytest.mark.parametrize("vocab", [2**31 - 1, 2**63, 10**30])
def test_a_vocabulary_without_end_takes_no_memory(vocab):
    ids = _middle(vocab)
    assert ids.nbytes < 2**25
    assert 0 < ids.min() < ids.max() < 2**22
