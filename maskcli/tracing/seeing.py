"""A mode of torch that shows a thread's calls of torch's functions, at work only where it is needed.

It stands below the modes of the program. torch's functions written in Python look whether a mode is there and
then start anew under it; they are told of none, since what they call shows all there is to see, and so they
run as they would without: once, on their fast paths, their warnings at the program's line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

_QUESTIONS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def seeing(see: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> Any:
    """A mode that hands each call to `see`, which has to make it."""
    from torch.overrides import TorchFunctionMode

    class Seeing(TorchFunctionMode):
        """Sees what is called while it stands on the stack of modes."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return see(func, args, {} if kwargs is None else kwargs)

    return Seeing()


def unseen() -> Any:
    """A context in which no mode and no type of the program sees what is called."""
    import torch

    return torch._C.DisableTorchFunction()


def put_below(mode: Any) -> None:
    """Put a mode below all others of this thread."""
    from torch import _C

    above = [_C._pop_torch_function_stack() for _ in range(_C._len_torch_function_stack())]
    for each in (mode, *reversed(above)):
        _C._push_on_torch_function_stack(each)


def take_away(mode: Any) -> None:
    """Take a mode from wherever it stands in this thread."""
    from torch import _C

    above = []
    while _C._len_torch_function_stack():
        top = _C._pop_torch_function_stack()
        if top is mode:
            break
        above.append(top)
    for each in reversed(above):
        _C._push_on_torch_function_stack(each)


def let_python_run(undo: ExitStack, is_ours: Callable[[Any], bool]) -> None:
    """Tell torch's own Python code of other modes and types only."""
    import torch.overrides

    for name in _QUESTIONS:
        original = getattr(torch.overrides, name)
        answer = _unless_only(original, is_ours)
        for module in list(sys.modules.values()):
            held = getattr(module, "__dict__", {})
            if held.get(name) is original and held.get("__name__", "").startswith("torch"):
                setattr(module, name, answer)
                undo.callback(setattr, module, name, original)


def _unless_only(original: Callable[..., bool], is_ours: Callable[[Any], bool]) -> Callable[..., bool]:
    from torch import _C

    size, at = _C._len_torch_function_stack, _C._get_function_stack_at
    pop, push = _C._pop_torch_function_stack, _C._push_on_torch_function_stack

    def has_torch_function(*args: Any) -> bool:
        if size() != 1 or not is_ours(at(0)) or _is_operator(sys._getframe(1)):
            return original(*args)
        mode = pop()
        try:
            return original(*args)
        finally:
            push(mode)

    return has_torch_function


def _is_operator(frame: FrameType) -> bool:
    """Whether an operator asks, such as FlexAttention: these are seen as a whole."""
    return frame.f_globals.get("__name__") == "torch._ops"
