"""`convert`: the arguments of a library that needs no tensor, as a line of code or as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from maskcli.errors import MaskcliError
from maskcli.masks.arguments import Arguments
from maskcli.report.forms import SCHEMA_VERSION, Form, in_pieces
from maskcli.report.terminal import json_text


def _code(told: Arguments) -> Iterator[str]:
    """The line of code. Raises MaskcliError where there is none."""
    if told.why is not None:
        raise MaskcliError(f"{told.to} cannot express {told.spec!r}: {told.why}")
    yield told.code + "\n"


def _json(told: Arguments) -> Iterator[str]:
    whole = {
        "schema_version": SCHEMA_VERSION,
        "to": told.to,
        "spec": told.spec,
        "expressible": told.why is None,
        "why": told.why,
        "arguments": told.arguments,
        "code": told.code,
    }
    yield json_text(whole) + "\n"


FORMS = (Form("text", (".txt", ".py"), in_pieces(_code)), Form("json", (".json",), in_pieces(_json)))
