"""The heavy way: what only transformers can load, and chat templates; code of a tokenizer is never run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.extras import needing
from maskcli.text.files import MAX_CONFIG_BYTES, MAX_VOCABULARY_BYTES
from maskcli.text.growth import check_added
from maskcli.text.library import Library, Lists, Settings, readable, refusals, tokenizer_of
from maskcli.text.light import from_backend
from maskcli.text.templates import quiet, template_of
from maskcli.text.tokenizer import ROLES, Template, Tokenizer, quoted
from maskcli.untrusted import check_file, read_bytes

_VOCABULARIES = {
    *("vocab.json", "vocab.txt", "merges.txt", "vocab.bpe", "encoder.json", "tekken.json", "tokenizer.json")
}
_SUFFIXES = (".model", ".tiktoken", ".vocab", ".bpe", ".spm")


def load_folder(folder: Path, name: str) -> Tokenizer:
    """The tokenizer of a folder as `AutoTokenizer` loads it, from these files alone, without running code."""
    try:
        present = sorted(folder.iterdir())
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise MaskcliError(f"cannot read folder {quoted(str(folder))}: {said}") from None
    files = [file for file in present if file.name in _VOCABULARIES or file.suffix in _SUFFIXES]
    if not files:
        raise MaskcliError(
            f"{quoted(str(folder))} holds no tokenizer; pass a folder with a tokenizer.json, or with the "
            "vocabulary that the tokenizer's save_pretrained wrote"
        )
    for file in present:
        if file.name == "tokenizer.json":
            check_added(read_bytes(file, MAX_VOCABULARY_BYTES), name)
        elif file in files:
            check_file(file, MAX_VOCABULARY_BYTES)
        elif file.suffix in (".json", ".jinja", ".txt"):
            check_file(file, MAX_CONFIG_BYTES)

    with quiet():
        with needing("transformers", quoted(name)):
            from transformers import AutoTokenizer
        return from_transformers(_load(AutoTokenizer, folder, name), name)


def from_transformers(tokenizer: Any, name: str) -> Tokenizer:
    """A transformers tokenizer as a Tokenizer."""
    tokens = {role: getattr(tokenizer, f"{role}_token", None) for role in ROLES}
    settings = Settings(
        tokens={role: str(token) for role, token in tokens.items() if token is not None},
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_max_length=tokenizer.model_max_length,
        pad_type_id=tokenizer.pad_token_type_id,
    )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and type(backend).__module__.startswith("tokenizers"):
        loaded = from_backend(name, backend, settings)
    else:
        loaded = tokenizer_of(name, _in_python(tokenizer), settings, map(int, tokenizer.all_special_ids))

    def templated(source: str) -> Template:
        template = template_of(tokenizer, name, source)
        if template is None:
            raise MaskcliError("the chat template is empty; pass --template with a file that holds one")
        return template

    return replace(loaded, template=template_of(tokenizer, name), templated=templated)


def _load(loader: Any, folder: Path, name: str) -> Any:
    """Call transformers, and say in one sentence what it could not do."""
    try:
        with refusals(name):
            return loader.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except MaskcliError as error:
        said = str(error.__cause__ or error)
        if "trust_remote_code" in said:
            raise MaskcliError(
                f"tokenizer {quoted(name)} asks to run Python code of its own, which maskcli never does; "
                "pass its tokenizer.json if it has one, or one written by save_pretrained"
            ) from None
        pieces = any(folder.glob("*.model")) and find_spec("sentencepiece") is None
        if pieces and "sentencepiece" in said.lower():
            raise MaskcliError(
                f"tokenizer {quoted(name)} needs sentencepiece, which is not installed; pip install "
                "sentencepiece"
            ) from None
        if "instantiate the backend tokenizer" in said:
            raise MaskcliError(
                f"transformers cannot tell which tokenizer {quoted(name)} holds; name its class in "
                'tokenizer_config.json, such as {"tokenizer_class": "GPT2Tokenizer"}, or pass a '
                "tokenizer.json"
            ) from None
        raise


def _in_python(tokenizer: Any) -> Library:
    """What a tokenizer that exists in Python only does."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    words = {number: token for token, number in vocabulary.items()}

    def lists(text: str, pair: str | None, add: bool, max_length: int | None) -> Lists:
        cut = {} if max_length is None else {"truncation": "longest_first", "max_length": max_length}
        with quiet():
            encoded = tokenizer(
                text,
                pair,
                add_special_tokens=add,
                return_special_tokens_mask=True,
                return_token_type_ids=True,
                verbose=False,
                **cut,
            )
        ids = encoded["input_ids"]
        type_ids = encoded.get("token_type_ids") or [0] * len(ids)
        return Lists(ids, encoded["special_tokens_mask"], type_ids)

    def many(texts: Sequence[str], add: bool) -> list[list[int]]:
        with quiet():
            ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=add, verbose=False)["input_ids"]
        return ids

    def text_of(token_id: int) -> str | None:
        token = words.get(token_id)
        return None if token is None else readable(token, byte_level=False)

    return Library(
        lists=lists,
        many=many,
        reserved=tokenizer.num_special_tokens_to_add,
        text_of=text_of,
        id_of=vocabulary.get,
        size=lambda: len(tokenizer),
    )
