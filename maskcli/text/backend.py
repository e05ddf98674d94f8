"""The light path: a tokenizer.json and its configuration through the `tokenizers` library, without transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.text import pipelines
from maskcli.text.files import MAX_VOCABULARY_BYTES, read_json_object
from maskcli.text.tokenizer import ROLES, Encode, Encoding, Tokenizer, as_encoding, no_room, quoted
from maskcli.untrusted import check_file

# The order in which transformers looks at, and where needed adds, special tokens.
_ADDING_ORDER = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
# transformers writes 1e30 for "no limit".
_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Settings:
    """What a tokenizer's configuration says beside the vocabulary: role tokens, sides, the model's length."""

    tokens: Mapping[str, str] = field(default_factory=dict)
    padding_side: str = "right"
    truncation_side: str = "right"
    model_max_length: int | None = None
    pad_type_id: int = 0


def load_light(file: Path, name: str, *, alone: bool) -> Tokenizer | None:
    """The tokenizer in a tokenizer.json and the configuration files beside it; None when only transformers can say.

    `alone`: nothing else can load this file, so take it as it is.
    """
    config = read_json_object(file.with_name("tokenizer_config.json"))
    if "added_tokens_decoder" not in config:
        config |= read_json_object(file.with_name("special_tokens_map.json"))
    kind = pipelines.tokenizer_class(config, read_json_object(file.with_name("config.json")))
    if kind is None and not alone:
        return None
    backend = read_backend(file)
    with refusals(name):
        chosen = kind or "TokenizersBackend"
        tokens = _named_tokens(config, backend, chosen)
        settled = (
            _same_added_tokens(config, file, backend)
            and _knows_extras(config, backend)
            and (chosen not in pipelines.FAMILIES or not _missing(tokens, backend))
            and pipelines.agrees(chosen, backend, config, tokens)
        )
        if not settled and not alone:
            return None
        _add_missing(tokens, config, backend)
        return from_backend(name, backend, _settings(config, backend, tokens))


def read_backend(file: Path) -> Any:
    """The `tokenizers.Tokenizer` of a file."""
    from tokenizers import Tokenizer as Backend

    check_file(file, MAX_VOCABULARY_BYTES)
    try:
        with refusals(str(file)):
            return Backend.from_file(str(file))
    except MaskcliError as error:
        raise MaskcliError(
            f"{quoted(str(file))} is not a tokenizer.json ({_reason(error.__cause__ or error)}); "
            "pass a file or folder written by save_pretrained"
        ) from None


def from_backend(name: str, backend: Any, settings: Settings) -> Tokenizer:
    """A `tokenizers.Tokenizer` as a Tokenizer; padding and truncation baked into it are switched off."""
    backend.no_padding()
    backend.no_truncation()
    added = backend.get_added_tokens_decoder()
    found = {role: backend.token_to_id(token) for role, token in settings.tokens.items()}
    roles = {role: found[role] for role in ROLES if found.get(role) is not None}
    special_ids = frozenset(roles.values()) | {number for number, token in added.items() if token.special}
    byte_level = pipelines.has_byte_level(backend)
    byte_fallback = bool(getattr(backend.model, "byte_fallback", False))

    def text_of(token_id: int) -> str | None:
        token = backend.id_to_token(token_id)
        if token is None or token_id in added:
            return token if token is None else str(token)
        if byte_fallback and len(token) == 6 and token.startswith("<0x"):
            return rf"\x{token[3:5].lower()}"
        return readable(token, byte_level)

    return Tokenizer(
        name=name,
        roles=roles,
        special_ids=special_ids,
        encoder=_encoder(name, backend, settings.truncation_side, special_ids, roles.get("eos")),
        text_of=text_of,
        id_of=backend.token_to_id,
        size=backend.get_vocab_size,
        padding_side=settings.padding_side,
        model_max_length=settings.model_max_length,
        pad_type_id=settings.pad_type_id,
    )


def readable(token: str, byte_level: bool) -> str:
    """A vocabulary entry as text: every space is `▁`; bytes that are no whole character are written `\\xe4`.

    Byte-level vocabularies spell each byte as one printable character (`Ġ` is the space).
    """
    if byte_level and all(character in _BYTE_OF for character in token):
        token = bytes(_BYTE_OF[character] for character in token).decode("utf-8", "backslashreplace")
    return token.replace(" ", "▁")


def sane_length(value: object) -> int | None:
    """A model's maximum length, None for those that stand for "no limit"."""
    return int(value) if isinstance(value, (int, float)) and 0 < value < _NO_LIMIT else None


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Turn whatever a tokenizer library throws, a panic of its Rust code included, into one sentence."""
    try:
        yield
    except MaskcliError:
        raise
    except BaseException as error:
        # A pyo3 panic is a BaseException of a type that cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise MaskcliError(
            f"tokenizer {quoted(name)} failed ({_reason(error)}); save it again with save_pretrained or pass another"
        ) from error


def _reason(error: BaseException) -> str:
    """What a library said, on one line and without a full stop."""
    said = " ".join(str(error).split()) or type(error).__name__
    return (said if len(said) <= 200 else f"{said[:197]}...").rstrip(".")


def _encoder(name: str, backend: Any, side: str, special_ids: frozenset[int], eos: int | None) -> Encode:
    """The encode function of a backend."""

    def encode(text: str, pair: str | None, special_tokens: bool | None, max_length: int | None) -> Encoding:
        add = special_tokens is not False
        with refusals(name):
            full = backend.encode(text, pair, add_special_tokens=add)
            total = len(full)
            if max_length is None or total <= max_length:
                return as_encoding(
                    full.ids, full.special_tokens_mask, full.type_ids, special_ids, total, False
                )
            reserved = backend.num_special_tokens_to_add(pair is not None) if add else 0
            if max_length < reserved:
                raise no_room(max_length, reserved)
            backend.enable_truncation(max_length, direction=side)
            try:
                cut = backend.encode(text, pair, add_special_tokens=add)
            finally:
                backend.no_truncation()
            end_lost = eos is not None and full.ids[-1] == eos and cut.ids[-1:] != [eos]
            return as_encoding(cut.ids, cut.special_tokens_mask, cut.type_ids, special_ids, total, end_lost)

    return encode


def _named_tokens(config: Mapping[str, Any], backend: Any, kind: str) -> dict[str, str]:
    """The special tokens by role: from the configuration, else the class, else the padding baked into the file."""
    baked = {} if backend.padding is None else {"pad": backend.padding["pad_token"]}
    named = {role: _content(config[f"{role}_token"]) for role in ROLES if f"{role}_token" in config}
    tokens = {**baked, **pipelines.default_tokens(kind), **named}
    return {role: token for role, token in tokens.items() if token is not None}


def _content(value: object) -> str | None:
    """The text of a token in a configuration: a string, or an object with a "content"."""
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise MaskcliError(
            f"the tokenizer's configuration names {quoted(value)} as a special token and a string was expected; "
            "save it again with save_pretrained"
        )
    return value


def _missing(tokens: Mapping[str, str], backend: Any) -> list[str]:
    """Roles, in the order in which transformers adds them, whose token is not among the file's added tokens."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    return [role for role in _ADDING_ORDER if tokens.get(role) is not None and tokens[role] not in known]


def _add_missing(tokens: Mapping[str, str], config: Mapping[str, Any], backend: Any) -> None:
    """Add the named special tokens that the file does not hold, as transformers does."""
    from tokenizers import AddedToken

    for role in _missing(tokens, backend):
        declared = config.get(f"{role}_token")
        flags = (
            {key: bool(declared[key]) for key in _FLAGS[1:-1] if key in declared}
            if isinstance(declared, dict)
            else {}
        )
        backend.add_tokens([AddedToken(tokens[role], special=True, **flags)])


def _same_added_tokens(config: Mapping[str, Any], file: Path, backend: Any) -> bool:
    """Whether the added tokens that the configuration lists are those of the file."""
    held = backend.get_added_tokens_decoder()
    listed = config.get("added_tokens_decoder")
    if listed is None:
        legacy = read_json_object(file.with_name("added_tokens.json"))
        return all(number in held and held[number].content == content for content, number in legacy.items())
    if not isinstance(listed, dict) or not all(isinstance(entry, dict) for entry in listed.values()):
        return False
    described = {str(number): {key: getattr(token, key) for key in _FLAGS} for number, token in held.items()}
    return len(listed) == len(held) and all(
        described.get(number) is not None and {**described[number], **entry} == described[number]
        for number, entry in listed.items()
    )


def _knows_extras(config: Mapping[str, Any], backend: Any) -> bool:
    """Whether every further special token that the configuration names is a special added token of the file."""
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    extras = [value for key, value in config.items() if key.endswith("_token") and key[:-6] not in ROLES]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value = config.get(key) or []
        extras += list(value.values()) if isinstance(value, dict) else list(value)
    return all(_content(value) in known for value in extras if isinstance(value, (str, dict)))


def _settings(config: Mapping[str, Any], backend: Any, tokens: Mapping[str, str]) -> Settings:
    """The configuration's settings, after those baked into the file; also switches `split_special_tokens` on."""
    backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
    padding, truncation = backend.padding or {}, backend.truncation or {}
    return Settings(
        tokens=tokens,
        padding_side=_side(config.get("padding_side", padding.get("direction", "right"))),
        truncation_side=_side(config.get("truncation_side", truncation.get("direction", "right"))),
        model_max_length=sane_length(config.get("model_max_length", config.get("max_len"))),
    )


def _side(value: object) -> str:
    """`left` or `right`."""
    if value not in ("left", "right"):
        raise MaskcliError(
            f"the tokenizer's configuration gives the side {quoted(value)}; it must be 'left' or 'right', correct the file"
        )
    return str(value)


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte: printable Latin-1 stands for itself, the rest moves to 256 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(rest)
    }


_BYTE_OF = _byte_alphabet()
