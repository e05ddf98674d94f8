"""A page as one HTML file: no network, no text as markup, only the script and style that it was made with."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from typing import Any

from maskcli.report.terminal import clean

# The viewer, in the order in which its parts need each other.
SCRIPTS = ("decoding.js", "grids.js", "frame.js", "drawing.js", "acting.js")
# What would end the element that holds the data, or a line of a script.
ESCAPED = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


def html(data: dict[str, Any]) -> Iterator[str]:
    """The file, in pieces."""
    script = '"use strict";\n' + "".join(map(_asset, SCRIPTS))
    style = _asset("viewer.css")
    allowed = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data: blob:"
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{allowed}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{escape(clean(data['title']))}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    yield "<noscript>This page is drawn by its own script, which this browser does not run.</noscript>\n"
    yield f'<script type="application/json" id="data">{embedded(data)}</script>\n'
    yield f"<script>{script}</script>\n</body>\n</html>\n"


def embedded(data: dict[str, Any]) -> str:
    """A value as JSON that no element ends; NaN and infinities are the texts "nan" and "inf"."""
    from maskcli.report.terminal import json_text

    return json_text(_cleaned(data)).translate(ESCAPED)


def _cleaned(value: Any) -> Any:
    """The same with every text as a terminal may see it: control characters and bidi marks as escapes."""
    if isinstance(value, dict):
        return {key: each if key == "data" else _cleaned(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_cleaned, value))
    return clean(value) if isinstance(value, str) else value


def _asset(name: str) -> str:
    """A file of the viewer, without what indents its lines, and without lines that are comments."""
    lines = map(str.strip, (files("maskcli.report.page") / name).read_text("utf-8").splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith(("//", "/**")))


def _hash(text: str) -> str:
    """The source of an element with this text, as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
