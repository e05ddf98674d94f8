"""Whether a tokenizer.json alone says what transformers would do with its folder.

transformers 5 loads a folder by the class its configuration names, and most classes build their own normalizer,
pre-tokenizer and post-processor around the vocabulary and ignore those of the tokenizer.json. So the `tokenizers` library
alone may stand in for it only where the file agrees with the class; elsewhere transformers has to do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Config = Mapping[str, Any]

# Classes that take the tokenizer.json as it is; "Fast" is cut from names before they are looked up.
GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
# Model types for which transformers may take a class of its own, whatever the configuration names.
_OVERRIDING = ("qwen", "siglip", "hyperclovax")
# A byte-level file that names this class is read as it is, in models that have no tokenizer library of their own.
_LLAMA, _LLAMA_MODELS = "LlamaTokenizer", (None, "llama", "deepseek_v2", "deepseek_v3")
# Keys that make transformers do more than read the files.
_BEYOND = ("auto_map", "fix_mistral_regex", "init_inputs", "gguf_file")

# The pre-tokenizer pattern that defines the Qwen 2 and 3 vocabularies.
_QWEN2_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Pipeline(NamedTuple):
    """What a class builds; `post_processor` None means that it keeps the file's."""

    model: str
    normalizer: Any
    pre_tokenizer: Any
    post_processor: Any = None


class Family(NamedTuple):
    """A class: its models, the roles it cannot do without, its default special tokens, and the pipeline it builds."""

    models: tuple[str, ...]
    needs: tuple[str, ...]
    tokens: dict[str, str | None]
    build: Callable[[Any, Config, dict[str, str]], Pipeline]


def tokenizer_class(config: Config, model_config: Config) -> str | None:
    """The class that transformers loads, without "Fast"; "TokenizersBackend" for any that reads the file as it is.

    None when only transformers itself can say.
    """
    declared = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    model_type = model_config.get("model_type")
    if any(config.get(key) for key in _BEYOND):
        return None
    if declared is None:
        return "TokenizersBackend" if model_type is None else _class_of(model_type)
    name = str(declared).removesuffix("Fast")
    if name == _LLAMA:
        return name if model_type in _LLAMA_MODELS else None
    if name in FAMILIES:
        family = FAMILIES[name]
        # For a model of another family transformers may leave the class, and with it the tokens it has by default.
        foreign = model_type is not None and model_type not in family.models
        unnamed = any(f"{role}_token" not in config for role in family.tokens)
        return None if foreign and (unnamed or _overrides(model_type)) else name
    return None if name not in GENERIC or _overrides(model_type) else "TokenizersBackend"


def _class_of(model_type: object) -> str | None:
    """The class that transformers takes for a model when nothing names one, as far as it is known here."""
    return next((name for name, family in FAMILIES.items() if model_type in family.models), None)


def _overrides(model_type: object) -> bool:
    """Whether transformers may ignore the class that the configuration of such a model names."""
    return str(model_type).startswith(_OVERRIDING)


def agrees(name: str, backend: Any, config: Config, tokens: dict[str, str]) -> bool:
    """Whether the tokenizer.json behind `backend` is what the class builds from `config` and its special `tokens`."""
    if name in GENERIC:
        return True
    if name == _LLAMA:
        return has_byte_level(backend)
    if any(role not in tokens for role in FAMILIES[name].needs):
        return False
    try:
        expected = FAMILIES[name].build(backend, config, tokens)
    except TypeError:
        # A setting of another type than the class takes: what becomes of it is for transformers to say.
        return False
    return (
        type(backend.model).__name__ == expected.model
        and _plain(backend.model, expected.model, tokens)
        and _state(backend.normalizer) == _state(expected.normalizer)
        and _state(backend.pre_tokenizer) == _state(expected.pre_tokenizer)
        and (
            expected.post_processor is None
            or _state(backend.post_processor) == _state(expected.post_processor)
        )
        and backend.post_processor is not None
    )


def default_tokens(name: str) -> dict[str, str | None]:
    """The special tokens, by role, that a class has when the configuration does not name them."""
    return FAMILIES[name].tokens if name in FAMILIES else {}


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


_ENDOFTEXT = "<|endoftext|>"
FAMILIES: dict[str, Family] = {
    "BertTokenizer": Family(
        ("bert",),
        ("unk", "sep", "cls"),
        {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
        _bert,
    ),
    "GPT2Tokenizer": Family(("gpt2",), (), {"unk": _ENDOFTEXT, "bos": _ENDOFTEXT, "eos": _ENDOFTEXT}, _gpt2),
    "RobertaTokenizer": Family(
        ("roberta",),
        ("sep", "cls"),
        {
            "bos": "<s>",
            "eos": "</s>",
            "sep": "</s>",
            "cls": "<s>",
            "unk": "<unk>",
            "pad": "<pad>",
            "mask": "<mask>",
        },
        _roberta,
    ),
    "Qwen2Tokenizer": Family(
        ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
        (),
        {"unk": _ENDOFTEXT, "eos": _ENDOFTEXT, "pad": _ENDOFTEXT},
        _qwen2,
    ),
}
