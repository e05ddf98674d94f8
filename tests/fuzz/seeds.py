"""The corpus: small real files of every kind that maskcli reads, each written by the library that writes such files.

`python -m tests.fuzz.seeds` writes them anew.
"""

import json
from pathlib import Path

import numpy as np

CORPUS = Path(__file__).parent / "corpus"
TENSORS, SETS, TEXTS = CORPUS / "tensors", CORPUS / "sets", CORPUS / "texts"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATS = [
    [{"role": "user", "content": "is seven a prime"}, {"role": "assistant", "content": "yes it is"}],
    [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "who sat"},
        {"role": "assistant", "content": "the cat"},
        {"role": "user", "content": "on what"},
        {"role": "assistant", "content": "a mat"},
    ],
]
CONFIGS = {
    "llama": {"model_type": "llama", "num_hidden_layers": 4, "vocab_size": 64, "pad_token_id": 0, "eos_token_id": 2},
    "mistral": {"model_type": "mistral", "num_hidden_layers": 4, "sliding_window": 4, "vocab_size": 64},
    "gpt_neo": {
        "model_type": "gpt_neo", "num_layers": 4, "window_size": 4, "attention_types": [[["global", "local"], 2]],
    },
    "gemma3": {
        "model_type": "gemma3", "image_token_index": 9, "eos_token_id": [1, 2],
        "text_config": {
            "model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window": 4, "sliding_window_pattern": 3,
        },
    },
    "bert": {"model_type": "bert", "num_hidden_layers": 2, "vocab_size": 64, "pad_token_id": 0, "is_decoder": False},
    "t5": {"model_type": "t5", "num_layers": 2, "is_encoder_decoder": True, "decoder_start_token_id": 0},
}  # fmt: skip


def arrays():
    """A padded batch of two samples: its ids, masks, weights of two layers and labels."""
    generator = np.random.default_rng(0)
    ids = np.array([[5, 7, 6, 8, 9, 2], [5, 6, 2, 0, 0, 0]])
    real = ids != 0
    causal = np.tril(np.ones((6, 6), bool))
    keep = causal[None, None] & real[:, None, None]
    scores = np.where(keep, generator.standard_normal((2, 2, 6, 6)), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    return {
        "input_ids": ids, "attention_mask": real.astype(np.int64), "causal_mask": keep, "labels": np.where(real, ids, -100),
        "attentions.0": weights, "attentions.1": weights[::-1].copy(), "position_ids": real.cumsum(-1) - 1,
    }  # fmt: skip


def write_tensors():
    import torch
    from safetensors.numpy import save_file
    from safetensors.torch import save_file as save_torch

    whole = arrays()
    tensors = {name: torch.from_numpy(array) for name, array in whole.items()}
    save_file(whole, TENSORS / "batch.safetensors", {"expect": "causal", "pad_id": "0"})
    save_torch({"mask": torch.full((6, 6), -1e9).triu(1).bfloat16()}, TENSORS / "bf16.safetensors")
    np.save(TENSORS / "weights.npy", whole["attentions.0"])
    np.save(TENSORS / "fortran.npy", np.asfortranarray(whole["causal_mask"][0, 0]))
    np.savez(TENSORS / "batch.npz", **whole)
    np.savez_compressed(TENSORS / "packed.npz", ids=whole["input_ids"], mask=whole["attention_mask"])
    torch.save(tensors, TENSORS / "batch.pt")
    torch.save(tensors, TENSORS / "legacy.pt", _use_new_zipfile_serialization=False)
    shared = torch.arange(36.0).reshape(6, 6)
    strided = {
        "t": shared.t(),
        "rows": shared[1:4],
        "all": shared,
        "wide": shared[0].expand(6, 6),
        "half": shared.half(),
    }
    torch.save({"steps": [strided, (shared,)], "n": 3}, TENSORS / "strided.pt")


def write_texts():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    words = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=words, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([turn["content"] for chat in CHATS for turn in chat], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "chat_template": TEMPLATE,
    }  # fmt: skip
    tokenizer.save(str(TEXTS / "tokenizer.json"), pretty=False)
    _write_json(TEXTS / "tokenizer_config.json", settings)
    for name, config in CONFIGS.items():
        _write_json(TEXTS / f"config.{name}.json", config)
    _write_json(TEXTS / "messages.json", CHATS[1])
    (TEXTS / "template.jinja").write_text(TEMPLATE)
    (TEXTS / "texts.txt").write_text("the cat sat\nhello\n\nnaïve 漢字 👩‍👩‍👧\n", encoding="utf-8")


def write_sets():
    import pyarrow as pa
    import pyarrow.parquet as parquet

    whole = arrays()
    rows = [
        {name: whole[name][row].tolist() for name in ("input_ids", "attention_mask", "labels")}
        for row in (0, 1, 0, 1)
    ]
    ragged = [{name: row[name][:size] for name in row} for row, size in zip(rows, (6, 3, 5, 2), strict=True)]
    (SETS / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ragged))
    (SETS / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in CHATS))
    _write_json(SETS / "rows.json", ragged)
    table = pa.Table.from_pylist(ragged)
    parquet.write_table(table, SETS / "rows.parquet", row_group_size=2)
    with pa.OSFile(str(SETS / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(SETS / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def _write_json(path, value):
    path.write_text(json.dumps(value, separators=(",", ":")))


if __name__ == "__main__":
    for folder in (TENSORS, TEXTS, SETS):
        folder.mkdir(parents=True, exist_ok=True)
    write_tensors()
    write_texts()
    write_sets()
