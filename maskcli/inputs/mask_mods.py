"""FILE.py:NAME in a spec: the user's own FlexAttention mask_mod, asked tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.inputs.user_code import in_words, load_function
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask

# A mask_mod is asked about every cell; 2^31 of them take tens of seconds.
MAX_CELLS = 2**31
# Cells asked about in one call.
TILE_CELLS = 2**22


def mask_mod(target: str, layout: Layout) -> Mask:
    """A mask_mod(b, h, q_idx, kv_idx) -> bool from the user's file, asked tile by tile.

    It is called with index arrays that broadcast to [rows, K]: torch tensors when its file does `import
    torch`, else numpy's.
    """
    path, _, name = target.rpartition(":")
    if not path:
        raise MaskcliError(f"{target!r} names no function; write FILE.py:NAME")
    if np.prod(layout.shape, dtype=object) > MAX_CELLS:
        raise MaskcliError(
            f"{target!r} would be asked about {int(np.prod(layout.shape, dtype=object)):,} cells, "
            "more than the limit of "
            f"{MAX_CELLS:,}; ask for fewer tokens"
        )
    function, module = load_function(path, name)
    torch = next(
        (value for value in vars(module).values() if getattr(value, "__name__", "") == "torch"), None
    )
    arange = torch.arange if torch is not None else np.arange
    return Mask.from_dense_rows(layout.shape, _tiles(function, target, layout, arange)).compact()


def _tiles(
    function: Callable[..., Any], target: str, layout: Layout, arrays: Callable[..., Any]
) -> Iterator[Array]:
    """The rows of every batch item and head in tiles; `arrays` is the arange of the function's library."""
    batch, heads, queries, keys = layout.shape
    step = max(1, TILE_CELLS // max(keys, 1))
    for b in range(batch):
        for h in range(heads):
            for start in range(0, queries, step):
                rows = min(step, queries - start)
                indices = (arrays(start, start + rows).reshape(-1, 1), arrays(keys).reshape(1, -1))
                item, head = (arrays(b, b + 1)[0], arrays(h, h + 1)[0])
                yield _tile(function, target, (item, head, *indices), (rows, keys))


def _tile(
    function: Callable[..., Any], target: str, indices: tuple[Any, ...], shape: tuple[int, int]
) -> Array:
    try:
        answer = np.asarray(function(*indices))
    except (Exception, SystemExit) as error:
        raise MaskcliError(
            f"{target!r} fails: {in_words(error)}; it is called as mask_mod(b, h, q_idx, kv_idx) "
            "with index arrays [rows, 1] and [1, K]"
        ) from error
    if answer.dtype != bool:
        raise MaskcliError(
            f"{target!r} returns {answer.dtype}, expected bool: True where the query may attend"
        )
    try:
        return np.broadcast_to(answer, shape)
    except ValueError:
        raise MaskcliError(
            f"{target!r} returns the shape {list(answer.shape)}, which does not broadcast to {list(shape)}"
        ) from None
