"""Which role each tensor plays: by its name, else by what its shape and values tell."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

from maskcli.errors import MaskcliError
from maskcli.tensors.by_values import (
    by_shape,
    goes_below_zero,
    is_float,
    is_integer,
    is_integer_valued,
    is_staircase,
)
from maskcli.tensors.limits import MAX_RANK
from maskcli.tensors.tensor import Tensor, split_target

Kind = Literal["self", "encoder", "cross", "decoder"]

UNREAD = "it cannot be read"


class _Fit(NamedTuple):
    """What a tensor has to be to play a role: a type, and a number of axes."""

    type: Callable[[Tensor], bool]
    axes: range
    expected: str


_MAPS = _Fit(is_float, range(2, MAX_RANK + 1), "floats of two or more axes")
_VECTORS = _Fit(is_float, range(3, MAX_RANK + 1), "floats of three or more axes")
_MASKS = _Fit(lambda tensor: True, range(1, MAX_RANK + 1), "one or more axes")
_INTEGERS = _Fit(is_integer, range(4), "integers of at most three axes")
_IDS = _Fit(lambda tensor: tensor.dtype != "bool", range(4), "numbers of at most three axes")
_PLACES = _Fit(
    lambda tensor: is_integer(tensor) or is_float(tensor), range(4), "numbers of at most three axes"
)
_FITS = {
    "weights": _MAPS,
    "scores": _MAPS,
    "bias": _MAPS,
    "mask": _MASKS,
    "padding_mask": _MASKS,
    "query": _VECTORS,
    "key": _VECTORS,
    "value": _VECTORS,
    "output": _VECTORS,
    "input_ids": _IDS,
    "labels": _Fit(is_integer_valued, range(4), "whole numbers of at most three axes"),
    "loss_mask": _IDS._replace(type=lambda tensor: True),
    "position_ids": _PLACES,
    "key_positions": _PLACES,
    "lengths": _INTEGERS,
    "block_tables": _INTEGERS,
    "block_size": _INTEGERS,
    "cu_seqlens": _INTEGERS._replace(expected="integers"),
    "token_type_ids": _INTEGERS,
    "segment_ids": _INTEGERS,
    "document_starts": _INTEGERS,
    "prompt_lengths": _INTEGERS,
}
ROLES = tuple(_FITS)

_WORDS = {
    "weights": "attentions attention attn attns att weights weight attn_weights attention_weights "
    "attn_weight attention_weight att_weights attn_output_weights attention_probs attn_probs probs "
    "attention_probabilities attn_probabilities p_attn attn_map attn_maps attention_map attention_maps "
    "attn_matrix attention_matrix attention_scores_softmax pattern softmax",
    "scores": "scores score attn_scores attention_scores attn_score attention_score attn_logits "
    "attention_logits masked_scores raw_scores pre_softmax qk qk_scores",
    "bias": "alibi alibi_bias position_bias positional_bias pos_bias rel_pos_bias relative_position_bias",
    "mask": "mask masks attn_mask attn_masks causal_mask attn_bias attention_bias local_mask sliding_mask "
    "window_mask sliding_window_mask full_mask combined_mask block_mask additive_mask bool_mask "
    "dense_mask mask_4d causal causal_attention_mask full_attention_mask sliding_attention_mask "
    "extended_attention_mask",
    "padding_mask": "attention_mask attention_masks key_padding_mask padding_mask padding_masks "
    "pad_mask pad_masks key_pad_mask input_mask attention_mask_2d kpm",
    "query": "q query queries query_states query_layer q_proj q_states",
    "key": "k key keys key_states key_layer k_proj k_states",
    "value": "v value values value_states value_layer v_proj v_states",
    "output": "attn_output attn_outputs attn_out attention_output context context_layer output out o z",
    "input_ids": "input_ids ids tokens token_ids inputs input_tokens source_ids target_ids sequences",
    "labels": "labels label targets target lm_labels shift_labels target_tokens",
    "loss_mask": "loss_mask loss_masks loss_weights targets_segmentation labels_mask label_mask "
    "assistant_mask assistant_masks assistant_tokens_mask completion_mask completion_masks "
    "completion_loss_mask response_mask response_masks",
    "position_ids": "position_ids positions position_id pos_ids input_pos cache_position inputs_position",
    "key_positions": "key_positions key_position_ids kv_positions kv_position_ids kv_pos key_pos k_pos",
    "lengths": "seq_lens seqlens seq_lengths sequence_lengths packed_seq_lengths packed_lengths "
    "document_lengths doc_lengths doc_lens context_lens context_lengths cache_seqlens cache_lens "
    "cache_lengths past_lengths kv_lens kv_lengths kv_seq_lens kv_seqlens seqused_k",
    "block_tables": "block_tables block_table page_table page_tables",
    "block_size": "block_size page_size",
    "cu_seqlens": "cu_seqlens cu_seqlens_q cu_seqlens_k cu_seqlens_kv cu_seq_lens cu_seq_lens_q "
    "cu_seq_lens_k cu_seq_len cu_seqlens_q_padded cu_seqlens_kv_padded cumulative_len query_start_loc "
    "seq_start_loc qo_indptr",
    "token_type_ids": "token_type_ids mm_token_type_ids token_types token_type_id",
    "segment_ids": "segment_ids segments seq_idx document_ids doc_ids documents sequence_ids segment_id "
    "document_id doc_id sequence_id inputs_segmentation",
    "document_starts": "seq_start_id seq_start_ids document_starts doc_starts",
    "prompt_lengths": "prompt_length prompt_lengths prompt_len prompt_lens",
}
_NAMES = {word: role for role, words in _WORDS.items() for word in words.split()}
# Names of weights that are also what attention modules are called.
_MODULES = ("attn", "attention", "att")
_NOT_ATTENTION = re.compile(
    r"(special_tokens|head|dropout|mlm|image|pixel|text|prompt)_masks?"
    r"|perm_mask|target_mapping|.*(_weight|_bias|_scale|_zero_point|_norm|layernorm|embeddings?|running_mean|running_var|inv_freq|lora_[ab])"
)

_STRUCTURE = re.compile(r"layers?|h|blocks?|resblocks|encoder|decoder|transformer|model")
_LAYERS = re.compile(r"layers?|h|blocks?|resblocks|attentions?")
_GROUP = re.compile(
    r"(left|right|before|after|good|bad|ref|reference|expected|actual|train|test|eval|valid|prefill|decode|baseline"
    r"|masked|unmasked|padded|unpadded|packed|chosen|rejected|positive|negative|anchor|run|step|batch|sample|item|case|example|seq)_?\d*"
)
_RUNS = re.compile(r"(run|step|batch|sample|item|case|example|seq)(s|es)?")
_NEUTRAL = re.compile(
    r"(model_)?(input|output)s?|encodings?|batch|data|results?|dump|tensors|state|args|kwargs"
)
_PREFIX = re.compile(
    r"(?:(?P<layer>(?:layers?|blocks?|l|h)_?\d+)|(?P<kind>encoder|decoder|cross|self|src|tgt|memory|enc|dec)"
    rf"|(?P<group>{_GROUP.pattern})|hook)_(?=.)"
)
_SUFFIX = re.compile(r"_?(?P<layer>\d+)$|_(?:layer|block|l|h)_?(?P<named>\d+)$")
_CROSS = re.compile(
    r"cross|(^|[._])(encoder_attn|encdec|enc_dec|encdecattention|memory|multihead_attn)([._]|$)"
)
_SIDES = re.compile(r"(?:^|[._])(encoder|decoder|enc|dec|src|tgt)(?=[._]|$)")


class Step(NamedTuple):
    """A step of generate: tokens of the prompt, those added behind it, and of the text that it has read."""

    prompt: int
    added: int
    text: int


@dataclass(frozen=True, eq=False)
class Roled:
    """A tensor and the part it plays.

    `role` is one of ROLES or None; `why` says in a few words how that is known. `group` is a prefix such as
    `left` or `step3` that sets tensors of one run apart, "" for none; `layer` the layer number in the name.
    `step` is where a step of generate stands, None elsewhere; `unfit` says why the tensor cannot be read as
    what it is; `origin` is the FILE[:TENSOR] it lies in, where that is not told by its name. `heads` is how
    many of them the first of a mask's three axes holds.
    """

    tensor: Tensor
    role: str | None
    why: str
    group: str
    kind: Kind
    layer: int | None
    step: Step | None = None
    unfit: str | None = None
    origin: str | None = None
    heads: int = 1


def role_of(tensor: Tensor) -> Roled:
    """The role of one tensor; only when name and shape do not tell are some of its rows read."""
    name = _taken_apart(tensor.name)
    role, why = _role(tensor, name) if tensor.refusal is None else (None, UNREAD)
    return Roled(tensor, role, why, name.group, name.kind, name.layer)


@lru_cache(maxsize=4096)
def role_by_name(name: str) -> tuple[str | None, Kind]:
    """The role that a name such as `decoder_input_ids` speaks of, None for none, and of which side."""
    apart = _taken_apart(name)
    return _NAMES.get(apart.leaf), apart.kind


@lru_cache(maxsize=4096)
def group_by_name(name: str) -> str:
    """The prefix of a name such as `chosen_labels` that sets tensors of one run apart, "" for none."""
    return _taken_apart(name).group


@lru_cache(maxsize=4096)
def layer_by_name(name: str) -> int | None:
    """The number of the layer that a name such as `layers.3.attn.query` tells, None for none."""
    return _taken_apart(name).layer


def parse_role(text: str) -> tuple[str, str, str | None]:
    """`ROLE=FILE[:TENSOR]` as role, path and tensor name."""
    role, equals, target = text.partition("=")
    role = role.strip().replace("-", "_")
    if not equals or not target or role not in ROLES:
        raise MaskcliError(
            f"the role {text!r} was not understood; expected ROLE=FILE[:TENSOR] "
            f"with one of {', '.join(ROLES)}"
        )
    return role, *split_target(target)


# Names


class _Name(NamedTuple):
    leaf: str
    parents: tuple[str, ...]
    group: str
    kind: Kind
    layer: int | None


def _taken_apart(name: str) -> _Name:
    """A name such as `step3.decoder.layers.4.self_attn.attn_weights` in its parts."""
    parts = [part for part in re.split(r"[./]+", name.lower().replace("-", "_")) if part]
    words = [at for at, part in enumerate(parts) if not part.isdigit()]
    if not words:
        return _Name("", (), ".".join(parts[:-1][:1]), "self", int(parts[-1][:9]) if parts else None)

    last = words[-1]
    parents, numbers = tuple(parts[:last]), parts[last + 1 :]
    leaf, inner_layers, inner_groups = _bared(parts[last])
    layers = [*inner_layers, *numbers[-1:], *_layers(parents)]
    groups = [*_run(parents), *numbers[:-1][:1], *inner_groups]
    layer = int(layers[-1][:9]) if layers else None
    return _Name(leaf, parents, ".".join(groups), _kind(".".join(parts[: last + 1])), layer)


def _layers(parents: tuple[str, ...]) -> list[str]:
    """The numbers that follow a word for layers."""
    return [number for word, number in pairwise(parents) if number.isdigit() and _LAYERS.fullmatch(word)]


def _run(parents: tuple[str, ...]) -> list[str]:
    """The first word with its number, where it stands for a run: it says so, or no module path follows."""
    if not parents or _NEUTRAL.fullmatch(parents[0]):
        return []
    first, second = parents[0], "".join(parents[1:2])
    told = _GROUP.fullmatch(first) or first.isdigit()
    if not told and any(_STRUCTURE.fullmatch(part) or "att" in part or "embed" in part for part in parents):
        return []
    return [f"{first}.{second}" if _RUNS.fullmatch(first) and second.isdigit() else first]


def _bared(leaf: str) -> tuple[str, list[str], list[str]]:
    """The last word without what stands before and behind its meaning; the layers and groups there.

    `left_layer3_attn_weights` is `attn_weights` of layer 3 in the group `left`.
    """
    layers, groups = list[str](), list[str]()
    while leaf not in _NAMES and (match := _PREFIX.match(leaf)):
        if match["layer"]:
            layers.append(re.sub(r"\D", "", match["layer"]))
        elif match["group"]:
            groups.append(match["group"])
        leaf = leaf[match.end() :]
    if leaf not in _NAMES and (match := _SUFFIX.search(leaf)):
        layers.append(match["layer"] or match["named"])
        leaf = leaf[: match.start()]
    return leaf, layers, groups


def _kind(name: str) -> Kind:
    if _CROSS.search(name):
        return "cross"
    sides = _SIDES.findall(name)
    if not sides:
        return "self"
    return "encoder" if sides[-1] in ("encoder", "enc", "src") else "decoder"


def _role(tensor: Tensor, name: _Name) -> tuple[str | None, str]:
    """The role and why; the name speaks first."""
    leaf = name.leaf
    if leaf == "bias" or (leaf == "weight" and name.parents):
        return _parameter(tensor, name)
    if leaf in _NAMES:
        return _named_role(tensor, name, _NAMES[leaf])
    if _NOT_ATTENTION.fullmatch(leaf):
        return None, f"the name {leaf!r} is not one of attention"
    return by_shape(tensor)


def _parameter(tensor: Tensor, name: _Name) -> tuple[str | None, str]:
    """What ends in `.weight` or `.bias` is a parameter, but for GPT-2's causal buffer `attn.bias`."""
    shape = tensor.shape
    buffer = len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    alone = not name.parents and len(shape) >= 2
    if name.leaf == "bias" and (buffer or alone):
        return "mask", "name and shape"
    return None, "a parameter of the model"


def _named_role(tensor: Tensor, name: _Name, role: str) -> tuple[str | None, str]:
    """The role that the name speaks of, where type and shape allow it."""
    fit = _FITS[role]
    if not fit.type(tensor) or len(tensor.shape) not in fit.axes:
        if role == "weights" and not is_float(tensor):
            return by_shape(tensor)
        what = f"{tensor.dtype} {list(tensor.shape)}"
        return None, f"the name says {role}, but that is {fit.expected}, not {what}"
    if role == "position_ids" and "embeddings" in name.parents:
        return None, "a table of the model, not an input"
    if fit is _MASKS:
        return _which_mask(tensor, name.leaf, role)
    if role == "scores" and by_shape(tensor)[0] == "weights":
        return "weights", "name and values"  # Keras's attention_scores are behind its softmax.
    if name.leaf in _MODULES and len(tensor.shape) in (2, 3) and goes_below_zero(tensor):
        return "output", "name and values"
    return role, "name"


def _which_mask(tensor: Tensor, leaf: str, role: str) -> tuple[str, str]:
    """A mask over (query, key) or over keys alone: the name says so, or the number of axes does."""
    shape = tensor.shape
    if role == "padding_mask" and "attention_mask" in leaf:
        one_row = all(size == 1 for size in shape[1:-1])
        over_keys = len(shape) <= 2 or (one_row and is_integer(tensor))
        return "padding_mask" if over_keys else "mask", "name and shape"
    if role == "mask" and (len(shape) == 1 or _is_oblong(tensor, leaf)):
        return "padding_mask", "name and shape"
    return role, "name"


def _is_oblong(tensor: Tensor, leaf: str) -> bool:
    """Whether a plain `mask` has another number of rows than of keys, and rows that are no causal mask's."""
    if leaf not in ("mask", "masks") or len(tensor.shape) != 2 or is_float(tensor):
        return False
    return tensor.shape[0] != tensor.shape[1] and not is_staircase(tensor)
