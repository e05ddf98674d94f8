"""Which role each tensor plays: by its name, else by its shape, else by a sample of its values."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tensors.tensor import Tensor, TensorFile, split_target

Kind = Literal["self", "encoder", "cross", "decoder"]

ROLES = (
    "weights",
    "scores",
    "mask",
    "padding_mask",
    "query",
    "key",
    "value",
    "output",
    "input_ids",
    "labels",
    "position_ids",
    "cu_seqlens",
    "token_type_ids",
    "segment_ids",
)

SAMPLE_ROWS = 32
"""Rows looked at when neither name nor shape tells; spread over the tensor."""
SAMPLE_ELEMENTS = 4 * 1024 * 1024
"""Elements looked at for that at most."""
SUM_TOLERANCE = 0.05
"""How far the sum of a row of weights may lie from 1: sixteen-bit types are off by up to 0.03 over thousands of keys."""
FILL = -1e3
"""A value at or below this is no score but the fill of an additive mask."""


@dataclass(frozen=True, eq=False)
class Roled:
    """A tensor and the part it plays.

    `role` is one of ROLES or None; `why` says in a few words how that is known. `group` is a prefix such as `left` or
    `step3` that sets tensors of one run apart, "" for none; `layer` the layer number in the name.
    """

    tensor: Tensor
    role: str | None
    why: str
    group: str
    kind: Kind
    layer: int | None


def roles_of(file: TensorFile) -> tuple[Roled, ...]:
    """Every tensor of a file with its role, in its order."""
    return tuple(role_of(tensor) for tensor in file.tensors)


def role_of(tensor: Tensor) -> Roled:
    """The role of one tensor; only when name and shape do not tell are some of its rows read."""
    place = _placed(tensor.name)
    role, why = _role(tensor, place)
    return Roled(tensor, role, why, place.group, place.kind, place.layer)


@lru_cache(maxsize=4096)
def role_by_name(name: str) -> tuple[str | None, Kind]:
    """The role that a name such as `decoder_input_ids` speaks of, and of which side; None when it speaks of none."""
    place = _placed(name)
    return _NAMES.get(place.leaf), place.kind


def parse_role(text: str) -> tuple[str, str, str | None]:
    """`ROLE=FILE[:TENSOR]` as role, path and tensor name."""
    role, equals, target = text.partition("=")
    role = role.strip().replace("-", "_")
    if not equals or not target or role not in ROLES:
        raise MaskcliError(
            f"The role {text!r} was not understood, expected ROLE=FILE[:TENSOR] with one of {', '.join(ROLES)}."
        )
    return role, *split_target(target)


# Names


class _Place(NamedTuple):
    leaf: str
    parents: tuple[str, ...]
    group: str
    kind: Kind
    layer: int | None


_STRUCTURE = re.compile(r"layers?|h|blocks?|resblocks|encoder|decoder|transformer|model")
_GROUP = re.compile(
    r"(left|right|before|after|good|bad|ref|reference|expected|actual|train|test|eval|valid|prefill|decode|baseline"
    r"|masked|unmasked|padded|unpadded|packed|run|step|batch|sample|item|case|example|seq)_?\d*"
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


def _placed(name: str) -> _Place:
    """A name such as `step3.decoder.layers.4.self_attn.attn_weights` taken apart."""
    parts = [part for part in re.split(r"[./]+", name.lower().replace("-", "_")) if part]
    words = [at for at, part in enumerate(parts) if not part.isdigit()]
    if not words:
        return _Place("", (), "", "self", None)
    last = words[-1]
    leaf, parents, trailing = parts[last], tuple(parts[:last]), parts[last + 1 :]
    layer = int(trailing[-1][:9]) if trailing else None
    groups = [trailing[0]] if len(trailing) > 1 else []
    for part, after in pairwise(parents):
        if after.isdigit() and re.fullmatch(r"layers?|h|blocks?|resblocks|attentions?", part):
            layer = int(after[:9])
    if parents and _is_group(parents):
        groups.insert(
            0, parents[0] + (f".{parents[1]}" if _RUNS.fullmatch(parents[0]) and _number(parents, 1) else "")
        )
    leaf, inner_layer, inner_group = _bared(leaf)
    groups += inner_group
    return _Place(
        leaf, parents, ".".join(groups), _kind(parts[: last + 1]), layer if layer is not None else inner_layer
    )


def _number(parts: tuple[str, ...], at: int) -> bool:
    return len(parts) > at and parts[at].isdigit()


def _is_group(parents: tuple[str, ...]) -> bool:
    """Whether the first word stands for a run: by what it says, or because no module path follows it."""
    first = parents[0]
    if _NEUTRAL.fullmatch(first):
        return False
    if _GROUP.fullmatch(first) or first.isdigit():
        return True
    return not any(_STRUCTURE.fullmatch(part) or "att" in part or "embed" in part for part in parents)


def _bared(leaf: str) -> tuple[str, int | None, list[str]]:
    """The last word without what stands before and after its meaning: `left_layer3_attn_weights` is `attn_weights`."""
    layer: int | None = None
    groups: list[str] = []
    while leaf not in _NAMES and (match := _PREFIX.match(leaf)):
        if match["layer"]:
            layer = int(re.sub(r"\D", "", match["layer"])[:9])
        elif match["group"]:
            groups.append(match["group"])
        leaf = leaf[match.end() :]
    if leaf not in _NAMES and (match := _SUFFIX.search(leaf)):
        layer = int((match["layer"] or match["named"])[:9])
        leaf = leaf[: match.start()]
    return leaf, layer, groups


def _kind(parts: list[str]) -> Kind:
    text = ".".join(parts)
    if re.search(
        r"cross|(^|[._])(encoder_attn|encdec|enc_dec|encdecattention|memory|multihead_attn)([._]|$)", text
    ):
        return "cross"
    found: list[Kind] = [
        "encoder" if match[1] in ("encoder", "enc", "src") else "decoder" for match in _SIDES.finditer(text)
    ]
    return found[-1] if found else "self"


_SIDES = re.compile(r"(?:^|[._])(encoder|decoder|enc|dec|src|tgt)(?=[._]|$)")


# Roles by name

_Check = Callable[[Tensor], bool]


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype.startswith(("float", "bfloat"))


def _is_integer(tensor: Tensor) -> bool:
    return tensor.dtype.startswith(("int", "uint"))


def _matrix(tensor: Tensor) -> bool:
    return _is_float(tensor) and 2 <= len(tensor.shape) <= 5


def _vectors(tensor: Tensor) -> bool:
    return _is_float(tensor) and 3 <= len(tensor.shape) <= 5


def _maskable(tensor: Tensor) -> bool:
    return 1 <= len(tensor.shape) <= 5


def _sequence(tensor: Tensor) -> bool:
    return _is_integer(tensor) and len(tensor.shape) <= 3


def _positions(tensor: Tensor) -> bool:
    return (_is_integer(tensor) or _is_float(tensor)) and len(tensor.shape) <= 3


_FITS: dict[str, tuple[_Check, str]] = {
    "weights": (_matrix, "floats of two or more axes"),
    "scores": (_matrix, "floats of two or more axes"),
    "mask": (_maskable, "one to five axes"),
    "padding_mask": (_maskable, "one to five axes"),
    "query": (_vectors, "floats of three or more axes"),
    "key": (_vectors, "floats of three or more axes"),
    "value": (_vectors, "floats of three or more axes"),
    "output": (_vectors, "floats of three or more axes"),
    "input_ids": (
        lambda tensor: len(tensor.shape) <= 3 and tensor.dtype != "bool",
        "numbers of at most three axes",
    ),
    "labels": (_sequence, "integers of at most three axes"),
    "position_ids": (_positions, "numbers of at most three axes"),
    "cu_seqlens": (_sequence, "integers"),
    "token_type_ids": (_sequence, "integers of at most three axes"),
    "segment_ids": (_sequence, "integers of at most three axes"),
}

_WORDS: dict[str, str] = {
    "weights": "attentions attention attn attns att weights weight attn_weights attention_weights attn_weight attention_weight "
    "att_weights attn_output_weights attention_probs attn_probs probs attention_probabilities attn_probabilities p_attn "
    "attn_map attn_maps attention_map attention_maps attn_matrix attention_matrix attention_scores_softmax pattern softmax",
    "scores": "scores score attn_scores attention_scores attn_score attention_score attn_logits attention_logits "
    "masked_scores raw_scores pre_softmax qk qk_scores",
    "mask": "mask masks attn_mask attn_masks causal_mask attn_bias attention_bias local_mask sliding_mask window_mask "
    "sliding_window_mask full_mask combined_mask block_mask additive_mask bool_mask dense_mask mask_4d causal "
    "causal_attention_mask full_attention_mask sliding_attention_mask extended_attention_mask",
    "padding_mask": "attention_mask attention_masks key_padding_mask padding_mask padding_masks pad_mask pad_masks "
    "key_pad_mask input_mask attention_mask_2d kpm",
    "query": "q query queries query_states query_layer q_proj q_states",
    "key": "k key keys key_states key_layer k_proj k_states",
    "value": "v value values value_states value_layer v_proj v_states",
    "output": "attn_output attn_outputs attn_out attention_output context context_layer output out o z",
    "input_ids": "input_ids ids tokens token_ids inputs input_tokens source_ids target_ids",
    "labels": "labels label targets target lm_labels",
    "position_ids": "position_ids positions position_id pos_ids input_pos cache_position",
    "cu_seqlens": "cu_seqlens cu_seqlens_q cu_seqlens_k cu_seqlens_kv cu_seq_lens cu_seq_lens_q cu_seq_lens_k cu_seq_len",
    "token_type_ids": "token_type_ids token_types token_type_id",
    "segment_ids": "segment_ids segments seq_idx document_ids doc_ids documents sequence_ids segment_id",
}
_NAMES: dict[str, str] = {word: role for role, words in _WORDS.items() for word in words.split()}
_MODULES = ("attn", "attention", "att")
"""Names of weights that are also what attention modules are called."""
_NOT_ATTENTION = re.compile(
    r"(special_tokens|loss|head|dropout|label|labels|mlm|image|pixel|text|prompt|completion|response|assistant)_masks?"
    r"|.*(_weight|_bias|_scale|_zero_point|_norm|layernorm|embeddings?|running_mean|running_var|inv_freq|lora_[ab])"
)


def _role(tensor: Tensor, place: _Place) -> tuple[str | None, str]:
    leaf = place.leaf
    if leaf == "bias" or (leaf == "weight" and place.parents):
        return _parameter(tensor, place)
    role = _NAMES.get(leaf)
    if role is None:
        if _NOT_ATTENTION.fullmatch(leaf):
            return None, f"the name {leaf!r} is not one of attention"
        return _by_shape(tensor)
    fits, expected = _FITS[role]
    if not fits(tensor):
        if role == "weights" and not _is_float(tensor):
            return _by_shape(tensor)
        return None, f"the name says {role}, but that is {expected}, not {tensor.dtype} {list(tensor.shape)}"
    if role == "position_ids" and "embeddings" in place.parents:
        return None, "a table of the model, not an input"
    if role in ("mask", "padding_mask"):
        return _which_mask(tensor, leaf, role)
    if leaf in _MODULES and len(tensor.shape) == 3 and _goes_below_zero(tensor):
        return "output", "name and values"
    return role, "name"


def _parameter(tensor: Tensor, place: _Place) -> tuple[str | None, str]:
    """What ends in `.weight` or `.bias` is a model's parameter, but for the causal buffer that GPT-2 keeps as `attn.bias`."""
    shape = tensor.shape
    if place.leaf == "bias" and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]:
        return "mask", "name and shape"
    if place.leaf == "bias" and not place.parents and len(shape) >= 2:
        return "mask", "name and shape"
    return None, "a parameter of the model"


def _which_mask(tensor: Tensor, leaf: str, role: str) -> tuple[str, str]:
    """A mask over (query, key) or over keys alone: the name says so, or the number of axes does."""
    shape = tensor.shape
    if role == "padding_mask" and "attention_mask" in leaf:
        over_keys = len(shape) <= 2 or all(size == 1 for size in shape[1:-1])
        if len(shape) == 2:
            return "padding_mask", "name and shape"
        return (
            ("padding_mask", "name and shape")
            if len(shape) == 1 or (over_keys and _is_integer(tensor))
            else ("mask", "name and shape")
        )
    if role == "mask" and len(shape) == 1:
        return "padding_mask", "name and shape"
    if (
        leaf in ("mask", "masks")
        and len(shape) == 2
        and shape[0] != shape[1]
        and not _is_float(tensor)
        and not _staircase(tensor)
    ):
        return "padding_mask", "name and shape"
    return role, "name"


def _goes_below_zero(tensor: Tensor) -> bool:
    """Whether most rows hold negative numbers: a hook that kept what a module returned, not its weights."""
    sample = _sample(tensor)
    return sample is not None and float((sample < 0).any(axis=1).mean()) > 0.5


# Roles by shape and values


def _by_shape(tensor: Tensor) -> tuple[str | None, str]:
    """The role that shape and type leave no doubt of, else the one that some rows of values speak for."""
    axes, shape = len(tensor.shape), tensor.shape
    if tensor.dtype == "bool" and axes >= 2 and 0 not in shape:
        square = shape[-1] == shape[-2] or _staircase(tensor)
        return ("mask" if axes > 2 or square else "padding_mask"), "shape"
    if axes < 2 or axes > 5 or 0 in shape or tensor.row_length < 2 or (_is_float(tensor) and axes < 3):
        return None, "neither its name nor its shape tells"
    sample = _sample(tensor)
    if sample is None:
        return None, "neither its name nor its shape tells"
    role = _by_values(sample, _is_float(tensor), axes)
    return role, "values" if role else "neither its name, its shape nor its values tell"


def _staircase(tensor: Tensor) -> bool:
    """Whether each row is the one before, shifted by one: a causal or sliding mask over more keys than queries."""
    if len(tensor.shape) != 2 or not 1 < tensor.row_length <= SAMPLE_ELEMENTS // SAMPLE_ROWS:
        return False
    rows = tensor.rows(0, min(tensor.row_count, SAMPLE_ROWS))
    return (
        len(rows) > 2 and bool((rows[1:, 1:] == rows[:-1, :-1]).all()) and bool((rows[1:] != rows[:-1]).any())
    )


def _sample(tensor: Tensor) -> Array | None:
    """Some rows, spread over the tensor; None where it cannot be read."""
    count = max(1, min(SAMPLE_ROWS, SAMPLE_ELEMENTS // tensor.row_length, tensor.row_count))
    if tensor.row_length > SAMPLE_ELEMENTS:
        return None
    starts = np.linspace(0, tensor.row_count - 1, count).astype(int)
    try:
        return np.concatenate([tensor.rows(int(low), int(low) + 1) for low in starts])
    except MaskcliError:
        return None


def _by_values(rows: Array, floating: bool, axes: int) -> str | None:
    """Weights: nothing below 0, most sums 1; a mask: 0 and 1, or 0 and a fill; scores: numbers among fills."""
    if not floating:
        binary = bool(((rows == 0) | (rows == 1)).all()) and bool(rows.any())
        return ("padding_mask" if axes == 2 else "mask") if binary else None
    rows = rows[~np.isnan(rows).any(axis=1)]
    if rows.size == 0:
        return None
    low = float(rows.min())
    if low <= FILL:
        additive = bool(((rows == 0) | (rows <= FILL)).all())
        return "mask" if additive else "scores"
    sums = rows.astype(np.float64).sum(axis=1)
    if low >= 0 and (np.abs(sums - 1) <= SUM_TOLERANCE).mean() > 0.5:
        return "weights"
    if bool(((rows == 0) | (rows == 1)).all()) and 0 < float(rows.mean()) < 1:
        return "mask"
    return None
