"""The check of a chat template: what it does to training, as text and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from maskcli.report.forms import SCHEMA_VERSION, Form, in_pieces, on_screen
from maskcli.report.terminal import STYLES, clean, hang, json_text
from maskcli.text.template_check import Checked

if TYPE_CHECKING:
    from rich.console import Console


class CheckedTemplate(NamedTuple):
    """What was found of a template, whose it is, and how an id becomes text."""

    name: str
    checked: Checked
    token: Callable[[int], str]

    def counts(self) -> dict[str, int]:
        """How many remarks of each severity."""
        from maskcli.diagnostics.finding import SEVERITIES

        severities = [remark.severity for remark in self.checked.remarks]
        return {severity: severities.count(severity) for severity in SEVERITIES}

    def worst(self) -> str | None:
        """The worst severity found."""
        return next((severity for severity, count in self.counts().items() if count), None)


def _text(template: CheckedTemplate, console: Console) -> None:
    """What the template does, in a table, then what there is to know of it."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"chat template of {clean(template.name)}", style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, told in _facts(template):
        table.add_row(f"  {label}", clean(told))
    console.print(table)
    console.print()
    for severity, sentence in template.checked.remarks:
        console.print(Text(severity, style=STYLES[severity]))
        hang(console, "  ", clean(sentence))
    if not template.checked.remarks:
        console.print("nothing found")


def _facts(template: CheckedTemplate) -> Iterator[tuple[str, str]]:
    """What a template does, in words."""
    checked = template.checked
    ends = ", ".join(map(template.token, checked.ends))
    yield "an answer ends in", ends or "nothing of its own"
    yield "generation marks hold", _marks(checked)
    yield "beginnings of a conversation", _beginnings(checked)
    yield "the generation prompt", _prompt(checked)
    if checked.keeps_thinking is not None:
        yield "thoughts of earlier answers", "are kept" if checked.keeps_thinking else "are left out"
    yield "roles that it refuses", ", ".join(checked.refused) or "none of system, user, assistant, tool"


def _marks(checked: Checked) -> str:
    if checked.marks is None:
        return "there are none"
    held = "a part of the header, " if checked.marks.headers else ""
    return f"{held}answers {'and' if checked.marks.ends else 'without'} what ends them"


def _beginnings(checked: Checked) -> str:
    if checked.stable_ids and checked.stable_text:
        return "are rendered and encoded as in the whole"
    return f"are {'encoded' if checked.stable_text else 'rendered'} otherwise than in the whole"


def _prompt(checked: Checked) -> str:
    if checked.prompt_begins_answers is None:
        return "is empty"
    return "begins an answer" if checked.prompt_begins_answers else "is not how an answer begins"


def _json(template: CheckedTemplate) -> Iterator[str]:
    """One object."""
    checked = template.checked
    whole = {
        "schema_version": SCHEMA_VERSION,
        "template": template.name,
        "ends": [{"id": number, "token": template.token(number)} for number in checked.ends],
        "marks": None if checked.marks is None else checked.marks._asdict(),
        "stable_text": checked.stable_text,
        "stable_ids": checked.stable_ids,
        "prompt_begins_answers": checked.prompt_begins_answers,
        "keeps_thinking": checked.keeps_thinking,
        "doubled_start": checked.doubled_start,
        "refused": list(checked.refused),
        "findings": [{"severity": each.severity, "message": each.sentence} for each in checked.remarks],
        "summary": template.counts(),
    }
    yield json_text(whole) + "\n"


FORMS: tuple[Form[Callable[[CheckedTemplate, str | None], None]], ...] = (
    Form("text", (".txt",), on_screen(_text)),
    Form("json", (".json",), in_pieces(_json)),
)
