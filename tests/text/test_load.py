"""Finding and loading tokenizers, and refusing what is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from maskcli.errors import MaskcliError
from maskcli.text import Tokenizer, batch_from_ids, batch_from_texts, library, load_tokenizer

from .conftest import bert_slow, gpt2_slow, write_json


def word_level(**changes: object) -> dict[str, object]:
    """A small valid tokenizer.json."""
    vocab = {"<unk>": 0, "a": 1, "b": 2, "</s>": 3}
    token = {
        "id": 3,
        "content": "</s>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
    }
    return {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [token | {"special": True}],
        **changes,
    }


def loaded(
    tmp_path: Path, config: object = None, name: str = "tokenizer.json", **changes: object
) -> Tokenizer:
    if config is not None:
        write_json(tmp_path / "tokenizer_config.json", config)
    return load_tokenizer(str(write_json(tmp_path / name, word_level(**changes))))


def test_a_file_of_any_name_and_its_folder_are_the_same_tokenizer(tmp_path: Path) -> None:
    config = {"eos_token": "</s>", "model_max_length": 3, "padding_side": "left"}
    by_file = loaded(tmp_path, config, name="mine.json")
    assert by_file.encode("a b zzz").ids.tolist() == [1, 2, 0]
    assert (by_file.eos_id, by_file.pad_id, by_file.model_max_length, by_file.padding_side) == (
        3,
        None,
        3,
        "left",
    )
    (tmp_path / "mine.json").rename(tmp_path / "tokenizer.json")
    by_folder = load_tokenizer(str(tmp_path))
    assert by_folder.encode("a b zzz").ids.tolist() == [1, 2, 0]
    assert by_folder.roles == by_file.roles


def test_padding_and_truncation_baked_into_the_file_are_switched_off(tmp_path: Path) -> None:
    padding = {
        "strategy": {"Fixed": 9},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
    }
    truncation = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}
    tokenizer = loaded(tmp_path, padding=padding | {"pad_token": "<unk>"}, truncation=truncation)
    assert tokenizer.encode("a b a b a").ids.tolist() == [1, 2, 1, 2, 1]
    assert tokenizer.encode("a b a").ids.tolist() == [1, 2, 1]
    assert (tokenizer.padding_side, tokenizer.pad_id) == ("left", 0)
    # Cutting, when asked for, is done on the side that the file names.
    assert tokenizer.encode("a a a b", max_length=2).ids.tolist() == [1, 2]


def test_a_special_token_that_the_file_lacks_is_added(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, {"pad_token": {"content": "[P]", "lstrip": True}, "eos_token": "</s>"})
    assert (tokenizer.pad_id, tokenizer.pad_token, tokenizer.vocab_size) == (4, "[P]", 5)
    assert tokenizer.encode("a [P] b").ids.tolist() == [1, 4, 2]


def test_padding_without_a_pad_token_is_an_error_only_when_rows_differ(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, {"eos_token": "</s>"})
    assert batch_from_texts(["a b", "b a"], tokenizer).shape == (2, 2)
    with pytest.raises(MaskcliError, match=r"no pad token to bring rows of 1 to 2 tokens.*--pad-token eos"):
        batch_from_texts(["a b", "b"], tokenizer)
    assert load_tokenizer(str(tmp_path), pad_token="eos").pad_id == 3
    assert load_tokenizer(str(tmp_path), pad_token="b").pad_id == 2


def test_a_text_longer_than_the_model_takes_is_said(tmp_path: Path) -> None:
    batch = batch_from_texts(["a b a"], loaded(tmp_path, {"model_max_length": 2}))
    assert len(batch.warnings) == 1
    assert "text 0 has 3 tokens" in batch.warnings[0]
    assert "--max-length 2" in batch.warnings[0]


def test_ids_outside_the_vocabulary_are_said(tmp_path: Path) -> None:
    batch = batch_from_ids("1 2 99", tokenizer=loaded(tmp_path))
    assert "id 99 is not in the vocabulary" in batch.warnings[0]
    assert [batch.token(0, index) for index in range(3)] == ["a", "b", "#99"]


def test_spaces_and_partial_characters_are_readable() -> None:
    assert library.readable("Ġcat", byte_level=True) == "▁cat"
    assert library.readable("ĠĠĊ", byte_level=True) == "▁▁\n"
    assert library.readable("ä½ł", byte_level=True) == "你"
    assert library.readable("ä½", byte_level=True) == r"\xe4\xbd"
    assert library.readable("##ding", byte_level=False) == "##ding"
    assert library.readable("Ġ é", byte_level=False) == "Ġ▁é"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a tokenizer.json"),
        (b"{}", "not a tokenizer.json"),
        (b"[1, 2", "not a tokenizer.json"),
        (b"\xff\xfe", "not a tokenizer.json"),
        (b'{"a": 0, "b": 1}', "not a tokenizer.json"),
        (b"[" * 100_000, "not a tokenizer.json"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a tokenizer.json"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    for name in (path, tmp_path):
        with pytest.raises(MaskcliError, match=message):
            load_tokenizer(str(name))


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("tokenizer_config.json", "[]", "holds a JSON list and an object was expected"),
        ("tokenizer_config.json", "{", "is not valid JSON"),
        ("tokenizer_config.json", "[" * 100_000, "is not valid JSON"),
        ("special_tokens_map.json", "nope", "is not valid JSON"),
        ("config.json", "3", "holds a JSON int"),
        ("tokenizer_config.json", '{"eos_token": 3}', "names 3 as a special token"),
        ("tokenizer_config.json", '{"padding_side": "up"}', "the side 'up'"),
        ("tokenizer_config.json", '{"extra_special_tokens": 3}', "failed"),
    ],
)
def test_a_broken_configuration_is_refused(tmp_path: Path, file: str, data: str, message: str) -> None:
    (tmp_path / file).write_text(data)
    with pytest.raises(MaskcliError, match=message):
        loaded(tmp_path, name="mine.json")


def test_large_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(MaskcliError, match="at most 256 MiB"):
        load_tokenizer(str(path))


def test_a_model_that_cannot_encode_a_text_says_so(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "missing"}
    tokenizer = loaded(tmp_path, model=model, added_tokens=[])
    with pytest.raises(MaskcliError, match=r"failed .*UNK"):
        tokenizer.encode("zzz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "there is no tokenizer at ''"),
        ("./nowhere", "there is no tokenizer at"),
        ("/nowhere/tokenizer.json", "no such file"),
        ("a/b/c", "there is no tokenizer at"),
        ("bad\0name", "there is no tokenizer at"),
        ("--", "there is no tokenizer at"),
        ("a..b", "no path and no hub name"),
        ("org/name", "not in the local cache.*tokenizer.json or a folder"),
        (__file__, "is not a tokenizer.json"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(MaskcliError, match=message):
        load_tokenizer(name)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskcliError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))
    gpt2_slow(tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer_config.json").unlink()
    with pytest.raises(MaskcliError, match=r"name its class in tokenizer_config.json"):
        load_tokenizer(str(tmp_path / "bare"))


def test_code_that_a_tokenizer_brings_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    config = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
    # The file itself says all there is to say; the folder would need the class.
    assert loaded(tmp_path, config).encode("a b").ids.tolist() == [1, 2]
    with pytest.raises(MaskcliError, match=r"never does; pass its tokenizer.json"):
        load_tokenizer(str(tmp_path))


def test_slow_tokenizers_are_loaded_through_transformers(tmp_path: Path) -> None:
    bert = load_tokenizer(str(bert_slow(tmp_path / "bert")))
    assert [bert.token(i) for i in bert.encode("the catmat!").ids] == [
        "[CLS]",
        "the",
        "cat",
        "##m",
        "##at",
        "!",
        "[SEP]",
    ]
    gpt2 = load_tokenizer(str(gpt2_slow(tmp_path / "gpt2")))
    assert [gpt2.token(i) for i in gpt2.encode("the naïve cat").ids] == ["the", "▁naïve", "▁cat"]
    assert (gpt2.vocab_size, gpt2.eos_id, gpt2.pad_id, gpt2.model_max_length) == (50257, 50256, None, 1024)


def test_tokenizers_in_python_alone_are_loaded_through_transformers(tmp_path: Path) -> None:
    write_json(tmp_path / "vocab.json", {"<unk>": 0, "c@@": 1, "a@@": 2, "t</w>": 3, "a</w>": 4})
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "CTRLTokenizer"})
    tokenizer = load_tokenizer(str(tmp_path))
    encoding = tokenizer.encode("cat a", max_length=3)
    assert encoding.total > len(encoding) == 3
    assert tokenizer.vocab_size == 5


def test_a_panic_of_a_library_is_one_sentence() -> None:
    panic = type("PanicException", (BaseException,), {})
    with (
        pytest.raises(MaskcliError, match=r"tokenizer 'x' failed \(index out of bounds\)"),
        library.refusals("x"),
    ):
        raise panic("index out\n of bounds.")
    with pytest.raises(KeyboardInterrupt), library.refusals("x"):
        raise KeyboardInterrupt


def test_a_hub_name_that_is_not_cached_is_downloaded_once_without_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    calls = []

    def download(name: str, allow_patterns: list[str]) -> str:
        calls.append((name, allow_patterns))
        write_json(tmp_path / "tokenizer.json", word_level())
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_tokenizer("org/name").encode("a b").ids.tolist() == [1, 2]
    ((name, patterns),) = calls
    assert name == "org/name"
    assert "tokenizer*" in patterns
    assert not any("safetensors" in pattern or pattern == "*" for pattern in patterns)


def cached(root: Path, repository: str) -> Path:
    """Lay a tokenizer out as the hub's cache does."""
    base = root / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text("0" * 40)
    snapshot = base / "snapshots" / ("0" * 40)
    write_json(snapshot / "tokenizer.json", word_level())
    return write_json(snapshot / "tokenizer_config.json", {"eos_token": "</s>"}).parent


def test_a_hub_name_in_the_local_cache_needs_neither_network_nor_transformers(tmp_path: Path) -> None:
    cached(tmp_path, "org/name")
    program = (
        "import socket, sys\n"
        "socket.socket.connect = socket.getaddrinfo = None\n"
        "from maskcli.text import load_tokenizer\n"
        "tokenizer = load_tokenizer('org/name')\n"
        "print(json.dumps([tokenizer.encode('a b').ids.tolist(), tokenizer.eos_id, 'transformers' in sys.modules]))\n"
    )
    environment = {"HF_HUB_CACHE": str(tmp_path), "PYTHONPATH": str(Path(library.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", f"import json\n{program}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[1, 2], 3, False]


def test_a_missing_sentencepiece_is_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskcli.text import heavy

    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    monkeypatch.setattr(heavy, "find_spec", lambda name: None)

    class Loader:
        @staticmethod
        def from_pretrained(*args: object, **options: object) -> None:
            raise ImportError("T5Tokenizer requires the SentencePiece library but it was not found")

    with pytest.raises(MaskcliError, match="needs sentencepiece, which is not installed; pip install"):
        heavy._load(Loader, tmp_path, "t5")
