"""Forms: what results are written as. A command has a table of them: a form is a row and a writer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from maskcli.errors import MaskcliError
from maskcli.report.terminal import console, output, write

if TYPE_CHECKING:
    from rich.console import Console

Result = TypeVar("Result")
Writer = TypeVar("Writer")

# Of every JSON that is written.
SCHEMA_VERSION = 1
# Suffixes of a form that no --format names.
PICTURES = (".png", ".svg", ".pdf")
PAGES = (".html",)


@dataclass(frozen=True)
class Look:
    """How a picture looks: its title (None: what it shows), dots per inch (None: the usual), theme."""

    title: str | None = None
    dpi: int | None = None
    theme: str = "light"


@dataclass(frozen=True)
class Form(Generic[Writer]):
    """A form: its --format (None where only a suffix chooses it), its suffixes, and what writes it."""

    name: str | None
    suffixes: tuple[str, ...]
    write: Writer


def choose(forms: Sequence[Form[Writer]], name: str | None, path: str | None) -> Form[Writer]:
    """The form that --format names, else that of the file's suffix; on standard output the first."""
    suffix = os.path.splitext(path or "")[1].lower()
    by_suffix = next((form for form in forms if suffix in form.suffixes), None)
    if name is not None:
        # A form that only a suffix chooses: a picture is no JSON.
        if by_suffix is not None and by_suffix.name is None:
            raise MaskcliError(
                f"--format {name} does not fit {path!r}, whose suffix names another form; "
                "leave one of them out"
            )
        if name not in names(forms):
            raise MaskcliError(
                f"--format {name} is not written here; choose one of {', '.join(names(forms))}"
            )
        return next(form for form in forms if form.name == name)

    if path is None or path == "-":
        return forms[0]
    if by_suffix is None:
        known = ", ".join(", ".join(form.suffixes) for form in forms if form.suffixes)
        raise MaskcliError(
            f"{path!r} ends in {suffix!r}, which names no form; end it in one of {known}, or pass --format"
        )
    return by_suffix


def write_as(form: Form[Callable[..., None]], result: object, path: str | None, look: Look) -> None:
    """Write a result in a form; only pictures have a look."""
    drawn(form, look).write(result, path)


def drawn(form: Form[Callable[..., None]], look: Look) -> Form[Callable[..., None]]:
    """The form of a picture that is to look so; other forms have no look."""
    if form.suffixes == PICTURES:
        from maskcli.report.pictures.library import import_plainly

        import_plainly()
        return replace(form, write=partial(form.write, look=look))
    if look != Look():
        raise MaskcliError(
            "--title, --dpi and --theme are for pictures; end -o FILE in .png, .svg or .pdf, "
            "or leave them out"
        )
    return form


def sized(form: Form[Callable[..., None]], megabytes: int | None) -> Form[Callable[..., None]]:
    """The form of a page that may hold so many megabytes; other forms have no such limit."""
    if megabytes is None:
        return form
    if form.suffixes != PAGES:
        raise MaskcliError("--max-size is the size of a page, and no page is written; pass -o FILE.html")
    return replace(form, write=partial(form.write, megabytes=megabytes))


def names(forms: Iterable[Form[Writer]]) -> list[str]:
    """What --format takes."""
    return [form.name for form in forms if form.name is not None]


def in_pieces(tell: Callable[[Result], Iterable[str]]) -> Callable[[Result, str | None], None]:
    """A writer (of a result, to a path or standard output) of text that comes in pieces."""

    def write_pieces(result: Result, path: str | None) -> None:
        with output(path) as stream:
            write(tell(result), stream)

    return write_pieces


def on_screen(show: Callable[[Result, Console], None]) -> Callable[[Result, str | None], None]:
    """A writer of what a terminal shows."""

    def write_screen(result: Result, path: str | None) -> None:
        with output(path) as stream:
            show(result, console(stream))

    return write_screen
