"""Classes that pickles name and whose contents are plain: what stands for their instances. None is imported.

An instance is what its pickle says it holds: items, attributes, or the bytes of a numpy array.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from maskcli.tensors.limits import is_possible


class UnfamiliarError(Exception):
    """A pickle that says more than is followed; its text, if any, names the class that is not known."""


# Instances by name


# What of an instance's __dict__ is among its contents.
Keeps = Callable[[dict[Any, Any]], dict[Any, Any]]


class Instance(dict[Any, Any]):
    """What stands for an instance of a known class: a dict of its items, and those of its attributes.

    Attributes stay the dicts that the pickle made, which many instances may share.
    """

    def __init__(self, keeps: Keeps) -> None:
        super().__init__()
        self.keeps = keeps
        self.attributes: list[dict[Any, Any]] = []

    def build(self, state: Any) -> None:
        """The attributes: a dict, or a pair of one and that of the slots."""
        for part in state if type(state) is tuple else (state,):
            if isinstance(part, dict):
                self.attributes.append(self.keeps(part))


def _nothing(state: dict[Any, Any]) -> dict[Any, Any]:
    return {}


def _all(state: dict[Any, Any]) -> dict[Any, Any]:
    return state


def _data(state: dict[Any, Any]) -> dict[Any, Any]:
    data = state.get("data")
    return data if isinstance(data, dict) else {}


# Classes by modules and names, and what of their attributes is kept. ModelOutputs hold their fields as items
# and again as attributes; a UserDict has its items in `data`.
INSTANCES: tuple[tuple[re.Pattern[str], Keeps], ...] = (
    (re.compile(r"(transformers|diffusers)\.[\w.]+ \w*Output\w*"), _nothing),
    (re.compile(r"transformers\.[\w.]+ (BatchEncoding|BatchFeature)"), _data),
    (re.compile(r"transformers\.cache_utils \w*(Cache|Layer)\w*"), _all),
    (re.compile(r"(types SimpleNamespace|argparse Namespace)"), _all),
    (re.compile(r"tokenizers Encoding"), _nothing),
)


def instance_of(name: str) -> Callable[..., Instance] | None:
    """What makes an instance of the class "module name", whatever its arguments; None for others."""
    for pattern, keeps in INSTANCES:
        if pattern.fullmatch(name):
            return partial(Instance, keeps)
    return None


# Containers


def _dict(*given: Any) -> Any:
    """A dict that SETITEMS fills; that of a Counter is given."""
    return given[-1] if given and type(given[-1]) is dict else {}


def _list(*given: Any) -> Any:
    """The members of a set, or a deque that APPENDS fills."""
    return given[0] if given and type(given[0]) is list else []


def _no_value(*given: Any) -> None:
    """What no tensor can be in."""


def _unmade() -> None:
    """Stands for what is only ever named."""
    raise UnfamiliarError


# Containers of Python, and what is passed over: values that hold no tensors, types that are only named.
_SIMPLE = {
    _list: ("set", "frozenset"),
    _no_value: ("slice", "complex", "bytes", "bytearray"),
    _unmade: ("list", "dict", "int", "float", "str", "tuple"),
}
CONTAINERS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _dict,
    "collections defaultdict": _dict,
    "collections Counter": _dict,
    "collections deque": _list,
    **{
        f"pathlib {name}": _no_value
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    },
    **{
        f"{module} {name}": made
        for made, names in _SIMPLE.items()
        for name in names
        for module in ("__builtin__", "builtins")
    },
}


# numpy


class SavedArray(NamedTuple):
    """A numpy array in a pickle: its type as numpy writes it, such as "<f4", and its bytes.

    Protocol 2 writes bytes as text of letters below 256, which are told apart only when the array is read:
    texts that many arrays share are not copied for each.
    """

    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    elements: str | bytes


@dataclass
class _DType:
    """A numpy type while it is unpickled: its kind and size, and its byte order; None for one of fields."""

    code: str
    order: str | None = "|"

    def build(self, state: Any) -> None:
        """The byte order, from numpy's own state (version, order, subarray, fields, …)."""
        plain = type(state) is tuple and len(state) >= 4 and state[2] is None and state[3] is None
        self.order = state[1] if plain and state[1] in ("<", ">", "|", "=") else None


@dataclass
class _Array:
    """A numpy array while it is unpickled."""

    saved: list[SavedArray] = field(default_factory=list)

    def build(self, state: Any) -> None:
        """The array, from numpy's own state (version, shape, type, order, bytes)."""
        if type(state) is not tuple or len(state) != 5:
            raise UnfamiliarError
        _, shape, dtype, fortran, elements = state
        self.saved += _saved(dtype, shape, bool(fortran), elements)


UnderWay = _DType | _Array | Instance
_PLAIN = re.compile(r"[biuf][1248]|f16")


def _saved(dtype: Any, shape: Any, fortran: bool, elements: Any) -> list[SavedArray]:
    """An array of plain numbers as a list of one; none of text, objects or fields."""
    if not isinstance(dtype, _DType) or type(shape) is not tuple:
        raise UnfamiliarError
    if dtype.order is None or not _PLAIN.fullmatch(dtype.code):
        return []
    sizes = all(type(size) is int for size in shape)
    if not sizes or not is_possible(shape) or not isinstance(elements, str | bytes | bytearray):
        raise UnfamiliarError
    if math.prod(shape) * int(dtype.code[1:]) != len(elements):
        raise UnfamiliarError
    kept = bytes(elements) if isinstance(elements, bytearray) else elements
    return [SavedArray(dtype.order + dtype.code, shape, fortran, kept)]


def finished(value: Any) -> Any:
    """A value of the pickle as what it became: an array of plain numbers, None for one of others."""
    if isinstance(value, _Array):
        return value.saved[0] if value.saved else None
    return value


def contents(value: Any) -> list[Any]:
    """The dicts of what a container holds by name: of an instance its items and its attributes."""
    return [value, *value.attributes] if isinstance(value, Instance) else [value]


def _dtype(code: Any, *flags: Any) -> _DType:
    if not isinstance(code, str):
        raise UnfamiliarError
    return _DType(code)


def _scalar(dtype: Any, elements: Any = None) -> _Array:
    """A numpy scalar as an array without axes; those of objects have no bytes."""
    return _Array(_saved(dtype, (), False, elements))


def _from_buffer(elements: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_saved(dtype, shape, order == "F", elements))


def _encoded(text: Any, encoding: Any) -> str | bytes:
    """Text that stands for bytes, as it is."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnfamiliarError
    return text


ARRAYS: dict[str, Callable[..., Any]] = {
    "_codecs encode": _encoded,
    "numpy ndarray": _unmade,
    "numpy dtype": _dtype,
    **{f"numpy.{core}.multiarray _reconstruct": lambda *_: _Array() for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _from_buffer for core in ("core", "_core")},
}
