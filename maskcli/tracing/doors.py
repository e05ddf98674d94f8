"""Attention of other libraries: flash-attn, xformers, torch's varlen, and transformers' attention interface.

Their functions are wrapped when the program imports them. Where nothing inside of one can be seen, the
weights are asked of the function itself.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from maskcli.tracing import kvcache
from maskcli.tracing.calls import Call, Torch
from maskcli.tracing.identity import Kernel
from maskcli.tracing.imports import after_import

if TYPE_CHECKING:
    from maskcli.tracing.watch import Watch


class Door(NamedTuple):
    """A function of attention: where it is, and the axes of its queries, keys and values.

    `packed` says that several of these are one argument of that name, and which come before in it.
    """

    module: str
    function: str
    axes: str
    packed: str = ""


DOORS = (
    Door("flash_attn", "flash_attn_func", "blhd"),
    Door("flash_attn", "flash_attn_varlen_func", "lhd"),
    Door("flash_attn", "flash_attn_kvpacked_func", "blhd", "kv"),
    Door("flash_attn", "flash_attn_qkvpacked_func", "blhd", "qkv"),
    Door("flash_attn", "flash_attn_varlen_kvpacked_func", "lhd", "kv"),
    Door("flash_attn", "flash_attn_varlen_qkvpacked_func", "lhd", "qkv"),
    Door("flash_attn", kvcache.FUNCTION, "blhd"),
    Door("flash_attn_interface", "flash_attn_func", "blhd"),
    Door("flash_attn_interface", "flash_attn_varlen_func", "lhd"),
    Door("torch.nn.attention.varlen", "varlen_attn", "lhd"),
    Door("xformers.ops", "memory_efficient_attention", "blhd"),
)
_ROLES = (("query", "q"), ("key", "k"), ("value", "v"))


def open_doors(watch: Watch, undo: ExitStack) -> None:
    """Wrap the functions of libraries, those that are imported and those that will be."""
    for name in dict.fromkeys(door.module for door in DOORS):
        doors = [door for door in DOORS if door.module == name]
        undo.callback(after_import(name, functools.partial(_wrap, watch, undo, doors)))
    interface = functools.partial(_wrap_interface, watch, undo)
    undo.callback(after_import("transformers.modeling_utils", interface))


def _wrap(watch: Watch, undo: ExitStack, doors: list[Door]) -> None:
    for door in doors:
        original = getattr(sys.modules[door.module], door.function, None)
        if original is None:
            continue
        reader = _read_cache if door.function == kvcache.FUNCTION else _read
        read = functools.partial(reader, door, original, inspect.signature(original))
        wrapped = through(watch, original, read)
        for module in holding(door.function, original):
            setattr(module, door.function, wrapped)
            undo.callback(setattr, module, door.function, original)


def holding(name: str, function: Any) -> Iterator[ModuleType]:
    """The modules in which a function has its name: its own, and those that imported it."""
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is function:
            yield module


def through(
    watch: Watch, original: Callable[..., Any], read: Callable[..., Call | None]
) -> Callable[..., Any]:
    """A function as it is, read afterwards unless what it called was seen."""

    @functools.wraps(original)
    def door(*args: Any, **kwargs: Any) -> Any:
        watched = watch.thread()
        if watched.is_idle():
            return original(*args, **kwargs)
        before = watched.attentions
        result = original(*args, **kwargs)
        if watched.attentions == before:
            watched.through(read, result, args, kwargs)
        return result

    return door


def _read(
    door: Door,
    original: Callable[..., Any],
    signature: inspect.Signature,
    _: Any,
    result: Any,
    *args: Any,
    **kwargs: Any,
) -> Call:
    bound = signature.bind(*args, **kwargs)
    given = bound.arguments
    named = {role: name for role, short in _ROLES for name in (role, short) if name in given}
    if door.packed:
        name = next(name for name in given if name.endswith(door.packed))
        whole = given[name]
        axis = whole.ndim - 3
        parts = dict(zip(("query", "key", "value")[-len(door.packed) :], whole.unbind(axis), strict=True))
    else:
        parts = {}
    tensors: dict[str, Torch] = {role: parts.get(role, given.get(named.get(role, ""))) for role, _ in _ROLES}

    def again(value: Torch) -> Torch:
        import torch

        shaped = _as_given(value, tensors["value"].ndim)
        changed = dict(given)
        if door.packed:
            changed[name] = torch.stack([*list(parts.values())[:-1], shaped], axis)
        else:
            changed[named["value"]] = shaped
        once = inspect.BoundArguments(signature, type(given)(changed))
        return _as_usual(_first(original(*once.args, **once.kwargs)))

    bias = given.get("attn_bias")
    dropped = bool(given.get("dropout_p") or given.get("p"))
    return _call(door.function, tensors, _first(result), again, bias, dropped)


def _read_cache(
    _: Door,
    original: Callable[..., Any],
    signature: inspect.Signature,
    __: Any,
    result: Any,
    *args: Any,
    **kwargs: Any,
) -> Call:
    return kvcache.of_kvcache(original, signature.bind(*args, **kwargs).arguments, _first(result))


def _call(
    how: str,
    tensors: dict[str, Torch],
    output: Torch,
    again: Callable[[Torch], Torch],
    bias: Any,
    dropped: bool,
) -> Call:
    operands = {role: _as_usual(tensor.detach()) for role, tensor in tensors.items()}
    operands["output"] = _as_usual(output.detach())
    query, key = operands["query"], operands["key"]
    shape = (*query.shape[:3], key.shape[2])

    def masks() -> dict[str, Any]:
        if bias is None:
            return {}
        if hasattr(bias, "materialize"):
            return {"attn_bias": bias.materialize(shape)}
        return {"attn_bias": bias.detach()} if getattr(bias, "ndim", 0) == 4 else {}

    weights = Kernel(again, operands["value"], shape, query.dtype)
    return Call(how, weights, operands, masks, {**tensors, "output": output}, dropped)


def _as_usual(tensor: Torch) -> Torch:
    """[B, H, L, D] of [B, L, H, D] or of [L, H, D]."""
    return (tensor[None] if tensor.ndim == 3 else tensor).transpose(1, 2)


def _as_given(tensor: Torch, axes: int) -> Torch:
    """[B, L, H, D], or [L, H, D] where there were three axes."""
    turned = tensor.transpose(1, 2).contiguous()
    return turned[0] if axes == 3 else turned


def _first(result: Any) -> Torch:
    return result[0] if isinstance(result, tuple | list) else result


# The attention interface of transformers.


def _wrap_interface(watch: Watch, undo: ExitStack) -> None:
    kind = getattr(sys.modules["transformers.modeling_utils"], "AttentionInterface", None)
    if kind is None:
        return
    original, inherited = kind.__getitem__, "__getitem__" not in vars(kind)

    @functools.lru_cache(maxsize=64)
    def wrapped(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        return through(watch, function, functools.partial(_read_interface, function, name))

    @functools.wraps(original)
    def get(interface: Any, name: str) -> Any:
        function = original(interface, name)
        # What is seen inside in any case needs no wrapper.
        return function if name == "sdpa" else wrapped(function, name)

    kind.__getitem__ = get
    if inherited:
        undo.callback(delattr, kind, "__getitem__")
    else:
        undo.callback(setattr, kind, "__getitem__", original)


def _read_interface(
    function: Callable[..., Any],
    name: str,
    _: Any,
    result: Any,
    module: Any,
    query: Torch,
    key: Torch,
    value: Torch,
    attention_mask: Any = None,
    *more: Any,
    dropout: float = 0.0,
    **named: Any,
) -> Call:
    """An attention function of the interface: query, key and value [B, H, L, D], output [B, L, H, D]."""

    def again(other: Torch) -> Torch:
        out = _first(function(module, query, key, other, attention_mask, *more, dropout=dropout, **named))
        return out.transpose(1, 2)

    output = _first(result)
    operands = {"query": query.detach(), "key": key.detach(), "value": value.detach()}
    operands["output"] = output.detach().transpose(1, 2)
    shape = (*query.shape[:3], key.shape[2])

    def masks() -> dict[str, Any]:
        whole = getattr(attention_mask, "ndim", 0) == 4 and attention_mask.shape[-1] == shape[3]
        return {"attn_mask": attention_mask.detach()} if whole else {}

    weights = Kernel(again, operands["value"], shape, query.dtype)
    graph = {"query": query, "key": key, "value": value, "output": output}
    return Call(name, weights, operands, masks, graph, bool(dropout))
