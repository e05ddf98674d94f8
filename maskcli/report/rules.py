"""Rules: what each means, as text for people and JSON for scripts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TextIO

from maskcli.diagnostics.rule import Rule
from maskcli.report.forms import SCHEMA_VERSION
from maskcli.report.terminal import STYLES, console, json_text


def write_rule(rule: Rule[Any], as_json: bool, stream: TextIO) -> None:
    """A rule's documentation."""
    from rich.text import Text

    if as_json:
        print(json_text({"schema_version": SCHEMA_VERSION, **_entry(rule)}), file=stream)
        return
    screen = console(stream)
    severity = Text(f"  {rule.severity}", style="default not bold")
    screen.print(Text(f"{rule.code} {rule.name}", style=STYLES[rule.severity]) + severity)
    for paragraph in rule.text.split("\n\n"):
        screen.print(Text(" ".join(paragraph.split())))
    needs = ", and ".join(" or ".join(group) for group in rule.needs)
    screen.print(Text(f"Needs: {needs}", style="dim"))


def write_rules(rules: Iterable[Rule[Any]], as_json: bool, stream: TextIO) -> None:
    """Every rule: a line each, or all of them whole as JSON."""
    if as_json:
        entries = [_entry(rule) for rule in rules]
        print(json_text({"schema_version": SCHEMA_VERSION, "rules": entries}), file=stream)
        return
    for rule in rules:
        print(f"{rule.code} {rule.name:<22} {rule.severity:<8} {rule.summary}", file=stream)


def _entry(rule: Rule[Any]) -> dict[str, Any]:
    return {
        "code": rule.code,
        "name": rule.name,
        "severity": rule.severity,
        "needs": [list(group) for group in rule.needs],
        "text": rule.text,
    }
