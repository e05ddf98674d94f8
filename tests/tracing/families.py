"""Small programs after public ones, as people write them, each with bugs that people make; `bug` None is the healthy program.

A program trains or generates with tiny random weights. `FAMILIES` says of each which bugs it has, and by which rules they are to be
found without any option.
"""

import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

PAD, BOS, EOS, WORDS = 0, 1, 2, 40


def texts(lengths, side="right", length=None, pad=PAD, seed=0):
    """Ids [B, L] of random words that end in EOS, padded on one side."""
    torch.manual_seed(seed)
    ids = torch.full((len(lengths), length or max(lengths)), pad)
    for row, count in zip(ids, lengths, strict=True):
        words = torch.cat([torch.tensor([BOS]), torch.randint(3, WORDS, (count - 2,)), torch.tensor([EOS])])
        row[slice(0, count) if side == "right" else slice(len(row) - count, None)] = words
    return ids


def sharpened(model):
    """Random weights of three times the usual size: attention that is far from even, as after training."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    return model


def stepped(model, loss):
    """Twice: the loss, its gradients, a step of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


# nanoGPT: fused attention, targets moved by the data, the loss in the model.


class NanoBlock(nn.Module):
    def __init__(self, width, heads, bug):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads, self.bug = heads, bug

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).chunk(3, -1)
        )
        mask = None
        length = x.shape[1]
        if self.bug in ("one too many", "strict"):
            mask = torch.ones(length, length, dtype=torch.bool).tril(1 if self.bug == "one too many" else -1)
            if self.bug == "strict":
                mask = torch.zeros(length, length).masked_fill(~mask, -1e9)
        y = F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None and self.bug != "mask forgotten"
        )
        x = x + self.c_proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    def __init__(self, bug):
        super().__init__()
        torch.manual_seed(0)
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(WORDS, 32), "wpe": nn.Embedding(64, 32), "h": nn.ModuleList([NanoBlock(32, 4, bug) for _ in range(2)]),
        })  # fmt: skip
        self.lm_head = nn.Linear(32, WORDS, bias=False)

    def forward(self, idx, targets=None):
        x = self.transformer.wte(idx) + self.transformer.wpe(torch.arange(idx.shape[1]))
        for block in self.transformer.h:
            x = block(x)
        logits = self.lm_head(x)
        loss = (
            None
            if targets is None
            else F.cross_entropy(logits.view(-1, WORDS), targets.view(-1), ignore_index=-1)
        )
        return logits, loss


def nano_gpt(bug):
    model = sharpened(NanoGPT(bug))
    torch.manual_seed(3)
    data = torch.randint(3, WORDS, (200,))
    at = torch.tensor([0, 40, 80, 120])
    moved = {"targets not moved": 0, "targets moved twice": 2}.get(bug, 1)
    x, y = (torch.stack([data[i + start : i + start + 16] for i in at]) for start in (0, moved))
    stepped(model, lambda: model(x, y)[1])


# minGPT: attention by hand, a buffer of ones below the diagonal.


class MinAttention(nn.Module):
    def __init__(self, width, heads, bug):
        super().__init__()
        self.key, self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.register_buffer(
            "mask", torch.tril(torch.ones(64, 64), {"one too many": 1, "strict": -1}.get(bug, 0))[None, None]
        )
        self.heads, self.bug = heads, bug

    def forward(self, x):
        B, T, C = x.shape
        k, q, v = (
            f(x).view(B, T, self.heads, C // self.heads).transpose(1, 2)
            for f in (self.key, self.query, self.value)
        )
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        fill = torch.finfo(att.dtype).min if self.bug == "strict" else float("-inf")
        if self.bug == "inverted":
            att = att.masked_fill(self.mask[:, :, :T, :T] == 1, -1e9)
        elif self.bug != "mask forgotten":
            att = att.masked_fill(self.mask[:, :, :T, :T] == 0, fill)
        att = F.softmax(att, dim=-1)
        if self.bug == "double softmax":
            att = F.softmax(att, dim=-1)
        return self.proj((att @ v).transpose(1, 2).contiguous().view(B, T, C))


class MinGPT(nn.Module):
    def __init__(self, bug):
        super().__init__()
        torch.manual_seed(0)
        self.tok_emb, self.pos_emb = nn.Embedding(WORDS, 32), nn.Parameter(torch.randn(1, 64, 32) * 0.1)
        self.blocks = nn.Sequential(*[MinAttention(32, 4, bug) for _ in range(2)])
        self.head = nn.Linear(32, WORDS)

    def forward(self, idx):
        return self.head(self.blocks(self.tok_emb(idx) + self.pos_emb[:, : idx.shape[1]]))


def min_gpt(bug):
    model = sharpened(MinGPT(bug))
    ids = texts([20, 20, 20], seed=4)
    x, y = ids[:, :-1], ids[:, 1:]
    if bug == "targets not moved":
        y = x
    stepped(model, lambda: F.cross_entropy(model(x).reshape(-1, WORDS), y.reshape(-1)))


# The annotated transformer: masks of 1 = keep, filled with -1e9; a loss of smoothed labels.


def attention(query, key, value, mask, bug):
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
    if mask is not None:
        fill = -2.0 if bug == "weak fill" else -1e9
        scores = scores.masked_fill(mask != 0 if bug == "inverted" else mask == 0, fill)
    weights = scores.softmax(dim=-2 if bug == "softmax over queries" else -1)
    return torch.matmul(weights, value)


class MultiHeadedAttention(nn.Module):
    def __init__(self, bug):
        super().__init__()
        self.linears, self.bug = nn.ModuleList([nn.Linear(32, 32) for _ in range(4)]), bug

    def forward(self, query, key, value, mask=None):
        mask = None if mask is None else mask.unsqueeze(1)
        query, key, value = (
            lin(x).view(len(x), -1, 4, 8).transpose(1, 2)
            for lin, x in zip(self.linears, (query, key, value), strict=False)
        )
        x = attention(query, key, value, mask, self.bug)
        return self.linears[-1](x.transpose(1, 2).contiguous().view(len(x), -1, 32))


class EncoderLayer(nn.Module):
    def __init__(self, bug):
        super().__init__()
        self.self_attn, self.feed_forward = MultiHeadedAttention(bug), nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)

    def forward(self, x, mask):
        x = self.norm(x)
        x = x + self.self_attn(x, x, x, mask)
        return x + self.feed_forward(x)


class DecoderLayer(nn.Module):
    def __init__(self, bug):
        super().__init__()
        self.self_attn, self.src_attn, self.feed_forward = (
            MultiHeadedAttention(None),
            MultiHeadedAttention(bug),
            nn.Linear(32, 32),
        )
        self.norms = nn.ModuleList([nn.LayerNorm(32) for _ in range(3)])

    def forward(self, x, memory, src_mask, tgt_mask):
        x, memory = self.norms[0](x), self.norms[1](memory)
        x = x + self.self_attn(x, x, x, tgt_mask)
        x = x + self.src_attn(self.norms[2](x), memory, memory, src_mask)
        return x + self.feed_forward(x)


class EncoderDecoder(nn.Module):
    def __init__(self, bug):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.ModuleList([EncoderLayer(bug) for _ in range(2)])
        self.decoder = nn.ModuleList([DecoderLayer(bug) for _ in range(2)])
        self.src_embed, self.tgt_embed = nn.Embedding(WORDS, 32), nn.Embedding(WORDS, 32)
        self.generator, self.bug = nn.Linear(32, WORDS), bug

    def forward(self, src, tgt, src_mask, tgt_mask):
        memory = self.encode(src, src_mask)
        if self.bug == "cross-attention with the target's padding":
            src_mask = (tgt != PAD)[:, None, :]
        if self.bug == "cross mask forgotten":
            src_mask = None
        x = self.tgt_embed(tgt)
        for layer in self.decoder:
            x = layer(x, memory, src_mask, tgt_mask)
        return x

    def encode(self, src, src_mask):
        x = self.src_embed(src)
        for layer in self.encoder:
            x = layer(x, src_mask)
        return x


def annotated(bug, of_parts=False):
    """`of_parts` calls `forward`, which nobody but the parts of the model is told of."""
    model = sharpened(EncoderDecoder(bug))
    called = model.forward if of_parts else model
    src, tgt_all = texts([9, 5, 7], seed=1), texts([6, 10, 8], seed=2)
    tgt, tgt_y = tgt_all[:, :-1], tgt_all[:, 1:]
    src_mask = (src != PAD).unsqueeze(-2)
    ahead = torch.triu(torch.ones(1, tgt.shape[-1], tgt.shape[-1]), diagonal=1) == 0
    tgt_mask = (tgt != PAD).unsqueeze(-2) & ahead
    if bug == "tgt_mask forgotten":
        tgt_mask = (tgt != PAD).unsqueeze(-2)
    if bug == "padding or causal":
        tgt_mask = (tgt != PAD).unsqueeze(-2) | ahead
    if bug == "padding on the query axis":
        src_mask = (src != PAD).unsqueeze(-1).expand(-1, -1, src.shape[1])

    def loss():
        x = F.log_softmax(model.generator(called(src, tgt, src_mask, tgt_mask)), dim=-1).flatten(0, 1)
        target = tgt_y.flatten()
        true_dist = torch.full_like(x, 0.1 / (WORDS - 2)).detach()
        true_dist.scatter_(1, target.unsqueeze(1), 0.9)
        true_dist[:, PAD] = 0
        true_dist[target == PAD] = 0.0
        return F.kl_div(x, true_dist, reduction="sum") / 20

    stepped(model, loss)


# nn.Transformer as the translation tutorial has it: [L, B] ids, True = ignore.


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.transformer = nn.Transformer(32, 4, 2, 2, 64, dropout=0.0)
        self.src_tok_emb, self.tgt_tok_emb, self.generator = (
            nn.Embedding(WORDS, 32),
            nn.Embedding(WORDS, 32),
            nn.Linear(32, WORDS),
        )

    def forward(self, src, trg, src_mask, tgt_mask, src_pads, tgt_pads, memory_pads):
        out = self.transformer(
            self.src_tok_emb(src),
            self.tgt_tok_emb(trg),
            src_mask,
            tgt_mask,
            None,
            src_pads,
            tgt_pads,
            memory_pads,
        )
        return self.generator(out)


class Translator(Seq2Seq):
    """With other names for its masks, and with both sides to call."""

    def forward(self, src, trg, src_mask, tgt_mask, src_padding_mask, tgt_padding_mask, memory_padding_mask):
        masks = src_mask, tgt_mask, src_padding_mask, tgt_padding_mask, memory_padding_mask
        return super().forward(src, trg, *masks)

    def encode(self, src):
        return self.transformer.encoder(self.src_tok_emb(src))

    def decode(self, tgt, memory, tgt_mask):
        return self.transformer.decoder(self.tgt_tok_emb(tgt), memory, tgt_mask)


def translator(bug):
    model = translation(bug, Translator).eval()
    src, tgt = texts([9], seed=1).T, torch.full((1, 1), BOS)
    with torch.no_grad():
        memory = model.encode(src)
        for count in range(1, 5):
            out = model.decode(tgt, memory, torch.triu(torch.ones(count, count), 1).bool())
            tgt = torch.cat([tgt, model.generator(out[-1:]).argmax(-1)])


def translation(bug, kind=Seq2Seq):
    model = sharpened(kind())
    src, tgt = texts([9, 5, 7], seed=1).T, texts([6, 10, 8], seed=2).T
    tgt_in, tgt_out = tgt[:-1], tgt[1:]
    count = len(tgt_in)
    tgt_mask = torch.triu(torch.ones(count, count), 1).bool()
    src_pads, tgt_pads = (src == PAD).T, (tgt_in == PAD).T
    memory_pads = src_pads
    if bug == "tgt_mask forgotten":
        tgt_mask = torch.zeros(count, count).bool()
    if bug == "inverted":
        src_pads = memory_pads = (src != PAD).T
    if bug == "padding forgotten":
        src_pads = None
    if bug == "cross-attention with the target's padding":
        memory_pads = tgt_pads
    if bug == "one too many":
        tgt_mask = torch.triu(torch.ones(count, count), 2).bool()
    src_mask = torch.zeros(len(src), len(src)).bool()

    def loss():
        logits = model(src, tgt_in, src_mask, tgt_mask, src_pads, tgt_pads, memory_pads)
        return nn.CrossEntropyLoss(ignore_index=PAD)(logits.reshape(-1, WORDS), tgt_out.reshape(-1))

    stepped(model, loss)
    return model


# nn.TransformerEncoder as a language model.


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0)
        self.embedding, self.linear = nn.Embedding(WORDS, 32), nn.Linear(32, WORDS)
        self.transformer_encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, src, src_mask=None):
        return self.linear(self.transformer_encoder(self.embedding(src) * math.sqrt(32), src_mask))


def language_model(bug):
    model = sharpened(LanguageModel())
    torch.manual_seed(5)
    rows = torch.randint(3, WORDS, (100,)).view(4, 25).T
    data, targets = rows[:20], rows[1:21].reshape(-1)
    mask = nn.Transformer.generate_square_subsequent_mask(20)
    if bug == "mask forgotten":
        mask = None
    if bug == "inverted":
        mask = torch.tril(torch.ones(20, 20)) == 1
    if bug == "one too many":
        mask = torch.triu(torch.full((20, 20), -math.inf), 2)
    stepped(model, lambda: F.cross_entropy(model(data, mask).view(-1, WORDS), targets))


# An encoder of torch's layers with a classifier.


class Classifier(nn.Module):
    def __init__(self, padding_idx):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(WORDS, 32, padding_idx=padding_idx)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder, self.head = (
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(32, 2),
        )

    def forward(self, ids, pads):
        return self.head(self.encoder(self.embed(ids), src_key_padding_mask=pads)[:, 0])


def classifier(bug):
    model = sharpened(Classifier(PAD))
    ids = texts([9, 5, 7], seed=1)
    pads = {"inverted": ids != PAD, "padding forgotten": None}.get(bug, ids == PAD)
    stepped(model, lambda: F.cross_entropy(model(ids, pads), torch.tensor([0, 1, 0])))


# x-transformers, installed.


def x_decoder(bug):
    from x_transformers import AutoregressiveWrapper, Decoder, Encoder, TransformerWrapper

    torch.manual_seed(0)
    layers = (Encoder if bug == "mask forgotten" else Decoder)(dim=32, depth=2, heads=4, attn_dim_head=8)
    model = AutoregressiveWrapper(
        sharpened(TransformerWrapper(num_tokens=WORDS, max_seq_len=64, attn_layers=layers)), pad_value=PAD
    )
    ids = texts([20, 20, 20], seed=4)
    stepped(model, lambda: model(ids))


def x_encoder(bug):
    from x_transformers import Encoder, TransformerWrapper

    torch.manual_seed(0)
    layers = Encoder(dim=32, depth=2, heads=4, attn_dim_head=8, attn_flash=True)
    model = sharpened(TransformerWrapper(num_tokens=WORDS, max_seq_len=64, attn_layers=layers))
    ids = texts([9, 5, 7], seed=1)
    mask = {"inverted": ids == PAD, "padding forgotten": None}.get(bug, ids != PAD)
    stepped(model, lambda: F.cross_entropy(model(ids, mask=mask)[:, 0], torch.tensor([3, 4, 5])))


# Hugging Face's models.

SMALL = {
    "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
}  # fmt: skip


def hugging(name, how, **more):
    import transformers as hf

    torch.manual_seed(0)
    if name == "gpt2":
        made = {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "vocab_size": WORDS,
            "pad_token_id": PAD,
        }
        config = hf.GPT2Config(
            **made, bos_token_id=BOS, eos_token_id=EOS, resid_pdrop=0, attn_pdrop=0, embd_pdrop=0, **more
        )
    elif name == "bert":
        config = hf.BertConfig(**SMALL, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **more)
    elif name == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": WORDS}
        config = hf.T5Config(
            **sizes, decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=EOS, dropout_rate=0, **more
        )
    elif name == "bart":
        sizes = {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
        }
        config = hf.BartConfig(
            **sizes, encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=WORDS, max_position_embeddings=64, dropout=0,
            pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=EOS, forced_eos_token_id=None,
        )  # fmt: skip
    else:
        kind = {"llama": hf.LlamaConfig, "mistral": hf.MistralConfig, "gemma": hf.GemmaConfig}[name]
        config = kind(**SMALL, num_key_value_heads=2, **({"head_dim": 8} if name == "gemma" else {}), **more)
    auto = {"bert": hf.AutoModelForMaskedLM, "t5": hf.AutoModelForSeq2SeqLM, "bart": hf.AutoModelForSeq2SeqLM}
    return sharpened(auto.get(name, hf.AutoModelForCausalLM).from_config(config, attn_implementation=how))


def causal_trainer(name, how):
    def program(bug):
        window = {"sliding_window": 4} if name == "mistral" else {}
        model = hugging(name, how, **window)
        side = "left" if bug in ("attention_mask forgotten", "positions as arange") else "right"
        ids = texts([14, 9, 11], side=side, seed=2)
        mask = (ids != PAD).long()
        batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(ids == PAD, -100)}
        if bug == "attention_mask forgotten":
            del batch["attention_mask"]
        if bug == "inverted":
            batch["attention_mask"] = 1 - mask
        if bug == "positions as arange":
            batch["position_ids"] = torch.arange(ids.shape[1]).expand_as(ids)
        if bug == "pad == eos in the labels":
            ids = ids.masked_fill(ids == PAD, EOS)
            model.config.pad_token_id = EOS
            batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(ids == EOS, -100)}
        if bug == "labels moved by the data as well":
            batch["labels"] = torch.cat([batch["labels"][:, 1:], torch.full((len(ids), 1), -100)], 1)
        if bug == "window dropped":
            length = ids.shape[1]
            ahead = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
            hidden = torch.zeros(len(ids), 1, length, length).masked_fill(
                (mask == 0)[:, None, None], torch.finfo(torch.float32).min
            )
            batch["attention_mask"] = torch.minimum(ahead, hidden)
        stepped(model, lambda: model(**batch).loss)

    return program


def generation(name, how):
    def program(bug):
        model = hugging(name, how).eval()
        side = "right" if bug == "right padding" else "left"
        ids = texts([9, 5, 7], side=side, seed=1)
        mask = (ids != PAD).long()
        if bug == "attention_mask forgotten":
            mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False)

    return program


def decoding(bug):
    """A loop of one's own over a cache, texts padded on the left."""
    model = hugging("gpt2", "sdpa").eval()
    ids = texts([9, 5, 7], side="left", seed=1)
    mask, cache = (ids != PAD).long(), None
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        for step in range(4):
            forgotten = bug == "attention_mask forgotten" or (bug == "mask forgotten when decoding" and step)
            out = model(
                ids,
                attention_mask=None if forgotten else mask,
                position_ids=None if bug == "positions forgotten" else positions,
                past_key_values=cache,
                use_cache=True,
            )
            ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            mask, positions = F.pad(mask, (0, 1), value=1), positions[:, -1:] + 1


def packed(bug):
    model = hugging("llama", "sdpa", use_cache=False)
    ids = texts([18, 18], seed=6)
    positions = torch.cat([torch.arange(7), torch.arange(11)]).expand(2, -1)
    mask = torch.ones_like(ids) if bug == "packed without a document mask" else None
    # No document is asked for the first token of the next.
    labels = ids.masked_fill(positions == 0, -100)
    stepped(
        model, lambda: model(input_ids=ids, attention_mask=mask, position_ids=positions, labels=labels).loss
    )


def bert(how):
    def program(bug):
        model = hugging("bert", how)
        ids = texts([14, 9, 11], seed=2)
        mask = (ids != PAD).long()
        torch.manual_seed(9)
        chosen = (torch.rand(ids.shape) < 0.3) & (ids > EOS)
        labels = ids.masked_fill(~chosen, -100)
        batch = {"input_ids": ids.masked_fill(chosen, 3), "attention_mask": mask, "labels": labels}
        if bug == "attention_mask forgotten":
            del batch["attention_mask"]
        if bug == "inverted":
            batch["attention_mask"] = 1 - mask
        if bug == "token types as the mask":
            batch["attention_mask"] = (torch.arange(ids.shape[1]) >= 5).long() * mask
        stepped(model, lambda: model(**batch).loss)

    return program


def seq2seq(name, how):
    def program(bug):
        model = hugging(name, how)
        src, tgt = texts([9, 5, 7], seed=1), texts([6, 10, 8], seed=2)
        mask = (src != PAD).long()
        labels = tgt.masked_fill(tgt == PAD, -100)
        if bug == "attention_mask forgotten":
            mask = None
        if bug == "inverted":
            mask = 1 - mask
        if bug == "cross mask forgotten":

            def loss():
                encoded = model.get_encoder()(input_ids=src, attention_mask=mask)
                return model(encoder_outputs=encoded, labels=labels).loss

            return stepped(model, loss)
        return stepped(model, lambda: model(input_ids=src, attention_mask=mask, labels=labels).loss)

    return program


# A decoder with a static cache that is filled in chunks, after gpt-fast.


class Cached(nn.Module):
    def __init__(self, bug):
        super().__init__()
        torch.manual_seed(0)
        self.tok_embeddings, self.output = nn.Embedding(WORDS, 32), nn.Linear(32, WORDS, bias=False)
        self.wqkv, self.wo, self.bug = nn.Linear(32, 96), nn.Linear(32, 32), bug
        self.register_buffer("k_cache", torch.zeros(2, 4, 24, 8), persistent=False)
        self.register_buffer("v_cache", torch.zeros(2, 4, 24, 8), persistent=False)
        self.register_buffer(
            "causal_mask", torch.tril(torch.ones(24, 24, dtype=torch.bool)), persistent=False
        )

    def forward(self, idx, input_pos):
        x = self.tok_embeddings(idx)
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.wqkv(x).chunk(3, -1))
        self.k_cache[:, :, input_pos], self.v_cache[:, :, input_pos] = k, v
        mask = self.causal_mask[None, None, input_pos]
        if self.bug == "top-left causal":
            mask = torch.ones(len(input_pos), 24, dtype=torch.bool).tril()
        if self.bug == "mask forgotten when decoding" and len(input_pos) == 1:
            mask = None
        if self.bug == "one too many":
            mask = self.causal_mask[None, None, (input_pos + 1).clamp(max=23)]
        y = F.scaled_dot_product_attention(q, self.k_cache, self.v_cache, mask)
        return self.output(x + self.wo(y.transpose(1, 2).flatten(2)))


def static_cache(bug):
    model = sharpened(Cached(bug)).eval()
    torch.manual_seed(7)
    prompt = torch.randint(3, WORDS, (2, 12))
    with torch.no_grad():
        for start in (0, 6):
            logits = model(prompt[:, start : start + 6], torch.arange(start, start + 6))
        for position in range(12, 16):
            logits = model(logits[:, -1:].argmax(-1), torch.tensor([position]))


class Growing(nn.Module):
    """Keys and values that grow by cat; chunks of a prompt on a warm cache, then token by token."""

    def __init__(self, bug):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(WORDS, 32), nn.Linear(32, WORDS)
        self.q_proj, self.k_proj, self.v_proj, self.bug = (
            nn.Linear(32, 32),
            nn.Linear(32, 32),
            nn.Linear(32, 32),
            bug,
        )
        self.cache = None

    def forward(self, ids):
        x = self.embed(ids)
        q, k, v = (
            f(x).unflatten(-1, (4, 8)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.cache is not None:
            k, v = torch.cat([self.cache[0], k], 2), torch.cat([self.cache[1], v], 2)
        self.cache = k, v
        scores = q @ k.transpose(-1, -2) / math.sqrt(8)
        past = k.shape[2] - q.shape[2]
        keep = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(
            0 if self.bug == "top-left causal" else past
        )
        if self.bug != "mask forgotten":
            scores = scores.masked_fill(~keep, -math.inf)
        return self.head(x + (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def growing_cache(bug):
    model = sharpened(Growing(bug)).eval()
    torch.manual_seed(8)
    prompt = torch.randint(3, WORDS, (2, 12))
    with torch.no_grad():
        for start in (0, 6):
            logits = model(prompt[:, start : start + 6])
        for _ in range(3):
            logits = model(logits[:, -1:].argmax(-1))


# A diffusion transformer with a text that it looks at.


class DiTBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attn, self.cross = (
            nn.LayerNorm(32),
            nn.Linear(32, 96),
            nn.MultiheadAttention(32, 4, batch_first=True),
        )
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x, text, ignored):
        q, k, v = (
            part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.attn(self.norm(x)).chunk(3, -1)
        )
        x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.cross(x, text, text, key_padding_mask=ignored, need_weights=False)[0]
        return x + self.mlp(x)


class DiT(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.x_embedder, self.final = nn.Linear(16, 32), nn.Linear(32, 16)
        self.text_embedder, self.text_pos = (
            nn.Embedding(WORDS, 32, padding_idx=PAD),
            nn.Parameter(torch.randn(9, 32)),
        )
        self.blocks = nn.ModuleList([DiTBlock() for _ in range(2)])

    def forward(self, patches, ids, ignored):
        x, text = self.x_embedder(patches), self.text_embedder(ids) + self.text_pos
        for block in self.blocks:
            x = block(x, text, ignored)
        return self.final(x)


def diffusion(bug):
    model = sharpened(DiT())
    ids = texts([9, 5, 7], seed=1)
    ignored = {"inverted": ids != PAD, "padding forgotten": None}.get(bug, ids == PAD)
    patches, noise = torch.randn(3, 16, 16), torch.randn(3, 16, 16)
    stepped(model, lambda: F.mse_loss(model(patches, ids, ignored), noise))


# A vision transformer, after timm's.


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch_embed, self.cls_token = nn.Conv2d(3, 32, 4, 4), nn.Parameter(torch.randn(1, 1, 32))
        self.blocks = nn.ModuleList([NanoBlock(32, 4, "mask forgotten") for _ in range(2)])
        self.head = nn.Linear(32, 5)

    def forward(self, images):
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


def vision(bug):
    model = sharpened(Vision())
    images = torch.randn(3, 3, 16, 16)
    stepped(model, lambda: F.cross_entropy(model(images), torch.tensor([0, 1, 2])))


# A model of functions alone, over modules that belong to no other; its loss picks what it asks for.


def functions(bug):
    torch.manual_seed(0)
    words, places, head = nn.Embedding(WORDS, 32), nn.Embedding(64, 32), nn.Linear(32, WORDS)
    projections = [(nn.Linear(32, 96), nn.Linear(32, 32)) for _ in range(2)]
    modules = nn.ModuleList([words, places, head, *(part for pair in projections for part in pair)])

    def logits_of(ids):
        length = ids.shape[1]
        keep = torch.ones(length, length).tril(1 if bug == "one too many" else 0).bool()
        keep = {"mask forgotten": torch.ones_like(keep), "inverted": ~keep}.get(bug, keep)
        x = words(ids) + places(torch.arange(length))
        for qkv, out in projections:
            q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in qkv(x).chunk(3, -1))
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(8)
            weights = torch.where(keep, scores, torch.tensor(-1e9)).softmax(-1)
            x = x + out(torch.einsum("bhqk,bhkd->bhqd", weights, v).transpose(1, 2).flatten(2))
        return head(x)

    ids = texts([20, 20, 20], seed=4)
    moved = {"targets not moved": 0, "targets moved twice": 2}.get(bug, 1)
    asked = ids.roll(-moved, 1)[:, :-1, None]
    stepped(modules, lambda: -logits_of(ids[:, :-1]).log_softmax(-1).gather(-1, asked).mean())


# nn.MultiheadAttention with a learned key and a key of zeros behind those of the tokens.


class WithKeys(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(WORDS, 32), nn.Linear(32, WORDS)
        self.attn = nn.ModuleList([
            nn.MultiheadAttention(32, 4, batch_first=True, add_zero_attn=True),
            nn.MultiheadAttention(32, 4, batch_first=True, add_bias_kv=True),
        ])  # fmt: skip

    def forward(self, ids, mask):
        x = self.embed(ids)
        for attn, asked in zip(self.attn, (True, False), strict=True):
            x = x + attn(x, x, x, attn_mask=mask, need_weights=asked)[0]
        return self.head(x)


def with_keys(bug):
    model, ids = sharpened(WithKeys()), texts([20, 20, 20], seed=4)
    mask = None if bug == "mask forgotten" else torch.ones(19, 19).triu(1).bool()
    stepped(model, lambda: F.cross_entropy(model(ids[:, :-1], mask).flatten(0, 1), ids[:, 1:].flatten()))


PADDED = {"MSK202", "MSK220"}
FUTURE = {"MSK203"}
SHIFTED = {"MSK214"}
INVERTED = {"MSK201", "MSK102"}
FORGOTTEN = {"MSK202", "MSK220", "MSK401"}
MISPLACED = FORGOTTEN | {"MSK404"}
TRAINER = {"attention_mask forgotten": FORGOTTEN, "inverted": INVERTED, "pad == eos in the labels": {"MSK501"},
           "labels moved by the data as well": {"MSK505"}}  # fmt: skip
# Of each family: its program, and its bugs with the rules that may name them.
FAMILIES = {
    "nanoGPT": (nano_gpt, {"mask forgotten": FUTURE, "one too many": SHIFTED | {"MSK109"}, "strict": SHIFTED | {"MSK109"},
                           "targets not moved": {"MSK505"}, "targets moved twice": {"MSK505"}}),
    "minGPT": (min_gpt, {"mask forgotten": FUTURE, "inverted": {"MSK203", "MSK201", "MSK102"}, "one too many": SHIFTED | {"MSK109"},
                         "strict": SHIFTED | {"MSK109"}, "double softmax": {"MSK212"}, "targets not moved": {"MSK505"}}),
    "annotated": (annotated, {"tgt_mask forgotten": FUTURE, "padding or causal": {"MSK203", "MSK202"},
                              "padding on the query axis": {"MSK108"}, "inverted": INVERTED, "cross mask forgotten": PADDED,
                              "weak fill": {"MSK104"}, "softmax over queries": {"MSK208"},
                              "cross-attention with the target's padding": {"MSK220"}}),
    "annotated, by its parts": (partial(annotated, of_parts=True), {
        "tgt_mask forgotten": FUTURE, "padding or causal": {"MSK203", "MSK202"}, "inverted": INVERTED, "cross mask forgotten": PADDED}),
    "Translator": (translator, {"tgt_mask forgotten": FUTURE, "inverted": INVERTED, "padding forgotten": PADDED,
                                "cross-attention with the target's padding": {"MSK220"}}),
    "GPT-2 by hand": (decoding, {"mask forgotten when decoding": FORGOTTEN, "positions forgotten": {"MSK404"}, "attention_mask forgotten": MISPLACED}),
    "nn.Transformer": (translation, {"tgt_mask forgotten": FUTURE, "inverted": INVERTED, "padding forgotten": PADDED,
                                     "cross-attention with the target's padding": {"MSK220"}, "one too many": SHIFTED | {"MSK109"}}),
    "language model": (language_model, {"mask forgotten": FUTURE, "inverted": {"MSK203", "MSK201", "MSK102"},
                                        "one too many": SHIFTED | {"MSK109"}}),
    "classifier": (classifier, {"inverted": INVERTED, "padding forgotten": PADDED}),
    "x-transformers decoder": (x_decoder, {"mask forgotten": FUTURE}),
    "x-transformers encoder": (x_encoder, {"inverted": INVERTED, "padding forgotten": PADDED}),
    "BERT sdpa": (bert("sdpa"), {"attention_mask forgotten": FORGOTTEN, "inverted": INVERTED, "token types as the mask": {"MSK407", "MSK402"}}),
    "BERT eager": (bert("eager"), {"attention_mask forgotten": FORGOTTEN, "inverted": INVERTED}),
    "Llama sdpa": (causal_trainer("llama", "sdpa"), TRAINER),
    "Llama eager": (causal_trainer("llama", "eager"), TRAINER),
    "GPT-2 sdpa": (causal_trainer("gpt2", "sdpa"), {**TRAINER, "attention_mask forgotten": MISPLACED, "positions as arange": {"MSK404"}}),
    "Mistral eager": (causal_trainer("mistral", "eager"), {**TRAINER, "window dropped": {"MSK111", "MSK213"}}),
    "Mistral sdpa": (causal_trainer("mistral", "sdpa"), {"window dropped": {"MSK111", "MSK213"}}),
    "Gemma eager": (causal_trainer("gemma", "eager"), TRAINER),
    "Llama generates": (generation("llama", "sdpa"), {"right padding": {"MSK403"}, "attention_mask forgotten": FORGOTTEN}),
    "GPT-2 generates": (generation("gpt2", "eager"), {"right padding": {"MSK403"}, "attention_mask forgotten": MISPLACED}),
    "packed": (packed, {"packed without a document mask": {"MSK405", "MSK217"}}),
    "T5": (seq2seq("t5", "eager"), {"attention_mask forgotten": FORGOTTEN, "inverted": INVERTED, "cross mask forgotten": PADDED}),
    "BART": (seq2seq("bart", "sdpa"), {"attention_mask forgotten": FORGOTTEN, "inverted": INVERTED, "cross mask forgotten": PADDED}),
    "static cache": (static_cache, {"top-left causal": {"MSK110", "MSK215"}, "mask forgotten when decoding": {"MSK219", "MSK203"},
                                    "one too many": SHIFTED | {"MSK109"}}),
    "growing cache": (growing_cache, {"top-left causal": {"MSK110", "MSK215"}}),
    "diffusion": (diffusion, {"inverted": INVERTED, "padding forgotten": PADDED}),
    "vision": (vision, {}),
    "keys of its own": (with_keys, {"mask forgotten": FUTURE}),
    "functions": (functions, {"mask forgotten": FUTURE, "one too many": SHIFTED | {"MSK109"}, "inverted": {"MSK203", "MSK201", "MSK102"},
                              "targets not moved": {"MSK505"}, "targets moved twice": {"MSK505"}}),
}  # fmt: skip
# Where nothing is declared these are notes: some mean it so.
HARMLESS = {"packed without a document mask"}
