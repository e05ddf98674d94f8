"""SARIF 2.1.0: what code scanning reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from maskcli import __version__
from maskcli.diagnostics.catalogue import named
from maskcli.report.entries import Entry, Part, Results
from maskcli.report.terminal import clean, json_text

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def tell(results: Results) -> Iterator[str]:
    """One run, with the rules that found something."""
    entries = results.entries
    codes = sorted({entry.code for entry in entries})
    run = {
        "tool": {"driver": {"name": "maskcli", "version": __version__, "rules": list(map(_rule, codes))}},
        "invocations": [
            {
                "executionSuccessful": not results.errors,
                "toolExecutionNotifications": list(map(_notification, results.errors)),
            }
        ],
        "results": [_result(entry, codes.index(entry.code)) for entry in entries],
    }
    yield json_text({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}) + "\n"


def _rule(code: str) -> dict[str, Any]:
    """A rule with its documentation, which `maskcli rule CODE` prints as well."""
    rule = named(code)
    paragraphs = [" ".join(each.split()) for each in rule.text.split("\n\n")]
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": " ".join(paragraphs[:2])},
        "help": {"text": "\n\n".join(paragraphs), "markdown": "\n\n".join(paragraphs)},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(entry: Entry, index: int) -> dict[str, Any]:
    message = "; ".join(filter(None, (entry.message, entry.fix and f"fix: {entry.fix}", entry.place)))
    return {
        "ruleId": entry.code,
        "ruleIndex": index,
        "level": entry.severity,
        "message": {"text": message},
        "locations": [_location(entry)],
        "properties": {"fix": entry.fix, "place": entry.place},
    }


def _location(entry: Entry) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(entry.file)}}
    if entry.line is not None:
        physical["region"] = {"startLine": entry.line}
    logical = [{"fullyQualifiedName": clean(name)} for name in entry.names if name]
    return {"physicalLocation": physical, **({"logicalLocations": logical} if logical else {})}


def _uri(path: str) -> str:
    """A path as the reference to it; an address stays what it is."""
    if "://" in path:
        return quote(path, safe=":/?#[]@!$&'()*+,;=%")
    return quote(path.replace(os.sep, "/"))


def _notification(part: Part) -> dict[str, Any]:
    return {"level": "error", "message": {"text": f"{clean(part.name)}: {clean(part.error)}"}}
