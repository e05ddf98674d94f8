"""The light way: a tokenizer.json and its configuration through the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.text import agreement
from maskcli.text.files import MAX_VOCABULARY_BYTES, read_json_object
from maskcli.text.growth import check_added, check_growth
from maskcli.text.library import Library, Lists, Settings, readable, reason, refusals, tokenizer_of
from maskcli.text.tokenizer import ROLES, Tokenizer, quoted
from maskcli.untrusted import read_bytes


def load_light(file: Path, name: str, *, alone: bool) -> Tokenizer | None:
    """The tokenizer in a tokenizer.json and the files beside it; None when only transformers can say.

    `alone`: nothing else can load this file, so take it as it is.
    """
    config = read_json_object(file.with_name("tokenizer_config.json"))
    if "added_tokens_decoder" not in config:
        config |= read_json_object(file.with_name("special_tokens_map.json"))
    kind = agreement.tokenizer_class(config, read_json_object(file.with_name("config.json")))
    if kind is None and not alone:
        return None

    backend = read_backend(file)
    with refusals(name):
        kind = kind or agreement.AS_IT_IS
        tokens = _named_tokens(config, backend, kind)
        settled = agreement.agrees(kind, backend, config, tokens, file)
        if not (settled or alone):
            return None
        _add_missing(tokens, config, backend)
        return from_backend(name, backend, _settings(config, backend, tokens))


def read_backend(file: Path) -> Any:
    """The `tokenizers.Tokenizer` of a file."""
    from tokenizers import Tokenizer as Backend

    data = read_bytes(file, MAX_VOCABULARY_BYTES)
    check_added(data, str(file))
    try:
        with refusals(str(file)):
            return Backend.from_buffer(data)
    except MaskcliError as error:
        raise MaskcliError(
            f"{quoted(str(file))} is not a tokenizer.json ({reason(error.__cause__ or error)}); "
            "pass a file or folder written by save_pretrained"
        ) from None


def from_backend(name: str, backend: Any, settings: Settings) -> Tokenizer:
    """A `tokenizers.Tokenizer` as a Tokenizer; padding and truncation baked into it are switched off."""
    check_growth(backend, name)
    backend.no_padding()
    backend.no_truncation()
    added = backend.get_added_tokens_decoder()
    byte_level = agreement.has_byte_level(backend)
    byte_fallback = bool(getattr(backend.model, "byte_fallback", False))

    def encoded(text: str, pair: str | None, add: bool) -> Lists:
        whole = backend.encode(text, pair, add_special_tokens=add)
        return Lists(whole.ids, whole.special_tokens_mask, whole.type_ids)

    def lists(text: str, pair: str | None, add: bool, max_length: int | None) -> Lists:
        if max_length is None:
            return encoded(text, pair, add)
        backend.enable_truncation(max_length, direction=settings.truncation_side)
        try:
            return encoded(text, pair, add)
        finally:
            backend.no_truncation()

    def many(texts: Sequence[str], add: bool) -> list[list[int]]:
        return [whole.ids for whole in backend.encode_batch(list(texts), add_special_tokens=add)]

    def text_of(token_id: int) -> str | None:
        token: str | None = backend.id_to_token(token_id)
        if token is None or token_id in added:
            return token
        if byte_fallback and len(token) == 6 and token.startswith("<0x"):
            return rf"\x{token[3:5].lower()}"
        return readable(token, byte_level)

    library = Library(
        lists=lists,
        many=many,
        reserved=backend.num_special_tokens_to_add,
        text_of=text_of,
        id_of=backend.token_to_id,
        size=backend.get_vocab_size,
    )
    return tokenizer_of(name, library, settings, (number for number, token in added.items() if token.special))


def _named_tokens(config: Mapping[str, Any], backend: Any, kind: str) -> dict[str, str]:
    """The special tokens by role: from the configuration, else the class, else the file's padding."""
    baked = {} if backend.padding is None else {"pad": backend.padding["pad_token"]}
    given = [role for role in ROLES if f"{role}_token" in config]
    named = {role: agreement.content(config[f"{role}_token"]) for role in given}
    tokens = {**baked, **agreement.default_tokens(kind), **named}
    return {role: token for role, token in tokens.items() if token is not None}


def _add_missing(tokens: Mapping[str, str], config: Mapping[str, Any], backend: Any) -> None:
    """Add the named special tokens that the file does not hold, as transformers does."""
    from tokenizers import AddedToken

    for role in agreement.missing(tokens, backend):
        declared = config.get(f"{role}_token")
        described = declared if isinstance(declared, dict) else {}
        flags = {key: bool(described[key]) for key in agreement.FLAGS if key in described}
        backend.add_tokens([AddedToken(tokens[role], special=True, **flags)])


def _settings(config: Mapping[str, Any], backend: Any, tokens: Mapping[str, str]) -> Settings:
    """The configuration's settings, else those of the file; also switches `split_special_tokens` on."""
    backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
    padding, truncation = backend.padding or {}, backend.truncation or {}
    return Settings(
        tokens=tokens,
        padding_side=_side(config.get("padding_side", padding.get("direction", "right"))),
        truncation_side=_side(config.get("truncation_side", truncation.get("direction", "right"))),
        model_max_length=config.get("model_max_length", config.get("max_len")),
    )


def _side(value: object) -> str:
    """`left` or `right`."""
    if value not in ("left", "right"):
        raise MaskcliError(
            f"the tokenizer's configuration gives the side {quoted(value)}; "
            "it must be 'left' or 'right', correct the file"
        )
    return str(value)
