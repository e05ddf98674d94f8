"""Which tokens are real, as --ids or --lengths tell."""

from __future__ import annotations

import numpy as np

from maskcli.arrays import Real
from maskcli.errors import MaskcliError


def real_tokens(
    ids: str | None, lengths: str | None, side: str | None, pad_id: int | None, eos_ids: tuple[int, ...] = ()
) -> Real | None:
    """Real tokens, bool [B, K]; None when neither tells."""
    from maskcli.padding import edge_padding
    from maskcli.text import batch_from_ids, batch_from_lengths

    if ids is not None and lengths is not None:
        raise MaskcliError("--ids and --lengths both tell the padding; pass one of them")
    if side is not None and ids is None and lengths is None:
        raise MaskcliError("--padding-side says where lengths leave the padding; pass --lengths 5,3 too")
    if lengths is not None:
        return batch_from_lengths(lengths, padding_side=side).attention_mask
    if ids is None:
        return None
    if pad_id is None:
        raise MaskcliError("--ids tell the padding by the id that pads them; pass --pad-id too, or --lengths")
    batch = batch_from_ids(ids, pad_id, padding_side=side)
    assert batch.ids is not None
    return edge_padding(batch.ids, pad_id, ends=eos_ids)


def real_keys(lengths: str | None, side: str | None, past: int) -> Real | None:
    """Real keys, bool [B, K], of samples of these lengths behind `past` keys, which are real."""
    real = real_tokens(None, lengths, side, None)
    return None if real is None else np.pad(real, [(0, 0), (past, 0)], constant_values=True)
