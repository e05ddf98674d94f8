"""What diagnose says: findings, and where they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.runs import Runs

# From worst to mildest; the order of reports and of --fail-on.
SEVERITIES = ("error", "warning", "note")


class Where(NamedTuple):
    """A place in the attention matrix; None means all. Queries and keys are runs [start, stop)."""

    batch: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    queries: Runs | None = None
    keys: Runs | None = None


class Flags(NamedTuple):
    """Flagged tokens, bool [B, L], and what places call them: "tokens", or "keys" of a mask."""

    cells: Array
    many: str


@dataclass(frozen=True)
class Found:
    """What a rule returns: where, in which tensors, the sentence, the fix and the numbers behind it.

    Message and fix may hold `{name}` for a number of the evidence or for a few of `values`, `{items}` for the
    samples and, where there are `flags`, `{}` for their place: a whole set has other numbers and other places
    than one batch. `of_set` is the message for a set, where that of a batch says what holds in it alone.
    With `of_all` it speaks of all samples: of a set it holds where none of its batches is Contrary; where one
    is, it is of the severity `of_some`, or nothing is said. `places` says where batch item by batch item when
    the items differ; `explains` is where it is the cause of other findings, when that is more than `where`.
    """

    tensors: tuple[str, ...]
    message: str
    fix: str
    where: Where = Where()
    evidence: dict[str, float | int | str] = field(default_factory=dict)
    severity: str | None = None
    places: tuple[Where, ...] = ()
    explains: Where | None = None
    of_set: str = ""
    of_all: bool = False
    of_some: str | None = None
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    flags: Flags | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Undecided:
    """What a rule returns when nothing there settles it: what would, in words a user can act on."""

    needs: str


@dataclass(frozen=True)
class Contrary:
    """What a rule returns of samples that show the opposite of what it says of all: a batch needs it not, a
    set does.

    With `clears` they show as well that the others are no fault at all.
    """

    clears: bool = False


class Traced(NamedTuple):
    """Where a running program showed a finding: the modules, the first step, how many checked calls, and the
    user's own line.

    A step is a call of the outermost module, counted from 0; `source` is file and line, None when no line is
    the user's.
    """

    modules: tuple[str, ...]
    step: int
    calls: int
    source: tuple[str, int] | None


class Stretch(NamedTuple):
    """Neighbours [start, stop) of an axis that are alike, and their token where all have the same one."""

    start: int
    stop: int
    token: str = ""


class Excerpt(NamedTuple):
    """Queries and keys of a tensor at one sample and head: `attends` and `should` have a cell a stretch."""

    tensor: str
    batch: int
    head: int
    queries: tuple[Stretch, ...]
    keys: tuple[Stretch, ...]
    attends: tuple[tuple[bool, ...], ...]
    should: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class Finding:
    """A Found with its rule, its file and the command that shows it; `traced` says where a program did.

    `known` are facts that it used and nobody declared, each with who told it; `excerpt` are the queries and
    keys of its first tensor that go wrong first.
    """

    code: str
    name: str
    severity: str
    file: str
    tensors: tuple[str, ...]
    message: str
    fix: str
    see: str
    where: Where
    evidence: dict[str, float | int | str]
    places: tuple[Where, ...] = ()
    tokens: tuple[str, ...] = ()
    traced: Traced | None = None
    known: tuple[str, ...] = ()
    excerpt: Excerpt | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        """The finding in a line."""
        return f"{self.code} {self.name} {self.severity}: {self.message}; {self.fix}"


@dataclass(frozen=True)
class Skipped:
    """A rule that could not decide, what would let it, and the options of which each alone would."""

    code: str
    name: str
    file: str
    needs: tuple[str, ...]
    options: tuple[str, ...] = ()


def items_of(flags: Array) -> tuple[int, ...] | None:
    """The indices of True in a boolean vector, or None when all are."""
    return None if flags.all() else tuple(np.flatnonzero(flags).tolist())
