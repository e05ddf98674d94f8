"""FILE.py:NAME in a spec: the user's own FlexAttention mask_mod, asked tile by tile."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
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
    function, module = _load(path, name)
    torch = next(
        (value for value in vars(module).values() if getattr(value, "__name__", "") == "torch"), None
    )
    arange = torch.arange if torch is not None else np.arange
    return Mask.from_dense_rows(layout.shape, _tiles(function, target, layout, arange)).compact()


def _load(path: str, name: str) -> tuple[Callable[..., Any], ModuleType]:
    if not os.path.isfile(path):
        raise MaskcliError(f"there is no file {path!r}; write FILE.py:NAME with the path of a Python file")
    specification = importlib.util.spec_from_file_location("maskcli_user_mask", path)
    if specification is None or specification.loader is None:
        raise MaskcliError(f"{path!r} is no Python file; write FILE.py:NAME")
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise MaskcliError(f"{path!r} fails when it is loaded: {_words(error)}") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise MaskcliError(f"{path!r} has no function {name!r}; it has {', '.join(functions[:8]) or 'none'}")
    return function, module


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
            f"{target!r} fails: {_words(error)}; it is called as mask_mod(b, h, q_idx, kv_idx) "
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


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
