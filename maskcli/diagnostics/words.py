"""Places, samples, tensors and shares in words, for messages and reports."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Where
from maskcli.masks.runs import Runs
from maskcli.masks.words import first, items_in_words, runs_in_words

# Names, values and groups of samples beyond this many are counted, not listed.
LISTED = 4

# `{name}` in a text, and `{[parts | of a list]}`.
_NAME, _PARTS = re.compile(r"\{(\w+)\}"), re.compile(r"\{\[(.*?)\]\}")
_ONE = {"keys": "key", "queries": "query", "tokens": "token"}


def told(runs: Runs | None, many: str) -> str:
    """Runs of "keys", "queries" or "tokens": "key 4", "keys 12..16, 20..26" (stop left out), "all keys"."""
    return runs_in_words(runs, _ONE[many], many, rest=" and {} more runs") if runs else f"all {many}"


def told_items(batch: tuple[int, ...] | None) -> str:
    """Batch items: "every sample", "sample 3" or "samples 0, 2, 5"."""
    return "every sample" if batch is None else items_in_words(batch, rest=" and {} more")


def told_places(where: Where, places: tuple[Where, ...], many: str = "keys") -> str:
    """Keys (or queries, tokens) of which samples: "keys 12..26 of sample 0, keys 8..26 of sample 1"."""
    spots = places or (where,)
    runs = (spot.keys if many == "keys" else spot.queries for spot in spots)
    parts = (f"{told(run, many)} of {told_items(spot.batch)}" for run, spot in zip(runs, spots, strict=True))
    return first(parts, LISTED, rest=" and {} more groups of samples")


def listed(names: Sequence[str]) -> str:
    """Tensor names: all of a few, else the first, the last and how many."""
    if len(names) <= LISTED:
        return ", ".join(names)
    return f"{names[0]} to {names[-1]} ({len(names)} tensors)"


def few(values: Array | Sequence[int]) -> str:
    """Different whole numbers: the first few."""
    return first((str(whole(value)) for value in np.unique(values)), LISTED, rest=", …")


def lowest(values: Array) -> tuple[int, ...]:
    """As many different whole numbers as `few` needs to know, the lowest of them."""
    return tuple(whole(value) for value in np.unique(values)[: LISTED + 1])


def whole(value: np.number | int) -> int:
    """A whole number; where a file holds an infinity or NaN instead, that."""
    return int(value) if math.isfinite(value) else float(value)  # type: ignore[return-value]


def listed_words(values: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """What stands for values in texts: `{name}` for a few of them, `{first_name}` for the lowest."""
    first_of = {f"first_{name}": numbers[0] for name, numbers in values.items() if numbers}
    return {**first_of, **{name: few(numbers) for name, numbers in values.items()}}


def filled(text: str, words: Mapping[str, object], place: str | None = None) -> str:
    """A text with its `{name}`s in words, and the last `{}` as a place.

    Of parts in a list `{[...]}`, with ` | ` between them, those whose number is 0 are left out. Other braces
    stay what they are, as names of tensors may hold some.

    >>> filled("{[{a} apples | {b} pears]}", {"a": 0, "b": 3})
    '3 pears'
    """
    if place is not None:
        before, _, behind = text.rpartition("{}")
        return filled(before, words) + place + filled(behind, words)
    text = _PARTS.sub(lambda parts: _some(parts[1].split(" | "), words), text)
    return _NAME.sub(lambda name: str(words.get(name[1], name[0])), text)


def _some(parts: Sequence[str], words: Mapping[str, object]) -> str:
    """Parts of which some number is there and not 0."""
    kept = [part for part in parts if any(str(words.get(name)) != "0" for name in _NAME.findall(part))]
    return " and ".join(kept)


def percent(low: float, high: float) -> str:
    """A range of shares: "15 to 47 %"."""
    least, most = _digits(low), _digits(high)
    return f"{most} %" if least == most else f"{least} to {most} %"


def _digits(share: float) -> str:
    return f"{share * 100:.0f}" if share >= 0.095 else f"{share * 100:.2g}"
