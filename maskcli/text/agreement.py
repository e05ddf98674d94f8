"""Agreement: when the light way equals the heavy one, a tokenizer.json alone what transformers makes of it.

transformers 5 loads a folder by the class its configuration names, and most classes build their own
normalizer, pre-tokenizer and post-processor around the vocabulary and ignore those of the tokenizer.json.
So the `tokenizers` library alone may stand in for it only where the file agrees with the class; elsewhere
transformers has to do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maskcli.errors import MaskcliError
from maskcli.text.files import read_json_object
from maskcli.text.tokenizer import ROLES, quoted

Config = Mapping[str, Any]

# Classes that take the tokenizer.json as it is; "Fast" is cut from names before they are looked up.
AS_IT_IS = "TokenizersBackend"
GENERIC = ("PreTrainedTokenizer", AS_IT_IS)
# Model types for which transformers may take a class of its own, whatever the configuration names.
_OVERRIDING = ("qwen", "siglip", "hyperclovax")
# A byte-level file that names this class is read as it is, in models without a tokenizer of their own.
_LLAMA, _LLAMA_MODELS = "LlamaTokenizer", (None, "llama", "deepseek_v2", "deepseek_v3")
# Keys that make transformers do more than read the files.
_BEYOND = ("auto_map", "fix_mistral_regex", "init_inputs", "gguf_file")

# The order in which transformers looks at, and where needed adds, special tokens.
_ADDING_ORDER = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# What an added token may say of itself.
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")

# The pre-tokenizer pattern that defines the Qwen 2 and 3 vocabularies.
_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Pipeline(NamedTuple):
    """What a class builds; `post_processor` None means that it keeps the file's."""

    model: str
    normalizer: Any
    pre_tokenizer: Any
    post_processor: Any = None


class Family(NamedTuple):
    """A class: its models, its tokens by default, and the pipeline it builds (KeyError without a token)."""

    models: tuple[str, ...]
    tokens: dict[str, str]
    build: Callable[[Any, Config, dict[str, str]], Pipeline]


def tokenizer_class(config: Config, model_config: Config) -> str | None:
    """The class that transformers loads, without "Fast"; AS_IT_IS for any that reads the file as it is.

    None when only transformers itself can say.
    """
    declared = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    model_type = model_config.get("model_type")
    if any(config.get(key) for key in _BEYOND):
        return None
    if declared is None:
        return AS_IT_IS if model_type is None else _class_of(model_type)

    name = str(declared).removesuffix("Fast")
    if name == _LLAMA:
        return name if model_type in _LLAMA_MODELS else None
    if name in FAMILIES:
        return name if _keeps_class(FAMILIES[name], config, model_type) else None
    reads_any = name in GENERIC and not _overrides(model_type)
    return AS_IT_IS if reads_any else None


def _class_of(model_type: object) -> str | None:
    """The class that transformers takes for a model when nothing names one, as far as it is known here."""
    return next((name for name, family in FAMILIES.items() if model_type in family.models), None)


def _keeps_class(family: Family, config: Config, model_type: object) -> bool:
    """Whether transformers takes the class, and with it the tokens it has by default, for such a model."""
    if model_type is None or model_type in family.models:
        return True
    named = all(f"{role}_token" in config for role in family.tokens)
    return named and not _overrides(model_type)


def _overrides(model_type: object) -> bool:
    """Whether transformers may ignore the class that the configuration of such a model names."""
    return str(model_type).startswith(_OVERRIDING)


def agrees(name: str, backend: Any, config: Config, tokens: dict[str, str], file: Path) -> bool:
    """Whether the tokenizer.json behind `backend` is what the class builds from `config` and its `tokens`."""
    if not _same_added_tokens(config, file, backend) or not _knows_extras(config, backend):
        return False
    if name in GENERIC:
        return True
    if name == _LLAMA:
        return has_byte_level(backend)
    return not missing(tokens, backend) and _same_pipeline(FAMILIES[name], backend, config, tokens)


def _same_pipeline(family: Family, backend: Any, config: Config, tokens: dict[str, str]) -> bool:
    """Whether the file's components are those that a class builds."""
    try:
        built = family.build(backend, config, tokens)
    except (KeyError, TypeError):
        # A token that the class needs is missing, or a setting has another type: transformers knows better.
        return False
    if type(backend.model).__name__ != built.model or backend.post_processor is None:
        return False
    pairs = [(backend.normalizer, built.normalizer), (backend.pre_tokenizer, built.pre_tokenizer)]
    if built.post_processor is not None:
        pairs.append((backend.post_processor, built.post_processor))
    same = all(_state(held) == _state(made) for held, made in pairs)
    return same and _plain(backend.model, built.model, tokens)


def default_tokens(name: str) -> dict[str, str]:
    """The special tokens, by role, that a class has when the configuration does not name them."""
    return FAMILIES[name].tokens if name in FAMILIES else {}


def missing(tokens: Mapping[str, str], backend: Any) -> list[str]:
    """Roles, in the order in which transformers adds them, whose token the file does not add."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    return [role for role in _ADDING_ORDER if role in tokens and tokens[role] not in known]


def content(value: object) -> str | None:
    """The text of a token in a configuration: a string, or an object with a "content"."""
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise MaskcliError(
            f"the tokenizer's configuration names {quoted(value)} as a special token and a string was "
            "expected; save it again with save_pretrained"
        )
    return value


def _same_added_tokens(config: Config, file: Path, backend: Any) -> bool:
    """Whether the added tokens that the configuration lists are those of the file."""
    held = backend.get_added_tokens_decoder()
    listed = config.get("added_tokens_decoder")
    if listed is None:
        contents = {number: token.content for number, token in held.items()}
        legacy = read_json_object(file.with_name("added_tokens.json"))
        return all(contents.get(number) == text for text, number in legacy.items())
    if not isinstance(listed, dict) or len(listed) != len(held):
        return False
    keys = ("content", *FLAGS, "special")
    described = {str(number): {key: getattr(token, key) for key in keys} for number, token in held.items()}
    return all(_adds_nothing(entry, described.get(number)) for number, entry in listed.items())


def _adds_nothing(entry: object, token: dict[str, Any] | None) -> bool:
    """Whether what a configuration says of an added token is what the file says."""
    return isinstance(entry, dict) and token is not None and {**token, **entry} == token


def _knows_extras(config: Config, backend: Any) -> bool:
    """Whether the file adds every further special token that the configuration names."""
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    return all(content(value) in known for value in _extras(config) if isinstance(value, (str, dict)))


def _extras(config: Config) -> list[Any]:
    """The special tokens without a role that the configuration names."""
    named = {key.removesuffix("_token"): value for key, value in config.items() if key.endswith("_token")}
    extras = [value for role, value in named.items() if role not in ROLES]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value = config.get(key) or []
        extras += value.values() if isinstance(value, dict) else value
    return extras


def has_byte_level(backend: Any) -> bool:
    """Whether the vocabulary is written in the byte alphabet of GPT-2."""
    return any(b'"ByteLevel"' in _state(part) for part in (backend.normalizer, backend.pre_tokenizer))


def _state(part: Any) -> bytes:
    """A component as its JSON."""
    return b"" if part is None else bytes(part.__getstate__())


def _plain(model: Any, kind: str, tokens: dict[str, str]) -> bool:
    """Whether the model has no setting that a class building it anew would lose."""
    if kind == "WordPiece":
        settings = (model.continuing_subword_prefix, model.max_input_chars_per_word, model.unk_token)
        return settings == ("##", 100, tokens.get("unk"))
    affixes = (model.continuing_subword_prefix, model.end_of_word_suffix)
    flags = (model.dropout, model.fuse_unk, model.byte_fallback, getattr(model, "ignore_merges", False))
    return not any(affixes) and not any(flags) and model.unk_token in (None, "")


def _bert(backend: Any, config: Config, tokens: dict[str, str]) -> Pipeline:
    from tokenizers import normalizers, pre_tokenizers, processors

    cls, sep = tokens["cls"], tokens["sep"]
    return Pipeline(
        "WordPiece",
        normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=config.get("tokenize_chinese_chars", True),
            strip_accents=config.get("strip_accents"),
            lowercase=config.get("do_lower_case", True),
        ),
        pre_tokenizers.BertPreTokenizer(),
        processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls, backend.token_to_id(cls)), (sep, backend.token_to_id(sep))],
        ),
    )


def _gpt2(backend: Any, config: Config, tokens: dict[str, str]) -> Pipeline:
    from tokenizers import pre_tokenizers

    return Pipeline(
        "BPE", None, pre_tokenizers.ByteLevel(add_prefix_space=config.get("add_prefix_space", False))
    )


def _roberta(backend: Any, config: Config, tokens: dict[str, str]) -> Pipeline:
    from tokenizers import pre_tokenizers, processors

    prefix = config.get("add_prefix_space", False)
    sep, cls = tokens["sep"], tokens["cls"]
    return Pipeline(
        "BPE",
        None,
        pre_tokenizers.ByteLevel(add_prefix_space=prefix),
        processors.RobertaProcessing(
            (sep, backend.token_to_id(sep)),
            (cls, backend.token_to_id(cls)),
            config.get("trim_offsets", True),
            prefix,
        ),
    )


def _qwen2(backend: Any, config: Config, tokens: dict[str, str]) -> Pipeline:
    from tokenizers import Regex, normalizers, pre_tokenizers

    split = pre_tokenizers.Split(Regex(_QWEN2_PATTERN), behavior="isolated", invert=False)
    level = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space")), use_regex=False)
    return Pipeline("BPE", normalizers.NFC(), pre_tokenizers.Sequence([split, level]))


_END = "<|endoftext|>"
_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ROBERTA = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>"}
_ROBERTA |= {"unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
FAMILIES: dict[str, Family] = {
    "BertTokenizer": Family(("bert",), _BERT, _bert),
    "GPT2Tokenizer": Family(("gpt2",), {"unk": _END, "bos": _END, "eos": _END}, _gpt2),
    "RobertaTokenizer": Family(("roberta",), _ROBERTA, _roberta),
    "Qwen2Tokenizer": Family(
        ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), {"unk": _END, "eos": _END, "pad": _END}, _qwen2
    ),
}
