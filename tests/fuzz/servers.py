"""A server that lies, hangs and hangs up: whatever it answers, `probe` ends soon, with a report or in one sentence."""

import functools
import itertools
import json
import socket
import threading
import time

from tests.fuzz.mutate import damaged, damaged_json, json_bytes
from tests.fuzz.process import faults, run
from tests.fuzz.source import seeded

# How long one answer may take, in seconds, where users have minutes.
PATIENCE = 0.2
# How many requests a whole probe takes, and a few.
REQUESTS = 24
# What the server knows, and how many tokens it invents at most.
IDS, MOST_NEW = 200, 64
# The largest log-prob of each place.
BEST = -0.1
MODELS = {"data": [{"id": "m", "max_model_len": 512}]}


def probe(source, folder):
    """Of its answers, up to three are lies."""
    server = _server()
    server.expect({source.below(REQUESTS): source.whole(4) for _ in range(source.between(1, 3))})
    words = ["probe", server.url, "--format", source.choice(["json", "text"])]
    words += source.choice(
        [[], ["--expect", "causal"], ["--length", "20"], ["--vocab", str(source.number())]]
    )
    return [f"{fault}: {words}" for fault in faults(run(words))]


class Server:
    """Answers as causal attention does over two tokens, but for the requests whose numbers are lied to."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.expect({})
        threading.Thread(target=self._serve, daemon=True).start()

    def expect(self, lies):
        """Begin anew, with the seeds of lies by the numbers of requests."""
        self.lies, self.numbers = lies, itertools.count()

    def _serve(self):
        while True:
            link, _ = self.socket.accept()
            seed = self.lies.get(next(self.numbers))
            threading.Thread(target=_talk, args=(link, seed), daemon=True).start()


def _talk(link, seed):
    with link:
        try:
            link.settimeout(2)
            value = MODELS if (body := _asked(link)) is None else completion(body)
            if seed is None:
                link.sendall(http(json_bytes(value)))
            else:
                lie = seeded("lie", seed)
                lie.choice(LIES)(lie, link, value)
        # What is damaged may be no request that is known here, and whom it is for may be gone.
        except (OSError, ValueError, KeyError, TypeError):
            pass


def _asked(link):
    """The object that a request brings; None of one that brings none."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(link)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
    size = int(fields.get(b"content-length", 0))
    while len(body) < size:
        body += _more(link)
    return json.loads(body) if size else None


def _more(link):
    block = link.recv(2**16)
    if not block:
        raise OSError
    return block


def http(data, status=200, *headers):
    """An answer in bytes."""
    lines = [f"HTTP/1.1 {status} said", f"Content-Length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode(errors="replace") + data


def completion(body):
    """The log-probs of what was asked, as OpenAI's servers tell them."""
    prompts = body["prompt"]
    texts = [prompts] if isinstance(prompts[0], int) else prompts
    return {"choices": [_choice(at, text, body) for at, text in enumerate(texts)]}


def _choice(at, text, body):
    tokens = list(text)
    for _ in range(min(body["max_tokens"], MOST_NEW)):
        tokens.append(_best(tokens, len(tokens)))
    told = range(0 if body.get("echo") else len(text), len(tokens))
    own = [_score(tokens, place) for place in told]
    tops = [
        {_name(_best(tokens, place)): BEST, _name(tokens[place]): score} if place else None
        for place, score in zip(told, own, strict=True)
    ]
    names = [_name(tokens[place]) for place in told]
    return {"index": at, "logprobs": {"tokens": names, "token_logprobs": own, "top_logprobs": tops}}


def _name(token):
    return f"token_id:{token}"


def _best(tokens, place):
    return (_before(tokens, place) * 5 + 1) % IDS


def _before(tokens, place):
    return sum(tokens[max(0, place - 2) : place])


def _score(tokens, place):
    """The log-prob of a token: the largest, if it is the best of its place."""
    if place == 0:
        return None
    if tokens[place] == _best(tokens, place):
        return BEST
    return BEST - 0.25 - ((tokens[place] * 7 + _before(tokens, place) * 3) % 97) / 16


def _json(lie, link, value):
    link.sendall(http(json_bytes(damaged_json(lie, value))))


def _bytes(lie, link, value):
    link.sendall(damaged(lie, http(json_bytes(value))))


def _status(lie, link, value):
    status = lie.choice([100, 204, 301, 400, 401, 404, 422, 429, 500, 503, 999, lie.number()])
    later = f"Retry-After: {lie.choice([0, 10**9, -1, lie.text()])}"
    link.sendall(http(json_bytes({"error": lie.text()}), status, later, f"Location: {lie.text()}"))


def _silent(lie, link, value):
    link.recv(1)


def _gone(lie, link, value):
    link.sendall(http(json_bytes(value))[: lie.below(300)])


def _slow(lie, link, value):
    for byte in http(json_bytes(value))[:100]:
        link.sendall(bytes([byte]))
        time.sleep(0.01)


def _endless(lie, link, value):
    link.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(2000):
        link.sendall(b"[" * 2**16)


LIES = [_json, _json, _json, _json, _bytes, _bytes, _status, _gone, _silent, _slow, _endless]


@functools.cache
def _server():
    """The server, and less patience than users have with theirs."""
    from maskcli.probing import wire
    from maskcli.probing.server import measure_server

    measure_server.__kwdefaults__["seconds"] = PATIENCE
    wire.PAUSES, wire.LONGEST_PAUSE = (0.01, 0.01), 0.02
    return Server()
