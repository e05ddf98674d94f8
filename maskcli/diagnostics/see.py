"""How a place is looked at: the command for a file, the expression for arrays in memory."""

from __future__ import annotations

import shlex

from maskcli.diagnostics.finding import Where
from maskcli.masks.runs import Runs
from maskcli.scene.scene import Scene
from maskcli.tensors import TensorFile


def see(scene: Scene, tensor: str, spot: Where, file: TensorFile, origin: str | None) -> str:
    """What shows a place of a tensor. Of tokens [B, L] the items are its rows and the tokens its keys."""
    if _is_flat(scene, tensor):
        items = ((spot.batch[0], spot.batch[0] + 1),) if spot.batch else None
        spot = Where(queries=items, keys=spot.keys or spot.queries)
    if not scene.file and tensor:
        return _expression(scene, tensor, spot, file)

    target = origin or (f"{scene.file}:{tensor}" if tensor else scene.file)
    options = {
        "--sample": _first(spot.batch),
        "--head": _first(spot.heads),
        "--rows": _range(spot.queries),
        "--keys": _range(spot.keys),
    }
    given = [f"{option} {value}" for option, value in options.items() if value]
    return " ".join(["maskcli inspect", shlex.quote(target), *given])


def in_its_rows(scene: Scene, tensor: str, spot: Where) -> Where:
    """A place in a tensor; of tokens, in a mask that has one row for all of them, in that row."""
    shape = next((roled.tensor.shape for roled in scene.tensors if roled.tensor.name == tensor), ())
    one_for_all = shape[-2:-1] == (1,) and not _is_flat(scene, tensor)
    behind = spot.queries is not None and spot.queries[-1][1] > 1
    return spot._replace(queries=None) if one_for_all and behind else spot


def _expression(scene: Scene, tensor: str, spot: Where, file: TensorFile) -> str:
    """A place of an array that `diagnose` was given in a dict: arrays['attentions.0'][0, :, 2:5]."""
    shapes = {each.name: each.shape for each in file.tensors}
    shape = next((roled.tensor.shape for roled in scene.tensors if roled.tensor.name == tensor), ())
    base, _, layer = tensor.rpartition(".")
    if tensor in shapes:
        array = f"arrays[{tensor!r}]"
    elif layer.isdecimal() and shapes.get(base, ())[1:] == shape:
        # A layer of a stack.
        array = f"arrays[{base!r}][{layer}]"
    else:
        return ""
    axes = [_first(spot.batch), _first(spot.heads), _range(spot.queries), _range(spot.keys)]
    index = [axis or ":" for axis in axes[max(len(axes) - len(shape), 0) :]]
    while index and index[-1] == ":":
        index.pop()
    return f"{array}[{', '.join(index)}]" if index else array


def _first(items: tuple[int, ...] | None) -> str:
    return str(items[0]) if items else ""


def _range(runs: Runs | None) -> str:
    return f"{runs[0][0]}:{runs[-1][1]}" if runs else ""


def _is_flat(scene: Scene, name: str) -> bool:
    """Whether a tensor is of tokens [B, L]."""
    flat = any(roled.tensor.name == name and len(roled.tensor.shape) < 3 for roled in scene.tensors)
    return flat and any(name in tokens.names.values() for tokens in scene.tokens)
