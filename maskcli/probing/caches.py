"""Caches of keys and values, as transformers builds them: told apart, copied, and their layers."""

from __future__ import annotations

import copy
from typing import Any


def is_cache(value: Any) -> bool:
    """Whether this is a cache of keys and values, as transformers names its classes."""
    return type(value).__name__.endswith("Cache")


def copy_cache(cache: Any, layer: int | None = None) -> Any:
    """A cache that may be written to while the other stays what it is.

    A call that is known to write to one `layer` needs a copy of no other's tensors. (Copies by `deepcopy`
    took half of the time of a probe.)
    """
    if not hasattr(cache, "layers"):
        return copy.deepcopy(cache)
    new = copy.copy(cache)
    new.layers = [
        _copy_layer(each) if layer is None or at == layer else copy.copy(each)
        for at, each in enumerate(cache.layers)
    ]
    return new


def _copy_layer(layer: Any) -> Any:
    import torch

    new = copy.copy(layer)
    for name, value in vars(layer).items():
        held = value.clone() if torch.is_tensor(value) else copy.deepcopy(value)
        setattr(new, name, held)
    return new


def share_layers(new: Any, old: Any) -> Any:
    """The new copy of a cache, with the tensors of an older one where they are equal."""
    import torch

    if not hasattr(new, "layers") or not hasattr(old, "layers") or len(new.layers) != len(old.layers):
        return new
    for mine, before in zip(new.layers, old.layers, strict=True):
        for name, value in vars(before).items():
            own = getattr(mine, name, None)
            if torch.is_tensor(value) and torch.is_tensor(own) and torch.equal(own, value):
                setattr(mine, name, value)
    return new


def cache_layers(cache: Any) -> list[Any]:
    """The layers of a cache that hold keys and values [B, H, slots, D]; None for those that do not."""
    own = getattr(cache, "self_attention_cache", cache)
    return [layer if _holds_keys(layer) else None for layer in getattr(own, "layers", [])]


def _holds_keys(layer: Any) -> bool:
    keys = getattr(layer, "keys", None)
    return keys is not None and keys.dim() == 4 and keys.numel() > 0
