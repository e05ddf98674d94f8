"""What a trace is asked for, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from maskcli.diagnostics.diagnose import Report
from maskcli.diagnostics.plain import counts_in_words, plain
from maskcli.masks.words import counted
from maskcli.meant.facts import Declared

if TYPE_CHECKING:
    from maskcli.diagnostics.probed import ProbeReport
    from maskcli.tensors import Roled


@dataclass(frozen=True)
class Options:
    """What of a program is checked, and what is kept of it.

    Every `every`-th step, `limit` calls at most, the modules whose path matches one of `modules` (shell
    globs; none: all). `save` is a folder for the tensors of findings, with `save_all` those of every call.
    With `measure` the masks of its models are measured when it has ended; what `draws` wants the calls in
    which something was found.
    """

    declared: Declared = Declared()
    token: Callable[[int], str] | None = None
    codes: Collection[str] | None = None
    every: int = 1
    limit: int | None = None
    modules: tuple[str, ...] = ()
    save: str | None = None
    save_all: bool = False
    measure: bool = False
    draws: bool = False


class SoFar(NamedTuple):
    """What a trace has seen while the program runs: the findings by severity, and their codes."""

    step: int
    calls: int
    counts: Mapping[str, int]
    codes: tuple[str, ...]


# Who is told of every call, and asks for all so far when it wants to.
Told = Callable[[Callable[[], SoFar]], None]


class Missed(NamedTuple):
    """So many softmaxes over [Q, K] in a module, whose values were not met."""

    module: str
    shape: tuple[int, ...]
    softmaxes: int


class Kept(NamedTuple):
    """A call in which something was found first: its step, copies of its tensors, and what was meant."""

    step: int
    tensors: tuple[Roled, ...]
    declared: Declared
    token: Callable[[int], str] | None


@dataclass(frozen=True)
class TraceReport(Report):
    """What was found in a running program. `checked` are the modules whose calls were.

    `calls` is how many attention calls were seen in `steps` steps, `looked` how many of them were checked;
    `changed` says what watching changed. `missed` are softmaxes that were not followed to values, `unseen`
    modules that look like attention and showed none; calls came from so many `threads` and `processes`, and
    `lost` child processes left no report; `unfollowed` says why others were not followed. `measured` are the
    masks of its models by what these do, `unmeasured` says what could not be; `kept` are calls with findings,
    for what draws them.
    """

    calls: int = 0
    looked: int = 0
    steps: int = 0
    changed: tuple[str, ...] = ()
    missed: tuple[Missed, ...] = ()
    unseen: tuple[str, ...] = ()
    threads: int = 1
    processes: int = 1
    lost: int = 0
    unfollowed: tuple[str, ...] = ()
    measured: tuple[ProbeReport, ...] = ()
    unmeasured: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        """A line for each finding, and one that counts them."""
        return plain(self.findings, self.closing)

    @property
    def closing(self) -> str:
        """Counts of findings, and of the calls that were looked at."""
        found = counts_in_words(self.counts())
        if not self.calls:
            return f"{found if self.findings else 'nothing was checked'}: no attention call was seen"
        return (
            f"{found} in {self.looked:,} checked of {counted(self.calls, 'attention call')} "
            f"({counted(len(self.checked), 'module')}, {counted(self.steps, 'step')})"
        )
