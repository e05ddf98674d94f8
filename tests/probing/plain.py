"""Small models as people write them by hand; what is sick in one is a single part of it."""

import torch
from torch import nn
from torch.nn import functional as F

VOCAB, WIDTH, HEADS, WINDOW, BLOCK, LONGEST = 61, 32, 4, 5, 4, 64


# Who sees whom: `real` [B, K] are the keys that are no padding, the last `queries` of them ask. [B or 1, 1, Q, K].
def band(real, queries, first, last):
    """Keys from `first` to `last` places after the query."""
    keys = real.shape[1]
    apart = (
        torch.arange(keys, device=real.device)
        - torch.arange(keys - queries, keys, device=real.device)[:, None]
    )
    return ((apart >= first) & (apart <= last))[None, None]


def padding(real, queries):
    return real[:, None, None, :]


def nothing_hidden(real, queries):
    return torch.ones_like(real)[:, None, None, :]


def causal(real, queries):
    return band(real, queries, -LONGEST, 0)


def causal_padding(real, queries):
    return causal(real, queries) & padding(real, queries)


def one_ahead(real, queries):
    return band(real, queries, -LONGEST, 1) & padding(real, queries)


def from_the_left(real, queries):
    return torch.ones_like(causal(real, queries)).tril() & padding(real, queries)


def sliding(real, queries):
    return band(real, queries, 1 - WINDOW, 0) & padding(real, queries)


def one_more(real, queries):
    return band(real, queries, -WINDOW, 0) & padding(real, queries)


def upside_down(real, queries):
    return ~padding(real, queries)


def of_another(real, queries):
    return padding(real.roll(1, 0), queries)


# Where the last `queries` of the keys stand. [B, Q].
def counted(real, queries):
    return (real.long().cumsum(1) - 1).clamp(min=0)[:, -queries:]


def with_padding(real, queries):
    """Counts the padding on the left as well."""
    keys = real.shape[1]
    return torch.arange(keys - queries, keys, device=real.device).expand(len(real), -1)


def restarted(real, queries):
    """Forgets what is cached."""
    return counted(real[:, -queries:], queries)


def from_one(real, queries):
    """Counts from 0 where nothing is padded, and else from 1."""
    return counted(real, queries) if real.all() else real.long().cumsum(1)[:, -queries:]


class Attention(nn.Module):
    """`mask` says who sees whom, `fill` is added to the scores of the others; None leaves that to torch."""

    def __init__(self, mask, fill=None, slopes=False, layer_idx=0):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mask, self.fill, self.slopes, self.layer_idx = mask, fill, slopes, layer_idx

    def forward(self, x, real, past=None):
        q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        if past is not None:
            k, v = past.update(k, v, self.layer_idx)
        allowed = self.mask(real, x.shape[1])
        seen = (
            F.scaled_dot_product_attention(q, k, v, allowed)
            if self.fill is None
            else self.by_hand(q, k, v, allowed)
        )
        return self.out(seen.transpose(1, 2).flatten(2))

    def by_hand(self, q, k, v, allowed):
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if self.slopes:
            away = torch.arange(k.shape[2], device=k.device) - (k.shape[2] - 1)
            scores = scores + 2.0 ** -torch.arange(1, HEADS + 1, device=k.device)[:, None, None] * away
        return (scores + torch.where(allowed, 0.0, self.fill)).softmax(-1) @ v


class Summaries(Attention):
    """Queries also see the means of blocks of keys: of whole blocks before theirs, or (sick) of their own too."""

    def __init__(self, own):
        super().__init__(causal_padding)
        self.own = own

    def forward(self, x, real, past=None):
        q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        length = x.shape[1]
        block = torch.arange(length, device=x.device) // BLOCK
        member = (block == torch.arange(block[-1] + 1, device=x.device)[:, None]) & real[:, None, :]
        mean = (member / member.sum(-1, keepdim=True).clamp(min=1)).to(x.dtype)[:, None]
        number = torch.arange(member.shape[1], device=x.device)
        blocks = (number <= block[:, None]) if self.own else (number < block[:, None])
        blocks = blocks & member.any(-1)[:, None, None, :]
        allowed = torch.cat([self.mask(real, length).expand(len(x), -1, -1, -1), blocks], -1)
        seen = F.scaled_dot_product_attention(
            q, torch.cat([k, mean @ k], 2), torch.cat([v, mean @ v], 2), allowed
        )
        return self.out(seen.transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """A convolution of three tokens: of the last ones, or (sick, in a decoder) of those on both sides."""

    def __init__(self, left):
        super().__init__()
        self.conv, self.left = nn.Conv1d(WIDTH, WIDTH, 3), left

    def forward(self, x, real, past=None):
        x = (x * real[..., None]).mT
        return F.silu(self.conv(F.pad(x, (self.left, 2 - self.left)))).mT


class Recurrence(nn.Module):
    """A selective state: h = a(x) h + b(x), which padding leaves alone."""

    def __init__(self):
        super().__init__()
        self.gate, self.value, self.out = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH),
        )

    def forward(self, x, real, past=None):
        keep = torch.where(real[..., None], torch.sigmoid(2 + self.gate(x)), 1.0)
        new = torch.where(real[..., None], self.value(x), 0.0)
        state, states = torch.zeros_like(x[:, 0]), []
        for place in range(x.shape[1]):
            state = keep[:, place] * state + new[:, place]
            states.append(state)
        return self.out(torch.stack(states, 1))


class BatchNorm(nn.Module):
    """A norm over the texts of the batch, whose statistics are never kept."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(WIDTH, track_running_stats=False)

    def forward(self, x):
        return self.bn(x.mT).mT


class SequenceNorm(nn.Module):
    """A norm over the tokens of a text, padding included."""

    def forward(self, x):
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


def mlp():
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class Experts(nn.Module):
    """Four experts: tokens choose one (of limited `capacity`, where sick), or (sick) experts choose their tokens."""

    def __init__(self, experts_choose=False, capacity=None):
        super().__init__()
        self.router, self.experts = nn.Linear(WIDTH, 4), nn.ModuleList(mlp() for _ in range(4))
        self.experts_choose, self.capacity = experts_choose, capacity

    def chosen(self, odds):
        """Which expert works on which token, bool [tokens, 4]."""
        if self.experts_choose:
            best = odds.topk(len(odds) // 4, 0).indices
            return torch.zeros_like(odds, dtype=torch.bool).scatter(0, best, True)
        mine = F.one_hot(odds.argmax(-1), 4)
        return (
            mine.bool()
            if self.capacity is None
            else mine.bool() & (mine.cumsum(0) <= self.capacity * len(odds) / 4)
        )

    def forward(self, x):
        tokens = x.flatten(0, 1)
        odds = self.router(tokens).softmax(-1)
        weights = odds * self.chosen(odds)
        return sum(
            w[:, None] * e(tokens) for w, e in zip(weights.unbind(-1), self.experts, strict=True)
        ).view_as(x)


class Layer(nn.Module):
    def __init__(self, mixer, norm, feed):
        super().__init__()
        self.n1, self.mixer, self.n2, self.mlp = nn.LayerNorm(WIDTH), mixer(), norm(), feed()

    def forward(self, x, real, past):
        x = x + self.mixer(self.n1(x), real, past)
        return x + self.mlp(self.n2(x))


class Model(nn.Module):
    """Embeddings, two layers, logits. `dropout` is forgotten in eval mode too, where it is not 0."""

    def __init__(self, mixer, positions=counted, norm=lambda: nn.LayerNorm(WIDTH), feed=mlp, dropout=0.0):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.blocks = nn.ModuleList(Layer(mixer, norm, feed) for _ in range(2))
        for number, block in enumerate(self.blocks):
            block.mixer.layer_idx = number
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB)
        self.positions, self.dropout = positions, dropout

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None
    ):
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        real = (
            input_ids.new_ones(len(input_ids), past + input_ids.shape[1])
            if attention_mask is None
            else attention_mask
        )
        real = real.bool()
        places = self.positions(real, input_ids.shape[1]) if position_ids is None else position_ids
        x = F.dropout(self.wte(input_ids) + self.wpe(places), self.dropout)
        for block in self.blocks:
            x = block(x, real, past_key_values)
        return self.head(self.norm(x))


class Alone(nn.Module):
    """A recurrence that takes no mask at all, of texts that are never padded."""

    def __init__(self):
        super().__init__()
        self.wte, self.rnn, self.head = (
            nn.Embedding(VOCAB, WIDTH),
            nn.GRU(WIDTH, WIDTH, batch_first=True),
            nn.Linear(WIDTH, VOCAB),
        )

    def forward(self, input_ids):
        return self.head(self.rnn(self.wte(input_ids))[0])


class TorchEncoder(nn.Module):
    """torch's own encoder; `hidden` makes of the attention_mask what it is handed."""

    def __init__(self, hidden):
        super().__init__()
        self.wte, self.wpe, self.hidden = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LONGEST, WIDTH), hidden
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, input_ids, attention_mask=None):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = None if attention_mask is None else self.hidden(attention_mask)
        return self.encoder(self.wte(input_ids) + self.wpe(places), src_key_padding_mask=hidden)


class TorchPair(nn.Module):
    """torch's nn.Transformer, and what is passed to it: the causal mask of the target, the padding of the memory."""

    def __init__(self, target=True, memory=True):
        super().__init__()
        self.wte, self.wpe, self.target, self.memory = (
            nn.Embedding(VOCAB, WIDTH),
            nn.Embedding(LONGEST, WIDTH),
            target,
            memory,
        )
        self.body = nn.Transformer(WIDTH, HEADS, 2, 2, 2 * WIDTH, batch_first=True)
        self.body.encoder.enable_nested_tensor = False

    def embedded(self, ids):
        return self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))

    def forward(self, input_ids, decoder_input_ids, attention_mask=None):
        hidden = None if attention_mask is None else attention_mask == 0
        return self.body(
            self.embedded(input_ids),
            self.embedded(decoder_input_ids),
            tgt_mask=torch.ones(
                decoder_input_ids.shape[1],
                decoder_input_ids.shape[1],
                dtype=torch.bool,
                device=input_ids.device,
            ).triu(1)
            if self.target
            else None,
            src_key_padding_mask=hidden,
            memory_key_padding_mask=hidden if self.memory else None,
        )
