"""What a pickle by torch.save says of its tensors, read without torch and without running anything.

torch.save writes dicts, lists and tuples of tensors with few of pickle's opcodes. They are followed here one
by one; the first that is none of them leaves an archive to torch's own loader, which knows more and takes two
seconds to start.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from maskcli.tensors.dtypes import DTYPES
from maskcli.tensors.limits import MAX_ARGUMENTS, MAX_OPCODES
from maskcli.tensors.pickled_classes import ARRAYS, CONTAINERS, UnderWay, UnfamiliarError, instance_of

# The element types of torch's typed storages.
STORAGES = {f"{dtype.storage}Storage": dtype.name for dtype in DTYPES.values() if dtype.storage}


class SavedStorage(NamedTuple):
    """What tensors take their elements from: its name in the file, its type if it has one, its elements."""

    key: str
    dtype: str | None
    elements: int

    @property
    def itemsize(self) -> int:
        """Bytes of an element, one where there is no type."""
        return DTYPES[self.dtype].bits // 8 if self.dtype else 1


class SavedTensor(NamedTuple):
    """A tensor as the pickle describes it: its storage, and from where; sizes and strides in elements."""

    storage: SavedStorage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class _State:
    """Where the pickle stands: the stack, those below every open mark, what it remembers, its storages."""

    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, SavedStorage] = field(default_factory=dict)


def described(pickled: BinaryIO) -> tuple[Any, dict[str, SavedStorage]]:
    """The saved object as dicts, lists and tuples, with a SavedTensor for each tensor, and all its storages.

    The file stands behind the pickle then. Of a storage that is told of twice the first is kept. Raises
    UnfamiliarError for anything else, a damaged pickle included.
    """
    try:
        return _followed(pickled)
    except UnfamiliarError:
        raise
    except Exception as error:
        # Whatever is wrong with it: who reads on by other means finds it too, and says so.
        raise UnfamiliarError from error


def _followed(pickled: BinaryIO) -> tuple[Any, dict[str, SavedStorage]]:
    """The object on top when the pickle stops, and the storages."""
    state = _State()
    for opcode, argument, _ in islice(pickletools.genops(pickled), MAX_OPCODES):
        if opcode.name == "STOP":
            return state.stack.pop(), state.storages
        if opcode.name == "MARK":
            state.below.append(state.stack)
            state.stack = []
        elif opcode.name in OPCODES:
            count, make = OPCODES[opcode.name]
            items = _taken(state, count)
            state.stack.append(make(state, items, argument))
        elif opcode.name not in ("PROTO", "FRAME"):
            raise UnfamiliarError(opcode.name)
    raise UnfamiliarError


def _taken(state: _State, count: int) -> list[Any]:
    """So many objects from the top of the stack, or those since the last mark."""
    if count == SINCE_MARK:
        items, state.stack = state.stack, state.below.pop()
        return items
    cut = len(state.stack) - count
    items = state.stack[cut:]
    del state.stack[cut:]
    return items


def _remembered(state: _State, items: list[Any], place: int) -> Any:
    state.memo[place] = items[0]
    return items[0]


def _extended(state: _State, items: list[Any], argument: Any) -> Any:
    target = state.stack.pop()
    target.extend(items)
    return target


def _set(state: _State, items: list[Any], argument: Any) -> Any:
    """A dict with keys and values in turn; a key of tuples could take for ever to hash."""
    target, keys = state.stack.pop(), items[::2]
    if not all(isinstance(key, str | int | float) for key in keys):
        raise UnfamiliarError
    target.update(zip(keys, items[1::2], strict=True))
    return target


def _ascii(text: str) -> str:
    """A text of Python 2, which has no encoding."""
    if not text.isascii():
        raise UnfamiliarError
    return text


def _built(state: _State, items: list[Any], argument: Any) -> Any:
    """An object with its state; of a dict's state, as a state_dict has it, nothing is kept."""
    target, given = items
    if isinstance(target, UnderWay):
        target.build(given)
    elif not isinstance(target, dict) or not isinstance(given, dict):
        raise UnfamiliarError
    return target


def _global(state: _State, items: list[Any], name: str) -> Any:
    """What stands for a name of the pickle: a type's name, or a function of this module."""
    module, _, what = name.partition(" ")
    if module == "torch" and (what in STORAGES or what in DTYPES):
        return STORAGES.get(what, what)
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    made = instance_of(name)
    if made is not None:
        return made
    raise UnfamiliarError(name)


def is_known(name: str) -> bool:
    """Whether a class or function by its dotted name is followed here."""
    spoken = " ".join(name.rsplit(".", 1))
    return spoken in FUNCTIONS or instance_of(spoken) is not None


def _named_global(state: _State, items: list[Any], argument: Any) -> Any:
    """The same of a module and a name on the stack."""
    if not all(isinstance(item, str) for item in items):
        raise UnfamiliarError
    return _global(state, [], " ".join(items))


def _memoized(state: _State, items: list[Any], argument: Any) -> Any:
    return _remembered(state, items, len(state.memo))


def _persistent(state: _State, items: list[Any], argument: Any) -> SavedStorage:
    """A storage; the old format also tells of views on it, which no torch from 0.4 on writes."""
    kind, dtype, key, _, count, *views = items[0]
    if kind != "storage" or not isinstance(key, str) or type(count) is not int or views not in ([], [None]):
        raise UnfamiliarError
    storage = SavedStorage(key, dtype if isinstance(dtype, str) else None, count)
    state.storages.setdefault(key, storage)
    return storage


def _called(function: Any, arguments: Any) -> Any:
    """What a function of FUNCTIONS gives; nothing else that a pickle can make here is one."""
    instance = isinstance(function, partial)
    if type(arguments) is not tuple or (len(arguments) > MAX_ARGUMENTS and not instance):
        raise UnfamiliarError
    return function() if instance else function(*arguments)


SINCE_MARK = -1
# How many objects an opcode takes from the stack, and what it makes of them (and its argument) to push in
# their place.
OPCODES: dict[str, tuple[int, Callable[[_State, list[Any], Any], Any]]] = {
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        (0, lambda *given: given[-1]),
    ),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), (1, _remembered)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), (0, lambda state, items, place: state.memo[place])),
    "SHORT_BINSTRING": (0, lambda state, items, text: _ascii(text)),
    "NONE": (0, lambda *_: None),
    "NEWTRUE": (0, lambda *_: True),
    "NEWFALSE": (0, lambda *_: False),
    "EMPTY_TUPLE": (0, lambda *_: ()),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), (0, lambda *_: [])),
    "EMPTY_DICT": (0, lambda *_: {}),
    "TUPLE": (SINCE_MARK, lambda state, items, _: tuple(items)),
    "TUPLE1": (1, lambda state, items, _: tuple(items)),
    "TUPLE2": (2, lambda state, items, _: tuple(items)),
    "TUPLE3": (3, lambda state, items, _: tuple(items)),
    "APPEND": (1, _extended),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), (SINCE_MARK, _extended)),
    "FROZENSET": (SINCE_MARK, lambda state, items, _: items),
    "SETITEM": (2, _set),
    "SETITEMS": (SINCE_MARK, _set),
    "BUILD": (2, _built),
    "GLOBAL": (0, _global),
    "STACK_GLOBAL": (2, _named_global),
    "MEMOIZE": (1, _memoized),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), (2, lambda state, items, _: _called(*items))),
    "BINPERSID": (1, _persistent),
}


# What the pickle may call


def _tensor(
    storage: SavedStorage, offset: int, shape: Any, strides: Any, grad: bool, hooks: Any, *more: Any
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
    return SavedTensor(storage, DTYPES[dtype].name, offset, tuple(shape), tuple(strides))


def _old_tensor(storage: SavedStorage, offset: int, shape: Any, strides: Any) -> SavedTensor:
    """torch._utils._rebuild_tensor, from before torch 0.4."""
    return _tensor(storage, offset, shape, strides, False, None)


def _parameter(tensor: Any, grad: bool, hooks: Any) -> SavedTensor:
    if not isinstance(tensor, SavedTensor):
        raise UnfamiliarError
    return tensor


def _with_attributes(function: Any, kind: Any, arguments: Any, attributes: Any) -> SavedTensor:
    """torch._tensor._rebuild_from_type_v2: a plain tensor to which somebody gave attributes."""
    if kind is not _untyped or function not in (_tensor, _parameter):
        raise UnfamiliarError
    tensor = _called(function, arguments)
    return _parameter(tensor, False, None)


def _size(sizes: Any) -> tuple[int, ...]:
    if type(sizes) is not tuple:
        raise UnfamiliarError
    return sizes


def _untyped() -> None:
    """Stands for classes of torch that are only ever named."""
    raise UnfamiliarError


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch Size": _size,
    "torch device": lambda *_: None,
    "torch._utils _rebuild_tensor": _old_tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._tensor _rebuild_from_type_v2": _with_attributes,
    **dict.fromkeys(
        ("torch Tensor", "torch.nn.parameter Parameter", "torch.storage UntypedStorage"), _untyped
    ),
    **CONTAINERS,
    **ARRAYS,
}
