"""What a file by torch.save says of its tensors, read without torch and without running anything.

torch.save writes dicts, lists and tuples of tensors with few of pickle's opcodes. They are followed here one by one;
the first that is none of them leaves the file to torch's own loader, which knows more and takes two seconds to start.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from maskcli.tensors.dtypes import DTYPES
from maskcli.tensors.limits import MAX_ARGUMENTS, MAX_OPCODES

# The element types of torch's typed storages.
STORAGES = {f"{dtype.storage}Storage": dtype.name for dtype in DTYPES.values() if dtype.storage}


class UnfamiliarError(Exception):
    """A pickle that says more than this module follows."""


class SavedTensor(NamedTuple):
    """A tensor as the pickle describes it: which storage it looks at, and from where; sizes, strides in elements."""

    storage: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Storage(NamedTuple):
    key: str
    dtype: str | None


@dataclass
class _State:
    """Where the pickle stands: a stack of lists, one for every mark that is open, and what it asked to remember."""

    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)


def described(pickled: bytes) -> Any:
    """The saved object as dicts, lists and tuples, with a SavedTensor for every tensor and torch.device as None.

    Raises UnfamiliarError for anything else, a damaged pickle included.
    """
    try:
        return _followed(pickled)
    except UnfamiliarError:
        raise
    except Exception as error:
        # Whatever is wrong with it, torch's loader has to find it too, and says so.
        raise UnfamiliarError from error


def _followed(pickled: bytes) -> Any:
    """The object on top when the pickle stops."""
    state = _State()
    for opcode, argument, _ in islice(pickletools.genops(pickled), MAX_OPCODES):
        if opcode.name == "STOP":
            return state.stack.pop()
        step = OPCODES.get(opcode.name)
        if step is None:
            raise UnfamiliarError(opcode.name)
        step(state, argument)
    raise UnfamiliarError


# Opcodes


def _push(state: _State, argument: Any) -> None:
    state.stack.append(argument)


def _pushing(value: Callable[[], Any]) -> Callable[[_State, Any], None]:
    return lambda state, _: state.stack.append(value())


def _remember(state: _State, argument: Any) -> None:
    state.memo[argument] = state.stack[-1]


def _recall(state: _State, argument: Any) -> None:
    state.stack.append(state.memo[argument])


def _open_mark(state: _State, argument: Any) -> None:
    state.below.append(state.stack)
    state.stack = []


def _since_mark(state: _State) -> list[Any]:
    """What was pushed since the last mark, taken from the stack."""
    items = state.stack
    state.stack = state.below.pop()
    return items


def _last(count: int) -> Callable[[_State], list[Any]]:
    """The same of so many objects."""
    return lambda state: [state.stack.pop() for _ in range(count)][::-1]


def _tuple_of(taken: Callable[[_State], list[Any]]) -> Callable[[_State, Any], None]:
    def step(state: _State, argument: Any) -> None:
        items = tuple(taken(state))
        state.stack.append(items)

    return step


def _extending(taken: Callable[[_State], list[Any]]) -> Callable[[_State, Any], None]:
    def step(state: _State, argument: Any) -> None:
        items = taken(state)
        state.stack[-1].extend(items)

    return step


def _setting(taken: Callable[[_State], list[Any]]) -> Callable[[_State, Any], None]:
    """Keys and values in turn; a key of tuples could take for ever to hash."""

    def step(state: _State, argument: Any) -> None:
        items = taken(state)
        keys = items[::2]
        if not all(isinstance(key, str | int | float) for key in keys):
            raise UnfamiliarError
        state.stack[-1].update(zip(keys, items[1::2], strict=True))

    return step


def _build(state: _State, argument: Any) -> None:
    """What a state_dict says of its modules' versions."""
    if not (isinstance(state.stack.pop(), dict) and isinstance(state.stack[-1], dict)):
        raise UnfamiliarError


def _global(state: _State, name: str) -> None:
    """What stands for a name of the pickle: a type's name, or a function of this module."""
    module, _, what = name.partition(" ")
    if module == "torch" and (what in STORAGES or what in DTYPES):
        state.stack.append(STORAGES.get(what, what))
    elif name in FUNCTIONS:
        state.stack.append(FUNCTIONS[name])
    else:
        raise UnfamiliarError(name)


def _reduce(state: _State, argument: Any) -> None:
    arguments = state.stack.pop()
    state.stack.append(_called(state.stack.pop(), arguments))


def _persistent(state: _State, argument: Any) -> None:
    state.stack.append(_called(_storage, state.stack.pop()))


def _called(function: Any, arguments: Any) -> Any:
    """What a function of FUNCTIONS gives; nothing else that a pickle can make here is one."""
    if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
        raise UnfamiliarError
    return function(*arguments)


OPCODES: dict[str, Callable[[_State, Any], None]] = {
    "PROTO": lambda state, argument: None,
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _push),
    "NONE": _pushing(lambda: None),
    "NEWTRUE": _pushing(lambda: True),
    "NEWFALSE": _pushing(lambda: False),
    "EMPTY_TUPLE": _pushing(tuple),
    "EMPTY_LIST": _pushing(list),
    "EMPTY_DICT": _pushing(dict),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _recall),
    "MARK": _open_mark,
    "TUPLE": _tuple_of(_since_mark),
    "TUPLE1": _tuple_of(_last(1)),
    "TUPLE2": _tuple_of(_last(2)),
    "TUPLE3": _tuple_of(_last(3)),
    "APPEND": _extending(_last(1)),
    "APPENDS": _extending(_since_mark),
    "SETITEM": _setting(_last(2)),
    "SETITEMS": _setting(_since_mark),
    "BUILD": _build,
    "GLOBAL": _global,
    "REDUCE": _reduce,
    "BINPERSID": _persistent,
}


# What the pickle may call


def _storage(kind: str, dtype: Any, key: str, device: str, count: int) -> _Storage:
    """A storage; an untyped one is given as the function that would make it."""
    if kind != "storage" or not isinstance(key, str):
        raise UnfamiliarError
    return _Storage(key, dtype if isinstance(dtype, str) else None)


def _tensor(
    storage: _Storage, offset: int, shape: Any, strides: Any, grad: bool, hooks: Any, *more: Any
) -> SavedTensor:
    """torch._utils._rebuild_tensor_v2; or _v3, which names the type where the storage has none.

    Both may say that elements are conjugate or negative, which is not followed.
    """
    if storage.dtype is None:
        dtype, *more = more  # type: ignore[assignment]
    else:
        dtype = storage.dtype
    are_sizes = all(type(size) is int and size >= 0 for size in (offset, *shape, *strides))
    if not are_sizes or len(shape) != len(strides) or any(more):
        raise UnfamiliarError
    return SavedTensor(storage.key, DTYPES[dtype].name, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, grad: bool, hooks: Any) -> SavedTensor:
    if not isinstance(tensor, SavedTensor):
        raise UnfamiliarError
    return tensor


def _size(sizes: Any) -> tuple[int, ...]:
    if type(sizes) is not tuple:
        raise UnfamiliarError
    return sizes


def _untyped() -> None:
    """Stands for torch's untyped storage, which is only ever named."""
    raise UnfamiliarError


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": lambda: {},
    "torch Size": _size,
    "torch device": lambda *_: None,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch.storage UntypedStorage": _untyped,
}
