"""Where a model's positions begin, and which ids stand for images, audio and video, by its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Positions of these begin behind the padding id, as fairseq's did (transformers'
# create_position_ids_from_input_ids); the ids of padding are as RoBERTa's where a config says none.
BEHIND_PADDING = frozenset(
    """camembert data2vec-text ibert layoutlmv3 lilt longformer luke markuplm mpnet roberta
    roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod""".split()
)
ROBERTA_PADDING = 1
# Encoders with a table of positions that begins at 0.
AT_ZERO = frozenset(
    """albert bert bert-generation convbert distilbert electra ernie layoutlm megatron-bert mobilebert
    nystromformer rembert roc_bert squeezebert""".split()
)
# How configurations call the id that stands for each piece of an image, a sound or a film.
MEDIA = tuple(f"{medium}_token_{word}" for medium in ("image", "video", "audio") for word in ("id", "index"))


def first_position(said: Mapping[str, Any], pad_id: int | None) -> int | None:
    """The position of a text's first token; None where it is not known.

    >>> first_position({"model_type": "roberta"}, 1), first_position({"model_type": "bert"}, 0)
    (2, 0)
    """
    kind = str(said.get("model_type", ""))
    if said.get("position_embedding_type", "absolute") != "absolute":
        return None
    if kind in BEHIND_PADDING:
        return (ROBERTA_PADDING if pad_id is None else pad_id) + 1
    return 0 if kind in AT_ZERO else None


def media(said: Mapping[str, Any]) -> tuple[object, ...]:
    """What a configuration gives as the ids of images, videos and sounds."""
    return tuple(said[key] for key in MEDIA if key in said)
