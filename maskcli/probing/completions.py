"""Completions of token ids, asked of a server with OpenAI's API; nothing but ids and options is sent."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

from maskcli.errors import MaskcliError
from maskcli.probing.logprobs import Form, Scored, Untold, read
from maskcli.probing.wire import Reply, Wire
from maskcli.text.tokenizer import quoted

# What an answer may weigh for each token that it tells of; vLLM's longest form takes about 300 bytes.
BYTES_A_TOKEN = 1024
# Beyond OpenAI's options: tokens by id, no end at the end of a text, no penalties of the server's own.
# Servers that refuse them are asked without.
EXTRAS = {"return_tokens_as_token_ids": True, "ignore_eos": True, "repetition_penalty": 1.0}
# Answers to what a server does not know.
REFUSALS = (400, 422, 500, 501)
LONGEST_NAME = 512


class Dialect(NamedTuple):
    """How to ask for the log-probs of a prompt: what asks for them, the options, where they stand."""

    asks: dict[str, Any]
    extras: dict[str, Any]
    form: Form


DIALECTS = (
    Dialect({"echo": True}, EXTRAS, "echo"),
    Dialect({"prompt_logprobs": 1}, EXTRAS, "prompt_logprobs"),
    Dialect({"echo": True}, {}, "echo"),
    Dialect({"prompt_logprobs": 1}, {}, "prompt_logprobs"),
)


class Served(NamedTuple):
    """A model by the name that it is served under, and how many tokens it takes (None: not told)."""

    name: str
    most_tokens: int | None


def find_served(wire: Wire, name: str | None) -> Served:
    """The model of a server: the one that is named, else the only one; MaskcliError where several are."""
    reply = wire.get("/models")
    listed = _models(reply) if reply.status == 200 else {}
    if name is not None:
        return Served(name, listed.get(name))
    if len(listed) == 1:
        return Served(*next(iter(listed.items())))
    if not listed:
        raise MaskcliError(
            f"{wire.url!r} lists no models (status {reply.status}); pass the address up to /v1, or a name by "
            "--served"
        )
    some = ", ".join(quoted(each) for each in list(listed)[:3])
    raise MaskcliError(f"{wire.url!r} serves {len(listed)} models ({some}, ...); choose one by --served")


def _models(reply: Reply) -> dict[str, int | None]:
    """Models that are no adapters of others, and how many tokens each takes."""
    data = (reply.value or {}).get("data")
    listed: dict[str, int | None] = {}
    for model in data if isinstance(data, list) else []:
        name = model.get("id") if isinstance(model, dict) else None
        if isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and not model.get("parent"):
            most = model.get("max_model_len")
            listed[name] = most if isinstance(most, int) and most > 0 else None
    return listed


class Completions:
    """The completions of one served model. Counts what was sent."""

    def __init__(self, wire: Wire, model: str) -> None:
        self.wire = wire
        self.model = model
        self.dialect = DIALECTS[0]
        self.requests = 0
        self.tokens = 0
        self._counting = Lock()

    def greet(self, text: list[int]) -> Scored:
        """The first answer, by the first dialect that this server speaks.

        MaskcliError when it tells no log-probs of prompts in any.
        """
        for self.dialect in DIALECTS:
            reply = self._post([text], 1, self.dialect.asks)
            if reply.status == 200 and reply.value is not None:
                try:
                    return self._read(reply, [text], self.dialect.form)[0]
                except Untold:
                    continue
            if reply.status not in REFUSALS:
                break
        self._check(reply)
        raise self._untold()

    def score(self, *texts: list[int], generate: int = 1) -> list[Scored]:
        """The log-probs of texts that go out in one request, and of `generate` tokens behind each."""
        reply = self._post(texts, generate, self.dialect.asks)
        return self._told(reply, texts, self.dialect.form)

    def generate(self, text: list[int], count: int) -> Scored:
        """The log-probs of `count` tokens behind a text, and none of the text, so that a cache may answer."""
        reply = self._post([text], count, {})
        return self._told(reply, [text], "generated")[0]

    def _post(self, texts: Sequence[list[int]], generate: int, asks: dict[str, Any]) -> Reply:
        body = {
            "model": self.model,
            "prompt": texts[0] if len(texts) == 1 else list(texts),
            "max_tokens": generate,
            "temperature": 0,
            "logprobs": 1,
            **asks,
            **self.dialect.extras,
        }
        length = sum(map(len, texts))
        self.requests += 1
        self.tokens += length
        return self.wire.post("/completions", body, BYTES_A_TOKEN * (length + generate * len(texts)))

    def _told(self, reply: Reply, texts: Sequence[list[int]], form: Form) -> list[Scored]:
        self._check(reply)
        try:
            return self._read(reply, texts, form)
        except Untold:
            raise self._untold() from None

    def _read(self, reply: Reply, texts: Sequence[list[int]], form: Form) -> list[Scored]:
        try:
            return read(reply.value or {}, texts, form)
        except ValueError as error:
            raise MaskcliError(
                f"{self.wire.url!r} answers with {error}; pass the address of a server with OpenAI's API"
            ) from None

    def _untold(self) -> MaskcliError:
        return MaskcliError(
            f"{self.wire.url!r} tells no log-probs of prompts, neither by echo with logprobs nor by "
            "prompt_logprobs; probe a server that does, such as vLLM's"
        )

    def _check(self, reply: Reply) -> None:
        """MaskcliError unless the answer is one of success, with a JSON object."""
        if reply.status != 200 or reply.value is None:
            raise MaskcliError(
                f"{self.wire.url!r} {_trouble(reply.status, self.model)} (status {reply.status})"
            )


def _trouble(status: int, model: str) -> str:
    """What an answer without completions means, and what to do."""
    key = "asks for an API key; pass one that it takes"
    told = {
        200: "answers with no JSON object; pass the address of OpenAI's API, such as http://localhost:8000/v1",
        401: key,
        403: key,
        404: f"has no model {quoted(model)}; pass the address up to /v1, and a name that it serves",
        429: "is asked too often; ask again later",
        503: "is too busy; ask again later",
    }
    if status in told:
        return told[status]
    if 300 <= status < 400:
        return "answers with a redirect, which is not followed; pass the address that it leads to"
    if 400 <= status < 500:
        return (
            "refuses the request; ids may be beyond its vocabulary, or texts too long: see --vocab, --length"
        )
    return "fails; see what the server's own log says"
