"""What tells an encoder, whose tokens see one another, from a decoder."""

from __future__ import annotations

import numpy as np

from maskcli.tensors import Roled, Tensor

# Who says that an encoder of text sees all of it.
READ = "the decoder, which reads the whole text that this encodes,"


def reads_whole(calls: list[tuple[Roled, ...]]) -> bool:
    """Whether cross-attention lets all queries see the same keys, as of a source that is not streamed."""
    masks = [each.tensor for tensors in calls for each in tensors if each.role == "mask"]
    return bool(calls) and all(map(_is_alike, masks))


def _is_alike(mask: Tensor) -> bool:
    """Whether a mask [.., Q, K] has the same row for all queries."""
    if mask.shape[-2] == 1:
        return True
    values = mask.read()
    return bool((values == values[..., :1, :]).all())


def is_causal(tensors: tuple[Roled, ...]) -> bool:
    """Whether no query of a square map weighs what is behind it."""
    weights = next((roled.tensor for roled in tensors if roled.role == "weights"), None)
    if weights is None or len(weights.shape) != 4:
        return False
    queries, keys = weights.shape[2:]
    behind = np.triu(np.ones((queries, keys), bool), 1)
    return queries == keys > 1 and not bool(np.nan_to_num(weights.read())[..., behind].any())
