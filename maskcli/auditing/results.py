"""What an audit finds: the set at a glance, and findings that are told once for all their rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from maskcli.arrays import Array
from maskcli.diagnostics.finding import SEVERITIES, Skipped
from maskcli.diagnostics.plain import counts_in_words, plain
from maskcli.displayed import Displayed
from maskcli.masks.words import counted

# Rows of which a finding shows the text.
EXAMPLES = 3


class RowOf(NamedTuple):
    """A row: its file (or split) and its number there, counted from 0."""

    file: str
    row: int


@dataclass(frozen=True)
class Example:
    """A row in which something was found: what each token is, as far as it is shown.

    `tokens` are its ids, `counted` whether the loss counts each, `flagged` whether the finding is about it;
    `first` is the place of the first token that is shown, `length` how many tokens the row has.
    """

    row: RowOf
    tokens: tuple[int, ...]
    counted: tuple[bool, ...]
    flagged: tuple[bool, ...]
    first: int = 0
    length: int = 0


@dataclass(frozen=True)
class Told:
    """A rule's finding over a whole set.

    `rows` of `of` rows are concerned; `first` are the first few, `message`, `fix` and `evidence` are those of
    the first chunk that shows it, with numbers added up over all. `where` are the numbers of all rows, file
    by file, int64 and rising, when they were asked for.
    """

    code: str
    name: str
    severity: str
    message: str
    fix: str
    rows: int
    of: int
    tokens: int
    first: tuple[RowOf, ...]
    examples: tuple[Example, ...]
    evidence: dict[str, float | int | str] = field(default_factory=dict)
    where: dict[str, Array] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        """The finding in a line."""
        rows = f"{self.rows:,} of {counted(self.of, 'row')}"
        return f"{self.code} {self.name} {self.severity} ({rows}): {self.message}; {self.fix}"

    @property
    def share(self) -> float:
        """The share of rows concerned."""
        return self.rows / self.of if self.of else 0.0


@dataclass(frozen=True)
class Glance:
    """The whole set in numbers. None: nothing there tells."""

    rows: int
    tokens: int
    real: int
    counted: int | None = None
    rows_uncounted: int | None = None
    rows_whole: int | None = None
    answers: int | None = None
    answer_ends_counted: int | None = None
    longest: int = 0
    rows_longest: int = 0
    rows_longest_without_end: int | None = None
    turns: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    packed_rows: int | None = None
    documents: int | None = None

    @property
    def padding(self) -> int:
        """Tokens that are padding."""
        return self.tokens - self.real


@dataclass(frozen=True)
class Audited(Displayed):
    """The report on one set (or split of it), worst first.

    `glance.turns` holds for each role turns, tokens and counted tokens. `unread` are columns that nothing
    looked at, each with how to say what it is; `roles` what the others were read as.
    """

    name: str
    glance: Glance
    findings: tuple[Told, ...]
    skipped: tuple[Skipped, ...]
    roles: dict[str, str]
    unread: dict[str, str]
    decided: frozenset[str]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A line for each finding, and one that counts them."""
        closing = f"{counts_in_words(self.counts())} in {counted(self.glance.rows, 'row')}"
        if not self.findings:
            closing += f", by {counted(len(self.decided), 'rule')}"
        return plain(self.findings, closing)

    def counts(self) -> dict[str, int]:
        """How many findings of each severity."""
        return {severity: sum(told.severity == severity for told in self.findings) for severity in SEVERITIES}

    def worst(self) -> str | None:
        """The worst severity found."""
        return next((severity for severity in SEVERITIES if self.counts()[severity]), None)
