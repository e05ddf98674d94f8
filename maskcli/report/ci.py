"""The forms for CI, which all commands that find something share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from maskcli.report.forms import Form

if TYPE_CHECKING:
    from maskcli.report.entries import Results

Writer = TypeVar("Writer")
Tell = Callable[["Results"], Iterator[str]]

# Each is a module of this room, whose `tell` makes text of Results.
SUFFIXES = {"github": (), "junit": (".xml",), "sarif": (".sarif",), "markdown": (".md",)}


def ci_forms(
    adapt: Callable[[Tell], Writer], names: Sequence[str] = tuple(SUFFIXES)
) -> tuple[Form[Writer], ...]:
    """Rows for a command's table of forms; `adapt` makes a writer of its results of what tells Results."""
    return tuple(Form(name, SUFFIXES[name], adapt(_late(name))) for name in names)


def _late(name: str) -> Tell:
    """What tells a form, imported when it does."""
    return lambda results: import_module(f"maskcli.report.{name}").tell(results)
