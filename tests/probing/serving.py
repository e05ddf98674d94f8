"""A small server of a tiny model, with OpenAI's completions: batches padded on the left, caches, and bugs to choose from."""

import json
import math
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from torch import nn

VOCAB, PAD = 256, 0


class Layer(nn.Module):
    """Attention with rotary positions over a cache, and a feed-forward part."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x, places, mask, cache):
        """x [B, Q, D], places [B, Q], mask [B, Q, K]; the cache gains the keys and values of x."""
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        q, k = turned(q, places), turned(k, places)
        if cache:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        scores = (q @ k.mT / math.sqrt(self.size)).masked_fill(~mask[:, None], torch.finfo(x.dtype).min)
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(torch.relu(self.up(self.norms[1](x)))), (k, v)


def turned(x, places):
    """Rotary positions: x [B, H, S, D], places [B, S]."""
    half = x.shape[-1] // 2
    angles = places[:, None, :, None] * 100.0 ** (-torch.arange(half) / half)
    a, b = x.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Tiny(nn.Module):
    """Two layers, seeded; `window` is how many keys a query sees."""

    def __init__(self, dtype=torch.float32, window=None, bug=None, layers=2, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.window, self.bug = window, bug
        self.embed, self.layers = nn.Embedding(VOCAB, 32), nn.ModuleList(Layer() for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, VOCAB)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.25)
        self.to(dtype).eval()

    def seen(self, real, queries):
        """Whom the last queries of a batch see: [B, Q, K] from real [B, K]."""
        keys = real.shape[1]
        q, k = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)
        if self.bug == "top-left" and queries == 1:
            q = q * 0
        window = self.window and self.window + (self.bug == "window")
        mask = k <= q + (self.bug == "next")
        if window:
            mask &= k > q - window
        if self.bug == "full":
            mask |= True
        if self.bug == "other":
            real = real.roll(-1, 0)
        mask = mask[None] if self.bug == "padding" else mask[None] & real[:, None]
        # A query that is padding sees itself, so that nothing is NaN.
        return mask | (k == q)

    @torch.no_grad()
    def forward(self, ids, places, real, caches):
        x = self.embed(ids)
        mask = self.seen(real, ids.shape[1]).expand(len(ids), -1, -1)
        for at, layer in enumerate(self.layers):
            x, caches[at] = layer(x, places, mask, caches[at])
        if self.bug == "dropout":
            x = nn.functional.dropout(x, 0.2)
        return self.head(self.norm(x)).float().log_softmax(-1)

    def complete(self, texts, count):
        """For each text: log-probs of its places [n + count, V] (those of the first are made up), and the generated ids."""
        longest = max(map(len, texts))
        ids = torch.tensor([[PAD] * (longest - len(text)) + text for text in texts])
        real = torch.tensor([[False] * (longest - len(text)) + [True] * len(text) for text in texts])
        places = (real.cumsum(1) - 1).clamp(min=0)
        caches = [None] * len(self.layers)
        told = [self(ids, places, real, caches)]
        generated = []
        for step in range(count):
            following = told[-1][:, -1:].argmax(-1)
            generated.append(following)
            real = torch.cat([real, torch.ones_like(following, dtype=torch.bool)], 1)
            at = places[:, -1:] + 1 + step if self.bug != "positions" else torch.full_like(following, step)
            told.append(self(following, at, real, caches))
        rows = torch.cat(told, 1)[:, :-1]
        rows = torch.cat([rows[:, :1], rows], 1)
        new = torch.cat(generated, 1).tolist()
        return [(rows[at, longest - len(text) :], new[at]) for at, text in enumerate(texts)]


class Packing(Tiny):
    """A server that packs all texts of a request, and those that come at the same time, into one row without telling them apart."""

    def complete(self, texts, count):
        joined, found = [], []
        for text in texts:
            joined = joined + text
            rows, new = super().complete([joined], count)[0]
            found.append((rows[len(joined) - len(text) :], new))
        return found


class Caching(Tiny):
    """A prefix cache that is right (`bug` None), or whose texts stand five places too early when they come again (`shifted`)."""

    def complete(self, texts, count):
        kept = self.__dict__.setdefault("kept", set())
        found = []
        for text in texts:
            start = 8 if self.bug == "shifted" and tuple(text) in kept else 0
            kept.add(tuple(text))
            moved, caches = torch.arange(len(text)), [None] * len(self.layers)
            moved[start:] -= 5 * bool(start)
            rows = [
                self(torch.tensor([text]), moved[None], torch.ones(1, len(text), dtype=torch.bool), caches)[0]
            ]
            new = []
            for step in range(count):
                new.append(int(rows[-1][-1].argmax()))
                length = len(text) + step + 1
                at = torch.tensor([[length - 1 - 5 * bool(start)]])
                rows.append(
                    self(torch.tensor([new[-1:]]), at, torch.ones(1, length, dtype=torch.bool), caches)[0]
                )
            rows = torch.cat(rows)[:-1]
            found.append((torch.cat([rows[:1], rows]), new))
        return found


class Together:
    """Requests that come within a blink are one batch, as servers with continuous batching have it."""

    def __init__(self, model, blink):
        self.model, self.blink = model, blink
        self.lock, self.waiting = threading.Lock(), []

    def complete(self, texts, count):
        if not self.blink:
            with self.lock:
                return self.model.complete(texts, count)
        mine = (texts, [], threading.Event())
        with self.lock:
            self.waiting.append(mine)
            leads = len(self.waiting) == 1
        if leads:
            time.sleep(self.blink)
            with self.lock:
                batch, self.waiting = self.waiting, []
                answers = iter(self.model.complete([text for texts, _, _ in batch for text in texts], count))
            for texts, found, done in batch:
                found += [next(answers) for _ in texts]
                done.set()
        mine[2].wait()
        return mine[1]


def completion(body, model, dialect, served):
    """The answer to one request, or (status, reason)."""
    prompts = body["prompt"]
    texts = [prompts] if isinstance(prompts[0], int) else prompts
    if dialect == "strict" and set(body) - {
        "model",
        "prompt",
        "max_tokens",
        "temperature",
        "logprobs",
        "echo",
    }:
        return 400, {"error": "unknown option"}
    if body["model"] != served:
        return 404, {"error": "no such model"}
    if max(map(max, texts)) >= VOCAB:
        return 400, {"error": "an id is out of vocabulary"}
    ids = body.get("return_tokens_as_token_ids") and dialect != "words"

    def name(token):
        return f"token_id:{token}" if ids else f"w{token}"

    choices = []
    for at, (text, (rows, new)) in enumerate(
        zip(texts, model.complete(texts, body["max_tokens"]), strict=True)
    ):
        tokens = text + new
        places = (
            range(len(tokens)) if body.get("echo") and dialect != "prompt" else range(len(text), len(tokens))
        )
        own = [rows[place, tokens[place]].item() if place else None for place in places]
        best = [rows[place].argmax().item() if place else None for place in places]
        tops = [
            {name(b): rows[p, b].item(), name(tokens[p]): o} if p else None
            for p, b, o in zip(places, best, own, strict=True)
        ]
        told = {"tokens": [name(tokens[p]) for p in places], "token_logprobs": own, "top_logprobs": tops}
        choice = {
            "index": at,
            "text": "so far",
            "logprobs": told if body.get("logprobs") else None,
            "finish_reason": "length",
        }
        if body.get("prompt_logprobs") and dialect == "prompt":
            ranked = ({rows[p].argmax().item(), text[p]} if p else None for p in range(len(text)))
            choice["prompt_logprobs"] = [
                each and {str(t): {"logprob": rows[p, t].item(), "rank": 1} for t in each}
                for p, each in enumerate(ranked)
            ]
        choices.append(choice)
    return 200, {"object": "text_completion", "choices": choices[::-1]}


@contextmanager
def serving(model, dialect="echo", blink=0, served="tiny", listed=("tiny",), refuse=None):
    """(address, requests) of a running server; `refuse(count)` may give the status of the request of that number."""
    asked, together = [], Together(model, blink)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, value):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            asked.append((self.path, dict(self.headers), None))
            self.answer(200, {"data": [{"id": each, "max_model_len": 512} for each in listed]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, dict(self.headers), body))
            status = refuse and refuse(len(asked))
            self.answer(
                *((status, {"error": "later"}) if status else completion(body, together, dialect, served))
            )

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
