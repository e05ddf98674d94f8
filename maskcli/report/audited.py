"""The report of an audit: the table of forms of `audit`, and a writer for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from maskcli.report.ci import Tell, ci_forms
from maskcli.report.forms import PAGES, SCHEMA_VERSION, Form, in_pieces, on_screen

# The command line asks for the names of the forms: what they write is imported when they do.
if TYPE_CHECKING:
    from rich.console import Console

    from maskcli.auditing.results import Audited, Example, RowOf, Told

# Rows that a finding lists before the rest is counted.
LISTED = 8
# Rules that have nothing to decide where another could: turns say what is a prompt, and labels that are the
# text of their ids are no decoder's.
SETTLED_BY = {"MSK504": "MSK509", "MSK412": "MSK513"}
# Rules that a tokenizer tells all there is to know.
OF_TOKENIZERS = ("MSK409",)


class Audits(NamedTuple):
    """What is told of some sets: their reports, and how an id becomes text (None: it stays a number).

    `errors` are sets that could not be audited, each with the sentence that says why.
    """

    sets: tuple[Audited, ...]
    token: Callable[[int], str] | None = None
    errors: tuple[tuple[str, str], ...] = ()

    def counts(self) -> dict[str, int]:
        """How many findings of each severity in all sets."""
        from maskcli.diagnostics.finding import SEVERITIES

        counts = [audited.counts() for audited in self.sets]
        return {severity: sum(each[severity] for each in counts) for severity in SEVERITIES}

    def worst(self) -> str | None:
        """The worst severity found in any set."""
        return next((severity for severity, count in self.counts().items() if count), None)

    @property
    def rows(self) -> int:
        """Rows of all sets."""
        return sum(audited.glance.rows for audited in self.sets)


def _text(audits: Audits, console: Console) -> None:
    """Each set at a glance, with what nothing looked at, then its findings; counts are the last line."""
    from maskcli.report.closing import undecided
    from maskcli.report.findings import print_lines
    from maskcli.report.glance import print_glance
    from maskcli.report.terminal import hang

    for audited in audits.sets:
        print_glance(audited, console)
        console.print()
        for line in beside(audited):
            hang(console, "", line)
        if audited.unread or audited.notes:
            console.print()
        _print_findings(audited, audits, console)
    print_lines([closing(audits), *undecided(_missing(audits), "more could be decided with:")], console)


def beside(audited: Audited) -> Iterator[str]:
    """What the numbers rest on, and what they leave out."""
    from maskcli.report.terminal import clean

    yield from (f"not read: {clean(column)}: {clean(how)}" for column, how in audited.unread.items())
    yield from (f"note: {clean(note)}" for note in audited.notes)


def _print_findings(audited: Audited, audits: Audits, console: Console) -> None:
    """One paragraph a finding: what, in how many rows, how to fix it, and some of the rows as text."""
    from rich.text import Text

    from maskcli.report.findings import sentence, why
    from maskcli.report.marked import legend, words_apart
    from maskcli.report.terminal import STYLES, hang

    examples = [example for told in audited.findings for example in told.examples]
    blanks = words_apart(examples, audits.token)
    if examples:
        hang(console, "rows as text: ", legend(not console.no_color))
        console.print()
    for told in audited.findings:
        head = Text(f"{told.code} {told.name}", style=STYLES[told.severity])
        head.append(f"  {told.severity}", style="default not bold")
        concerned = extent(told)
        apart = "  " if head.cell_len + 2 + len(concerned) <= console.width else "\n  "
        console.print(head.append(f"{apart}{concerned}", style="default not bold"))
        hang(console, "  ", sentence(told.message))
        hang(console, "  why:   ", why(told.code))
        hang(console, "  fix:   ", sentence(told.fix))
        hang(console, "  rows:  ", rows_of(told))
        for example in told.examples:
            _print_example(example, audits, blanks, console)
        console.print()


def _print_example(example: Example, audits: Audits, apart: bool, console: Console) -> None:
    """A row as text: its number, which of its tokens are shown, and these."""
    from rich.text import Text

    from maskcli.report.marked import painted, pieces, plain
    from maskcli.report.terminal import hang

    parts = pieces(example, audits.token, apart)
    text = Text(plain(parts, apart)) if console.no_color else painted(parts, apart)
    start, stop = example.first, example.first + sum(piece.tokens for piece in parts)
    blank = "" if text.plain.startswith(" ") else " "
    before, after = f"…{blank}" if start else "", " …" if stop < example.length else ""
    console.print(Text(f"  row {example.row.row}, {_shown(start, stop, example.length)}", style="dim"))
    hang(console, "    ", Text.assemble(before, text, after))


def _shown(start: int, stop: int, length: int) -> str:
    """Which tokens of a row are shown."""
    if (start, stop) == (0, length):
        return f"all {length:,} tokens" if length > 1 else "its 1 token"
    return f"tokens {start}..{stop} of {length:,}"


def extent(told: Told) -> str:
    """How many rows a finding concerns: "12 of 1,200 rows (1.0 %)"."""
    from maskcli.report.glance import share

    return f"{told.rows:,} of {told.of:,} rows ({share(told.rows, told.of)})"


def rows_of(told: Told) -> str:
    """The first rows, and how to get all of them."""
    rows = [_row(row, several=len({each.file for each in told.first}) > 1) for row in told.first[:LISTED]]
    more = told.rows - len(rows)
    rest = f" and {more:,} more; --rows {told.code} lists them all" if more > 0 else ""
    return ", ".join(rows) + rest


def _row(row: RowOf, several: bool) -> str:
    from maskcli.report.terminal import clean

    return f"{clean(row.file)}:{row.row}" if several else str(row.row)


def closing(audits: Audits) -> str:
    """Counts of findings, and of what was looked at."""
    from maskcli.masks.words import counted

    counts = [counted(count, name) for name, count in audits.counts().items() if count]
    whole = f"{counted(audits.rows, 'row')}"
    if len(audits.sets) > 1:
        whole += f" of {counted(len(audits.sets), 'set')}"
    if counts:
        return f"{', '.join(counts)} in {whole}"
    decided = frozenset().union(*(audited.decided for audited in audits.sets))
    return f"nothing found in {whole}, by {counted(len(decided), 'rule')}"


def _missing(audits: Audits) -> dict[tuple[str, ...], frozenset[str]]:
    """For each set of options the rules that decided nowhere for want of it.

    What only columns tell that are not there is left to JSON: a set need not have them. So is what no option
    would tell, as the beginning of texts of a tokenizer that has none.
    """
    decided = frozenset().union(*(audited.decided for audited in audits.sets))
    missing: dict[tuple[str, ...], frozenset[str]] = {}
    for skip in (skip for audited in audits.sets for skip in audited.skipped if skip.code not in decided):
        if all("--" in need for need in skip.needs) and not _is_settled(skip.code, decided, audits):
            missing[skip.needs] = missing.get(skip.needs, frozenset()) | {skip.code}
    return missing


def _is_settled(code: str, decided: frozenset[str], audits: Audits) -> bool:
    """Whether there is nothing to decide for a rule, by what is known."""
    return (audits.token is not None and code in OF_TOKENIZERS) or SETTLED_BY.get(code) in decided


def _concise(audits: Audits) -> Iterator[str]:
    """One line a finding."""
    from maskcli.report.terminal import clean

    for audited in audits.sets:
        for told in audited.findings:
            yield f"{clean(audited.name)}: {told.code} {told.name} {told.severity}: {extent(told)}: "
            yield f"{clean(told.message)} (rows {rows_of(told)})\n"
    yield f"{closing(audits)}\n"


def _json(audits: Audits) -> Iterator[str]:
    """One object."""
    from maskcli import __version__
    from maskcli.report.terminal import json_text

    sets = []
    for audited in audits.sets:
        findings = [_finding(told, audits) for told in audited.findings]
        sets.append({**_set(audited), "findings": findings, "skipped": _skipped(audited)})
    summary = {**audits.counts(), "sets": len(audits.sets), "rows": audits.rows}
    whole = {"schema_version": SCHEMA_VERSION, "maskcli": __version__, "sets": sets}
    if audits.errors:
        whole["errors"] = [{"name": name, "message": text} for name, text in audits.errors]
    yield json_text({**whole, "summary": summary}) + "\n"


def _jsonl(audits: Audits) -> Iterator[str]:
    """A line a finding, and one for each set behind its findings."""
    from maskcli.report.terminal import json_text

    for audited in audits.sets:
        head = {"schema_version": SCHEMA_VERSION, "name": audited.name}
        for told in audited.findings:
            yield json_text({**head, "finding": _finding(told, audits)}) + "\n"
        whole = {**head, **_set(audited), "skipped": _skipped(audited), "summary": audited.counts()}
        yield json_text(whole) + "\n"


def _set(audited: Audited) -> dict[str, Any]:
    """A set without its findings."""
    from dataclasses import asdict

    glance = asdict(audited.glance)
    turns = {
        role: dict(zip(("turns", "tokens", "counted"), numbers, strict=True))
        for role, numbers in audited.glance.turns.items()
    }
    return {
        "name": audited.name,
        "glance": {**glance, "padding": audited.glance.padding, "turns": turns},
        "columns": audited.roles,
        "unread": audited.unread,
        "notes": list(audited.notes),
    }


def _skipped(audited: Audited) -> list[dict[str, Any]]:
    return [{"code": each.code, "name": each.name, "needs": list(each.needs)} for each in audited.skipped]


def _finding(told: Told, audits: Audits) -> dict[str, Any]:
    """A finding as JSON."""
    return {
        "code": told.code,
        "name": told.name,
        "severity": told.severity,
        "message": told.message,
        "fix": told.fix,
        "rows": told.rows,
        "of": told.of,
        "share": told.share,
        "tokens": told.tokens,
        "first": [row._asdict() for row in told.first],
        "evidence": told.evidence,
        "examples": [_example(example, audits) for example in told.examples],
    }


def _example(example: Example, audits: Audits) -> dict[str, Any]:
    """A row as JSON; counted and flagged tokens are runs of places in the row."""
    token = audits.token
    return {
        **example.row._asdict(),
        "length": example.length,
        "start": example.first,
        "ids": list(example.tokens),
        "tokens": None if token is None else [token(number) for number in example.tokens],
        "counted": _runs(example.counted, example.first),
        "flagged": _runs(example.flagged, example.first),
    }


def _runs(flags: tuple[bool, ...], first: int) -> list[list[int]]:
    """Runs [start, stop) of True, the first flag standing at `first`."""
    from itertools import pairwise

    edges = [at for at, (left, right) in enumerate(pairwise((False, *flags, False))) if left != right]
    return [[first + start, first + stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _csv(audits: Audits) -> Iterator[str]:
    """A row a finding, under a header."""
    from maskcli.report.terminal import csv_line

    yield "set,code,name,severity,rows,of,share,tokens,message,fix,first\n"
    for audited in audits.sets:
        for told in audited.findings:
            numbers = (told.rows, told.of, told.share, told.tokens)
            first = " ".join(_row(row, several=True) for row in told.first)
            whole = (
                audited.name,
                told.code,
                told.name,
                told.severity,
                *numbers,
                told.message,
                told.fix,
                first,
            )
            yield csv_line(whole)


Writer = Callable[..., None]


def _for_ci(tell: Tell) -> Writer:
    def tell_audits(audits: Audits) -> Iterator[str]:
        from maskcli.report.entries import of_audits

        return tell(of_audits(audits, closing(audits)))

    return in_pieces(tell_audits)


def _page(audits: Audits, path: str | None, megabytes: int | None = None) -> None:
    from maskcli.report.page.audited import save_audited

    save_audited(audits, path, megabytes)


FORMS: tuple[Form[Writer], ...] = (
    Form("text", (".txt",), on_screen(_text)),
    Form("concise", (), in_pieces(_concise)),
    Form("json", (".json",), in_pieces(_json)),
    Form("jsonl", (".jsonl",), in_pieces(_jsonl)),
    Form("csv", (".csv",), in_pieces(_csv)),
    *ci_forms(_for_ci),
    Form(None, PAGES, _page),
)
