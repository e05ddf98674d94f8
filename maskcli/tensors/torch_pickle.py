"""What a file by torch.save says of its tensors, read without torch and without running anything.

torch.save writes dicts, lists and tuples of tensors with few of pickle's opcodes. They are followed here one by one; the first
that is none of them leaves the file to torch's own loader, which knows more and takes two seconds to start.
"""

import pickletools
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from maskcli.tensors.dtypes import DTYPES

STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
"""The element types of torch's typed storages, which stand for the storage of every type that torch had before 2.0."""
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
MAX_OPCODES = 2_000_000
"""Opcodes that are followed: some 40 tell of one tensor, and each can make an object of 64 bytes."""
MAX_ARGUMENTS = 8
"""Of a call, which torch's _rebuild_tensor_v3 has."""
VALUES = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"))


class UnfamiliarError(Exception):
    """A pickle that says more than this module follows."""


class SavedTensor(NamedTuple):
    """A tensor as the pickle describes it: which storage it looks at, and from where; sizes and strides in elements."""

    storage: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Storage(NamedTuple):
    key: str
    dtype: str | None


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
    """The object on top when the pickle stops; a stack of lists, one for every mark that is open."""
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in islice(pickletools.genops(pickled), MAX_OPCODES):
        name = opcode.name
        if name in VALUES:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name == "TUPLE":
            made = tuple(stack)
            stack = below.pop()
            stack.append(made)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name == "BINPERSID":
            stack.append(_called(_storage, stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_called(stack.pop(), arguments))
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else stack
            stack = stack if name == "APPEND" else below.pop()
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else stack
            stack = stack if name == "SETITEM" else below.pop()
            _set(stack[-1], items)
        elif name == "BUILD":
            # What a state_dict says of its modules' versions.
            if not (isinstance(stack.pop(), dict) and isinstance(stack[-1], dict)):
                raise UnfamiliarError
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise UnfamiliarError(name)
    raise UnfamiliarError


def _called(function: Any, arguments: Any) -> Any:
    """What a function of FUNCTIONS gives; nothing else that a pickle can make here is one."""
    if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
        raise UnfamiliarError
    return function(*arguments)


def _set(target: dict[Any, Any], items: list[Any]) -> None:
    """Keys and values in turn; a key of tuples could take for ever to hash."""
    keys = items[::2]
    if not all(isinstance(key, str | int | float) for key in keys):
        raise UnfamiliarError
    target.update(zip(keys, items[1::2], strict=True))


def _known(name: str) -> Any:
    """What stands for a name of the pickle: a type's name, or a function of this module."""
    module, _, what = name.partition(" ")
    if module == "torch" and what in STORAGES:
        return STORAGES[what]
    if module == "torch" and what in DTYPES:
        return what
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    raise UnfamiliarError(name)


def _storage(kind: str, dtype: Any, key: str, device: str, count: int) -> _Storage:
    """A storage; an untyped one is given as the function that would make it."""
    if kind != "storage" or not isinstance(key, str):
        raise UnfamiliarError
    return _Storage(key, dtype if isinstance(dtype, str) else None)


def _tensor(
    storage: _Storage, offset: int, shape: Any, strides: Any, grad: bool, hooks: Any, *more: Any
) -> SavedTensor:
    """torch._utils._rebuild_tensor_v2; or _v3, which names the type where the storage has none. Both may say that elements are
    conjugate or negative, which is not followed."""
    if storage.dtype is None:
        dtype, *more = more  # type: ignore[assignment]
    else:
        dtype = storage.dtype
    if (
        not all(type(each) is int and each >= 0 for each in (offset, *shape, *strides))
        or len(shape) != len(strides)
        or any(more)
    ):
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
