"""Counts, runs and batch items in words: the same ones in findings, differences and names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from maskcli.masks.runs import Runs

# Runs that are written out before the rest is counted or cut off.
LISTED_RUNS = 4
# Batch items likewise.
LISTED_ITEMS = 8


def counted(count: int, noun: str) -> str:
    """A number and its noun: "1 file", "1,200 files"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def first(parts: Iterable[str], most: int, rest: str = " …") -> str:
    """The first parts, joined by commas; `rest` follows where there are more, with {} for how many.

    >>> first(["a", "b", "c"], 2, " and {} more")
    'a, b and 1 more'
    """
    whole = list(parts)
    left = len(whole) - most
    return ", ".join(whole[:most]) + (rest.format(left) if left > 0 else "")


def span(start: int, stop: int) -> str:
    """One run: "4", or "12..16" (stop not included)."""
    return str(start) if stop - start == 1 else f"{start}..{stop}"


def runs_in_words(runs: Runs, one: str, many: str, rest: str = " …") -> str:
    """Runs with what they count: "key 4", "keys 12..16, 20"."""
    if len(runs) == 1 and runs[0][1] - runs[0][0] == 1:
        return f"{one} {runs[0][0]}"
    return f"{many} {first((span(*run) for run in runs), LISTED_RUNS, rest)}"


def items_in_words(items: Sequence[int], rest: str = " …") -> str:
    """Batch items: "sample 2", "samples 0, 3"."""
    noun = "sample" if len(items) == 1 else "samples"
    return f"{noun} {first(map(str, items), LISTED_ITEMS, rest)}"
