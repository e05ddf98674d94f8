"""Act right after the program imports a library: the program, and not this package, decides when that is."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(name: str, then: Callable[[], None]) -> Callable[[], None]:
    """Call `then` once a module is imported, at once when it is already; returns how to call it off."""
    if name in sys.modules:
        then()
        return lambda: None
    waiting = _Waiting(name, then)
    sys.meta_path.insert(0, waiting)
    return waiting.leave


@dataclass(frozen=True)
class _Waiting:
    """A finder that finds nothing itself: it only looks at the one module that the others find."""

    name: str
    then: Callable[[], None]

    def leave(self) -> None:
        """Look no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that tells when it is done."""
        if fullname != self.name:
            return None
        self.leave()
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.then()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
