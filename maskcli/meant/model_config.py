"""A Hugging Face config.json, read as plain JSON: the mask of each layer, positions, special ids."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeGuard

from maskcli.errors import MaskcliError
from maskcli.meant.alibi import alibi_slopes
from maskcli.meant.begins import first_position, media
from maskcli.untrusted import json_object, read_bytes

# A config is a page of text; a larger file is something else.
MAX_BYTES = 2**24
# No size or id has that many digits, and mask specs take none that has.
TOO_LARGE = 10**15
# Layers beyond this are no model; the number comes from a file that nobody has checked.
MAX_LAYERS = 10_000
# Ids of one kind: models end texts by a handful.
MAX_IDS = 1000
# BERT's relatives have causal variants: `is_decoder` says which one this is, whatever its architecture.
EITHER = frozenset(
    """bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta
    roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod""".split()
)
ENCODERS = frozenset(
    """albert convbert deberta deberta-v2 distilbert esm eurobert ibert jina_embeddings_v3 layoutlm layoutlmv3
    luke markuplm mobilebert modernbert mpnet mra nomic_bert nystromformer openai_privacy_filter squeezebert
    vit deit beit clip_text_model""".split()
)
# Their images are tokens like others: the text model is causal over them.
CAUSAL_OVER_IMAGES = frozenset(
    """aya_vision glm4v idefics2 idefics3 internvl llama4 llava llava_next llava_onevision mistral3 qwen2_vl
    qwen2_5_vl qwen3_vl qwen3_vl_moe smolvlm""".split()
)
# Called causal, yet some tokens see what lies behind them: permutations, prefixes, image blocks.
PECULIAR = frozenset(
    "xlnet xlm flaubert git prophetnet blt cpmant paligemma fuyu moshi emu3 hrm_text".split()
)
# Learned or sinusoidal positions that are added to the embeddings: where a text stands changes what it is.
ABSOLUTE = frozenset(
    """gpt2 gpt-sw3 gpt_neo gpt_bigcode openai-gpt imagegpt ctrl opt xglm biogpt bart mbart plbart marian
    pegasus blenderbot blenderbot-small led m2m_100 whisper trocr distilbert albert electra mpnet convbert
    squeezebert mobilebert layoutlm""".split()
)
ROTARY = """rope_theta rope_parameters rope_scaling rotary_dim rotary_pct rotary_emb_base
    partial_rotary_factor""".split()
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
DECODER_COUNTS = ("decoder_layers", "num_decoder_layers")
# Any of these says that some layer may see less than the whole text.
LOCAL = ("layer_types", "sliding_window", "local_attention", "attention_window")
# Who says what a config.json says that a user names.
OPTION = "--model"
# Every layer of these slides when `sliding_window` is set; others say so layer by layer, or not at all.
ALWAYS_SLIDING = frozenset("mistral mixtral phi3 phimoe starcoder2 ministral minimax".split())


class Vision(NamedTuple):
    """How a vision-language model lets tokens see one another: the spec of its blocks, and where they hold.

    `tensor` tells the blocks, by a `spec` of it; `ids` are the keys of the token ids that tell them as well.
    `in_all` layers, or only in those with a window; `cut` says whether the window cuts blocks.
    """

    tensor: str
    spec: str
    ids: tuple[str, ...] = ()
    in_all: bool = True
    cut: bool = True


class Blocks(NamedTuple):
    """Blocks as the specs of a model's layers say them, by a `tensor`, or `by_ids`, where ids tell them."""

    tensor: str
    spec: str
    by_ids: str | None


# By transformers 5: Gemma 3's and Gemma 4's create_masks_for_vision_model, PaliGemma's forward.
IMAGE = ("image_token_id", "image_token_index")
GEMMA4 = Vision("mm_token_type_ids", "spans:mm_token_type_ids=1,2", (*IMAGE, "video_token_id"), in_all=False)
VISION = {
    "gemma3": Vision("token_type_ids", "spans:token_type_ids=1", IMAGE),
    "gemma4": GEMMA4,
    "gemma4_unified": GEMMA4,
    # The prefix is image and prompt, which ids do not tell.
    "paligemma": Vision("token_type_ids", "same:token_type_ids=0", cut=False),
}
# Every so many layers one is global, in configurations that do not list them.
PATTERNS = {"gemma2": 2, "gemma3_text": 6}
# Llama 4's layers without rotary positions are the global ones.
LLAMA4_PATTERN = 4


@dataclass(frozen=True)
class Config:
    """What a config.json says. None: it does not say.

    `source` is who says it, in words. `layers` holds the mask spec of each layer's self-attention (None where
    it cannot be told), `spec` the one that all layers share at the least: `causal` for a decoder, `full` for
    an encoder. `blocks` are the tokens of a vision-language model that see one another, as its layers' specs
    say them, `alibi` what the scores of each head gain from key to key. `start_id` begins what a decoder
    reads, `first_position` is that of a text's first token, `media_ids` stand for pieces of images, sounds
    and films.
    """

    path: str
    source: str
    spec: str | None
    layers: tuple[str | None, ...]
    absolute: bool | None
    pad_id: int | None
    bos_ids: tuple[int, ...]
    eos_ids: tuple[int, ...]
    vocab_size: int | None
    blocks: Blocks | None = None
    alibi: tuple[float, ...] | None = None
    start_id: int | None = None
    first_position: int | None = None
    media_ids: tuple[int, ...] = ()

    @property
    def declared(self) -> bool:
        """Whether a user declared it; a running program may use its model for less than it could see."""
        return self.source == OPTION

    def told_by(self, holds: Callable[[str], bool]) -> Config:
        """The same for an input that `holds` tensors of some names: blocks by what tells them there.

        Where nothing does, masks with blocks are not known (None).
        """
        if self.blocks is None or holds(self.blocks.tensor):
            return self
        blocks = self.blocks.spec
        # A running program may leave the tensor out and see nothing but the past.
        by_ids = self.blocks.by_ids if self.declared and holds("input_ids") else None

        def told(spec: str | None) -> str | None:
            if spec is None or blocks not in spec:
                return spec
            return None if by_ids is None else spec.replace(blocks, by_ids)

        return replace(self, spec=told(self.spec), layers=tuple(map(told, self.layers)))

    @cached_property
    def _known(self) -> frozenset[str | None]:
        """The specs of all layers, each once."""
        return frozenset(self.layers)

    def mask(self, layer: int | None, name: str) -> str | None:
        """The spec of one layer; without a number, the one that the name speaks of or that all share."""
        if layer is not None:
            return self.layers[layer] if layer < len(self.layers) else None
        known = self._known
        if len(known) == 1:
            return next(iter(known))
        local = [spec for spec in known if spec is not None and spec != self.spec]
        word = re.search(r"sliding|local|window|chunk", name)
        if word and len(local) == 1:
            return local[0]
        return self.spec if re.search(r"full|global", name) and self.spec in known else None


def read_config(path: str) -> Config:
    """The config of a model folder or file; ids of a generation_config.json beside it count too."""
    file = os.path.join(path, "config.json") if os.path.isdir(path) else path
    whole = _json(file, path)
    beside = os.path.join(os.path.dirname(file), "generation_config.json")
    generation = _json(beside, path) if os.path.exists(beside) else {}
    return config_of(whole, generation, file, OPTION)


def config_of(whole: dict[str, Any], generation: dict[str, Any], path: str, source: str) -> Config:
    """What a model's configuration says, with that of its generation; `source` says whose it is."""
    inner = whole.get("text_config")
    said = {**whole, **inner} if isinstance(inner, dict) else whole
    vision = _vision(said, whole)
    spec = "causal" if vision else _spec(said, whole)
    layers = _layers(said, spec)
    if vision:
        spec, layers = _with_blocks("causal", vision), tuple(_with_blocks(each, vision) for each in layers)
    eos = _ids(said.get("eos_token_id")) + _ids(generation.get("eos_token_id"))
    pads = _ids(said.get("pad_token_id")) or _ids(generation.get("pad_token_id"))
    pad_id = pads[0] if pads else None
    starts = _ids(said.get("decoder_start_token_id")) or _ids(generation.get("decoder_start_token_id"))
    two_sided = said.get("is_encoder_decoder") is True
    return Config(
        path=path,
        source=source,
        spec=spec,
        layers=layers,
        absolute=_absolute(said),
        pad_id=pad_id,
        bos_ids=_ids(said.get("bos_token_id")),
        eos_ids=tuple(dict.fromkeys(eos)),
        vocab_size=_count(said.get("vocab_size")),
        blocks=_blocks(said, whole, vision),
        alibi=alibi_slopes(said),
        start_id=starts[0] if starts and two_sided else None,
        first_position=first_position(said, pad_id),
        media_ids=tuple(number for value in media({**said, **whole}) for number in _ids(value)),
    )


def _json(file: str, asked: str) -> dict[str, Any]:
    try:
        return json_object(read_bytes(file, MAX_BYTES, "pass a folder that holds a config.json"))
    except ValueError:
        raise MaskcliError(
            f"--model {asked!r}: {file!r} is no JSON object; pass a folder that holds a model's config.json"
        ) from None
    except MaskcliError as error:
        raise MaskcliError(f"--model {asked!r}: {error}") from None


def _ids(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(number for number in values[:MAX_IDS] if _is_whole(number))


def _count(value: Any) -> int | None:
    """A size; 0 says as little as nothing does."""
    return int(value) if _is_whole(value) and value > 0 else None


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < TOO_LARGE


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _spec(said: dict[str, Any], whole: dict[str, Any]) -> str | None:
    """`causal` or `full`: what all self-attention layers (of the decoder) have in common."""
    kind = str(said.get("model_type", ""))
    if str(whole.get("model_type", "")) in CAUSAL_OVER_IMAGES:
        return "causal"
    several_inputs = "vision_config" in whole or "audio_config" in whole
    if kind in PECULIAR or several_inputs or said.get("use_bidirectional_attention"):
        return None
    if said.get("is_causal") is False:
        return "full"
    if said.get("is_decoder") is True or said.get("is_encoder_decoder") is True:
        return "causal"
    if kind in ENCODERS or kind in EITHER:
        return "full"
    names = _list(said.get("architectures")) or _list(whole.get("architectures"))
    return _spec_by_name([str(name) for name in names], cached=said.get("use_cache") is True)


def _spec_by_name(architectures: list[str], cached: bool) -> str | None:
    """By what classes are called; `LlamaModel` names no task, but decoders keep a cache, encoders none.

    A configuration that was saved by itself names no class.
    """
    if not architectures:
        return "causal" if cached else None
    causal = ("ForCausalLM", "LMHeadModel", "Model") if cached else ("ForCausalLM", "LMHeadModel")
    if any(name.endswith(causal) for name in architectures):
        return "causal"
    return "full" if any(name.endswith("ForMaskedLM") for name in architectures) else None


def _vision(said: dict[str, Any], whole: dict[str, Any]) -> Vision | None:
    """How images see themselves, for a model whose masks are known and that has not switched them off."""
    kind = str(whole.get("model_type", ""))
    both_ways = said.get("use_bidirectional_attention")
    by_vision = both_ways == "vision"
    switched = {"gemma3": not both_ways, "gemma4": by_vision, "gemma4_unified": by_vision}.get(kind, True)
    return VISION.get(kind) if switched else None


def _with_blocks(spec: str | None, vision: Vision) -> str | None:
    """The mask of a layer, in which blocks see themselves as well."""
    window = re.fullmatch(r"sliding:(\d+)", spec or "")
    if spec is None or (window is None and not vision.in_all):
        return spec
    if window is not None and vision.cut:
        return f"(causal | {vision.spec}) & window:{int(window[1]) - 1},-1"
    return f"{spec} | {vision.spec}"


def _blocks(said: dict[str, Any], whole: dict[str, Any], vision: Vision | None) -> Blocks | None:
    """What tells the blocks of a model: its tensor, or the ids that the configuration gives its images."""
    if vision is None:
        return None
    given = {**said, **whole}
    ids = sorted({number for key in vision.ids for number in _ids(given.get(key))})
    by_ids = f"spans:input_ids={','.join(map(str, ids))}" if ids else None
    return Blocks(vision.tensor, vision.spec, by_ids)


def _layers(said: dict[str, Any], spec: str | None) -> tuple[str | None, ...]:
    """The mask of each layer, by `layer_types` or the older ways of saying the same."""
    two_sided = said.get("is_encoder_decoder") is True
    counts = (
        _count(said.get(key)) for key in ((*DECODER_COUNTS, *LAYER_COUNTS) if two_sided else LAYER_COUNTS)
    )
    count = min(next(filter(None, counts), 0), MAX_LAYERS)
    if two_sided:
        return (spec,) * count
    if spec != "causal":
        local = any(said.get(key) for key in LOCAL)
        return (None if local else spec,) * count

    types = said.get("layer_types")
    if isinstance(types, list):
        by_type = _specs_by_type(said)
        return tuple(by_type.get(str(layer)) for layer in types[:MAX_LAYERS])
    if said.get("model_type") == "llama4_text":
        return _llama4(said, count)
    usual = PATTERNS.get(str(said.get("model_type", "")))
    sliding = _specs_by_type(said)["sliding_attention"]
    if usual is not None and sliding is not None:
        return _alternating(said, sliding, usual, count)
    if said.get("model_type") == "gpt_neo":
        return _gpt_neo(said)
    return (_common_spec(said),) * count


def _alternating(said: dict[str, Any], sliding: str, usual: int, count: int) -> tuple[str | None, ...]:
    """Sliding layers, of which every so many is global."""
    every = _count(said.get("sliding_window_pattern")) or usual
    return tuple(sliding if (layer + 1) % every else "causal" for layer in range(count))


def _specs_by_type(said: dict[str, Any]) -> dict[str, str | None]:
    window, chunk = _count(said.get("sliding_window")), _count(said.get("attention_chunk_size"))
    return {
        "full_attention": "causal",
        "sliding_attention": f"sliding:{window}" if window else None,
        "chunked_attention": f"chunked:{chunk}" if chunk else None,
    }


def _common_spec(said: dict[str, Any]) -> str | None:
    """The mask of all layers of a decoder that does not list them; None where some may differ."""
    kind = str(said.get("model_type", ""))
    window, chunk = _count(said.get("sliding_window")), _count(said.get("attention_chunk_size"))
    local = {"local_attention", "attention_window_size"} & said.keys()
    if window is None and chunk is None and not local:
        return "causal"

    # Qwen writes a window down that its layers do not use unless they are told to.
    switched_off = said.get("use_sliding_window") is False
    never_on = kind.startswith(("qwen2", "qwen3")) and not said.get("use_sliding_window")
    if chunk is None and (switched_off or never_on):
        return "causal"
    return f"sliding:{window}" if window and kind in ALWAYS_SLIDING else None


def _llama4(said: dict[str, Any], count: int) -> tuple[str | None, ...]:
    """Chunks in the layers with rotary positions, of which `no_rope_layers` holds a 1."""
    every = _count(said.get("no_rope_layer_interval")) or LLAMA4_PATTERN
    rotary = _list(said.get("no_rope_layers")) or [(layer + 1) % every for layer in range(count)]
    chunked = _specs_by_type(said)["chunked_attention"] or "causal"
    return tuple(chunked if turned else "causal" for turned in rotary[:MAX_LAYERS])


def _gpt_neo(said: dict[str, Any]) -> tuple[str | None, ...]:
    """GPT-Neo writes [[["global", "local"], 12]] and a window beside it."""
    window = _count(said.get("window_size")) or 256
    layers: list[str | None] = []
    for group in _list(said.get("attention_types")):
        if not _is_layer_group(group):
            return ()
        names = [f"sliding:{window}" if name == "local" else "causal" for name in group[0]]
        room = MAX_LAYERS - len(layers)
        layers += (names * min(group[1], -(-room // max(len(names), 1))))[:room]
    return tuple(layers)


def _is_layer_group(group: Any) -> bool:
    """Whether this is [names of layers, how often they come]."""
    pair = isinstance(group, list) and len(group) == 2
    return pair and isinstance(group[0], list) and isinstance(group[1], int)


def _absolute(said: dict[str, Any]) -> bool | None:
    """Whether positions are added to the embeddings (True) or only turn or bias the scores (False)."""
    if said.get("alibi") is True or any(said.get(key) is not None for key in ROTARY):
        return False
    kind = str(said.get("model_type", ""))
    if kind in ABSOLUTE or (kind in EITHER and said.get("position_embedding_type", "absolute") == "absolute"):
        return True
    return None
