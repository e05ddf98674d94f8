"""Rules: what each means, as text for people and JSON for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskcli.diagnostics.rule import Rule
from maskcli.report.terminal import STYLES

if TYPE_CHECKING:
    from rich.console import Console


def print_rule(rule: Rule, console: Console) -> None:
    """A rule's documentation."""
    from rich.text import Text

    console.print(
        Text(f"{rule.code} {rule.name}", style=STYLES[rule.severity])
        + Text(f"  {rule.severity}", style="default not bold")
    )
    for paragraph in rule.text.split("\n\n"):
        console.print(Text(" ".join(paragraph.split())))
    console.print(Text("Needs: " + _needs(rule), style="dim"))


def rule_json(rule: Rule) -> dict[str, Any]:
    """A rule as JSON."""
    return {
        "code": rule.code,
        "name": rule.name,
        "severity": rule.severity,
        "needs": [list(group) for group in rule.needs],
        "text": rule.text,
    }


def _needs(rule: Rule) -> str:
    return ", and ".join(" or ".join(group) for group in rule.needs)
