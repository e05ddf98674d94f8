"""The pages of the documentation, which lie in the package as Markdown."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TextIO

from maskcli.errors import MaskcliError
from maskcli.report.terminal import console, hang, width

FOLDER = Path(__file__).resolve().parents[1] / "docs"


def names() -> list[str]:
    """What `maskcli docs` takes."""
    return sorted(path.stem for path in FOLDER.glob("*.md"))


def markdown(name: str) -> str:
    """A page; MaskcliError suggests the nearest."""
    if name not in names():
        close = difflib.get_close_matches(name.lower(), names(), 1, 0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        raise MaskcliError(f"there is no page {name!r}; {hint}maskcli docs lists them")
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def write_pages(stream: TextIO) -> None:
    """Every page with its title."""
    screen = console(stream)
    width = max(map(len, names())) + 2
    for name in names():
        title = markdown(name).partition("\n")[0]
        hang(screen, f"{name:<{width}}", title.removeprefix("# "))


def write_page(name: str, stream: TextIO) -> None:
    """A page: set to the width of a terminal, or as it is in a pipe."""
    text = markdown(name)
    if width(stream) is None:
        stream.write(text)
        return
    from rich.markdown import Markdown

    console(stream).print(Markdown(text, code_theme="ansi_dark", hyperlinks=False))
