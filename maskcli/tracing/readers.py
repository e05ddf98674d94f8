"""What is done about torch's functions: attention is read, scores are followed, ids and labels are told."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from maskcli.tracing.asked import (
    IGNORED,
    Asks,
    by_einsum,
    by_gather,
    by_index,
    by_place,
    by_take,
    by_weighing,
)
from maskcli.tracing.calls import Call
from maskcli.tracing.flex import of_flex
from maskcli.tracing.fused import of_encoder_layer, of_multi_head
from maskcli.tracing.parts import seen_in
from maskcli.tracing.sdpa import of_operator, of_sdpa
from maskcli.tracing.trails import BEGINNINGS

if TYPE_CHECKING:
    from maskcli.tracing.watch import Watched


class Instead(NamedTuple):
    """What is called in place of a function that the program put there, and that has run already."""

    func: Callable[..., Any]


# Makes a call that the program made, and looks at it.
Reader = Callable[["Watched", Any, tuple[Any, ...], dict[str, Any]], Any]
# How calls of torch's attention functions are read, from the modules at work, the result and the arguments.
ATTENTION: dict[str, Callable[..., Call | None]] = {
    "scaled_dot_product_attention": of_sdpa,
    "_transformer_encoder_layer_fwd": of_encoder_layer,
    "_native_multi_head_attention": of_multi_head,
}
# What torch's losses call their arguments, in order.
_OF_LOSSES = ("self", "target", "weight", "reduction", "ignore_index")
# What takes the labels out of logits where a loss is written by hand.
_ASKED: dict[str, Asks] = {
    "gather": by_gather,
    "take_along_dim": by_take,
    "__getitem__": by_index,
    "index_select": by_place,
    "take": by_place,
    "einsum": by_einsum,
    "mul": by_weighing,
    "multiply": by_weighing,
}


def readers() -> dict[Any, Reader | Instead | None]:
    """The functions that something is done about."""
    import torch

    table: dict[Any, Reader | Instead | None] = {}
    # Those written in C alone: torch's Python functions come down to them.
    rooms = (torch._C._VariableFunctions, torch._C.TensorBase, torch._C._nn, torch.special)
    for name, room in product(BEGINNINGS, rooms):
        if hasattr(room, name):
            table[getattr(room, name)] = _followed
    for (name, read), room in product(ATTENTION.items(), rooms):
        if hasattr(room, name):
            table[getattr(room, name)] = _attention(read)
    table[torch.embedding] = _told(_looked_up)
    table[torch.kl_div] = _told(_likened)
    for name in ("cross_entropy_loss", "nll_loss_nd"):
        table[getattr(torch._C._nn, name)] = _compared
    for (name, asks), room in product(_ASKED.items(), (torch._C._VariableFunctions, torch._C.TensorBase)):
        if hasattr(room, name):
            table[getattr(room, name)] = _asked(asks, begins=name in BEGINNINGS)
    return table


def late_reader(func: Any) -> Reader | Instead | None:
    """What is done about a function that is not known by itself: operators, and FlexAttention."""
    if type(func) is FunctionType:
        return _put_there(func)
    if type(func).__name__ == "FlexAttentionHOP":
        return _alone(_attention(of_flex))
    if type(func).__name__ in ("OpOverload", "OpOverloadPacket"):
        name = str(func)
        if "._scaled_dot_product" in name:
            return _attention(lambda modules, *rest, **named: of_operator(modules, func, *rest, **named))
    return None


def _put_there(func: FunctionType) -> Instead | None:
    """torch takes a method of tensors by its name: where the program's own stands there, that led here."""
    import torch

    if func.__module__.partition(".")[0] == "torch":
        return None
    names = (name for name, held in vars(torch.Tensor).items() if held is func)
    methods = (getattr(torch._C.TensorBase, name, None) for name in names)
    return next((Instead(method) for method in methods if method is not None), None)


def _followed(watched: Watched, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Scores may begin here, or end."""
    result = func(*args, **kwargs)
    watched.follow(func, args, kwargs, result)
    return result


def _attention(read: Callable[..., Call | None]) -> Reader:
    """Read what an attention function returned."""

    def reader(watched: Watched, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        read_attention(watched, read, result, args, kwargs)
        return result

    return reader


def read_attention(
    watched: Watched,
    read: Callable[..., Call | None],
    result: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    called: bool = False,
) -> None:
    """An attention function has returned."""
    try:
        call = read(watched.modules, result, *args, **kwargs)
        if call is not None:
            watched.attention(call, called)
    except Exception as error:
        watched.watcher.trouble(error)


def _alone(read: Reader) -> Reader:
    """A function that may call modules while the mode is not in its place."""

    def reader(watched: Watched, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        watched.passing = True
        try:
            return read(watched, func, args, kwargs)
        finally:
            watched.passing = False

    return reader


def _told(tell: Callable[..., None]) -> Reader:
    """A function whose arguments tell of tokens; they are looked at before it fails."""

    def reader(watched: Watched, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen_in(watched.trails.stack)
        try:
            tell(watched, *args, **kwargs)
        except Exception as error:
            watched.watcher.trouble(error)
        result = func(*args, **kwargs)
        if watched.trails:
            watched.follow(func, args, kwargs, result)
        return result

    return reader


def _asked(asks: Asks, begins: bool) -> Reader:
    """A function that may take the labels of a loss out of logits; `begins` that scores may begin there."""

    def reader(watched: Watched, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        vocabularies = watched.modules.step.facts.vocabularies
        try:
            labels = asks(vocabularies, *args, **kwargs) if vocabularies else None
            if labels is not None:
                seen_in(watched.trails.stack)
                watched.modules.asked(labels, result)
        except Exception as error:
            watched.watcher.trouble(error)
        if begins or watched.trails:
            watched.follow(func, args, kwargs, result)
        return result

    return reader


def _looked_up(
    watched: Watched, weight: Any, indices: Any, padding_idx: int = -1, *_: Any, **__: Any
) -> None:
    """An embedding; -1 is no padding."""
    watched.modules.looked_up(indices, weight, padding_idx if padding_idx >= 0 else None)


def _compared(watched: Watched, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A loss: what the step's calls were for is known now, even when it fails."""
    seen_in(watched.trails.stack)
    given = {**dict(zip(_OF_LOSSES, args, strict=False)), **kwargs}
    labels = None
    try:
        reduction, ignored = given.get("reduction", 1), given.get("ignore_index", IGNORED)
        labels = watched.modules.compared(given["target"], reduction, ignored)
        watched.settle()
    except Exception as error:
        watched.watcher.trouble(error)
    result = func(*args, **kwargs)
    if labels is not None:
        _goes_on(watched, labels, result)
    if watched.trails:
        watched.follow(func, args, kwargs, result)
    return result


def _goes_on(watched: Watched, labels: Any, losses: Any) -> None:
    try:
        watched.modules.goes_on(labels, losses)
    except Exception as error:
        watched.watcher.trouble(error)


def _likened(watched: Watched, *args: Any, **kwargs: Any) -> None:
    watched.modules.likened(*args, **kwargs)
    watched.settle()
