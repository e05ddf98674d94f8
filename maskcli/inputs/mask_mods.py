"""The user's own functions as masks: a FlexAttention mask_mod, asked tile by tile, or one of the length."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.inputs.user_code import functions_in, in_words, load_function
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.scene.saved_mask import read_mask
from maskcli.tensors import from_array

# A mask_mod is asked about every cell; 2^31 of them take tens of seconds.
MAX_CELLS = 2**31
# Cells asked about in one call.
TILE_CELLS = 2**22


def mask_in_file(target: str, layout: Layout, convention: str | None) -> Mask:
    """The mask that a function FILE.py:NAME makes."""
    path, _, name = target.rpartition(":")
    if not path:
        defined = functions_in(target)
        which = " or ".join(f"{target}:{each}" for each in defined) or "FILE.py:NAME"
        raise MaskcliError(f"{target!r} names no function; write {which}")
    function, module = load_function(path, name)
    return mask_by(function, vars(module), target, layout, convention)


def mask_by(
    function: Callable[..., Any], names: dict[str, Any], target: str, layout: Layout, convention: str | None
) -> Mask:
    """The mask that a function makes; `names` are those of its file, and errors call it `target`.

    A function of one length returns [N, N], which is read in `convention` as a saved mask is. Any other is a
    mask_mod(b, h, q_idx, kv_idx) -> bool: it is called with index arrays that broadcast to [rows, K], torch
    tensors when its file does `import torch`, else numpy's.
    """
    if np.prod(layout.shape, dtype=object) > MAX_CELLS:
        raise MaskcliError(
            f"{target!r} would be asked about {int(np.prod(layout.shape, dtype=object)):,} cells, "
            "more than the limit of "
            f"{MAX_CELLS:,}; ask for fewer tokens"
        )
    if _takes_a_length(function):
        return _of_length(function, target, layout, convention)
    torch = next((value for value in names.values() if getattr(value, "__name__", "") == "torch"), None)
    arange = torch.arange if torch is not None else np.arange
    return Mask.from_dense_rows(layout.shape, _tiles(function, target, layout, arange)).compact()


def _takes_a_length(function: Callable[..., Any]) -> bool:
    """Whether a function is called with one argument, as create_causal_mask(N) is."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [each for each in parameters if each.default is each.empty and each.kind in by_place]
    return len(needed) == 1 and not any(each.kind == each.VAR_POSITIONAL for each in parameters)


def _of_length(function: Callable[..., Any], target: str, layout: Layout, convention: str | None) -> Mask:
    """What a function of one length returns, [N, N] for N keys; queries behind a past are its last rows."""
    keys, past = layout.keys, layout.past
    try:
        answer = from_array("mask", function(keys))
    except (Exception, SystemExit) as error:
        raise MaskcliError(
            f"{target!r} fails: {in_words(error)}; it is called with the length, {keys}"
        ) from error
    if answer.shape[-2:] != (keys, keys) or any(size != 1 for size in answer.shape[:-2]):
        raise MaskcliError(
            f"{target!r} returns the shape {list(answer.shape)} for the length {keys}, "
            f"expected {[keys, keys]}"
        )
    whole = read_mask(answer, (1, 1, keys, keys), convention, None, None).keep
    rows = whole.dense(0, 0, (past, past + layout.queries))
    mask = Mask.from_dense(np.asarray(rows)[None, None]).broadcast_to(layout.shape)
    if mask is None:
        raise MaskcliError(
            f"{target!r} returns the queries of {keys} keys, but {layout.queries} queries behind {past} keys "
            "are asked for; write a mask_mod(b, h, q_idx, kv_idx)"
        )
    return mask


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
