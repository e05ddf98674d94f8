"""What findings of a probe are made of: cells of modules and runs, folded, and comparisons of whole runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from maskcli.diagnostics.behaviour import Compared, Seen
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rules.hits import place
from maskcli.diagnostics.verdicts.called import bare, called_by, meant_by
from maskcli.diagnostics.verdicts.measured import SWAPPED, Apart, Cause, Judged, Why
from maskcli.masks.mask import Mask
from maskcli.masks.words import counted


@dataclass(frozen=True, eq=False)
class Group:
    """One thing that is wrong with some modules, in some runs; `worst` is where most cells are."""

    apart: tuple[Apart, ...]

    @property
    def worst(self) -> Apart:
        """Where most cells are wrong; the first of equals."""
        return max(self.apart, key=lambda each: each.cells.attended)

    @property
    def cause(self) -> Cause | None:
        """What explains the cells."""
        return self.worst.cause

    @property
    def told(self) -> str:
        """What was measured and what was expected, in how many cells of which runs."""
        seen, cells = self.worst.seen, self.worst.cells.attended
        meant = seen.expected
        says = [] if self.cause in SWAPPED else [f"measured {called_by(seen)}"]
        says += [f"{meant.told} says {meant_by(meant, seen)}"] if meant else []
        others = len(self.settings) - 1
        more = f"; so in {counted(others, 'more run')}" if others else ""
        return f"{', '.join(says)} ({counted(cells, 'cell')}, {seen.setting}{more})".lstrip()

    @property
    def settings(self) -> tuple[str, ...]:
        """The runs, that with most wrong cells first."""
        return tuple(dict.fromkeys([self.worst.seen.setting, *(each.seen.setting for each in self.apart)]))

    @property
    def most_keys(self) -> tuple[int, int]:
        """How many keys a query sees at most, and should see, its own among them."""
        seen = self.worst.seen
        assert seen.expected is not None
        own = seen.layout.own[:, None]
        reached = seen.reached | Mask.from_intervals(seen.reached.shape, own, own + 1)
        return int(reached.keys_per_query.max()), int(seen.expected.mask.keys_per_query.max())

    def found(self, message: str, fix: str, *, severity: str | None = None, **more: int | str) -> Found:
        """The finding."""
        worst = self.worst
        rows = np.broadcast_to(worst.cells.keys_per_query > 0, worst.cells.shape[:3])
        seen = np.broadcast_to(worst.cells.seen.any(axis=1), (rows.shape[0], worst.cells.shape[3]))
        evidence: dict[str, float | int | str] = {
            "cells": worst.cells.attended,
            "setting": worst.seen.setting,
            "settings": "; ".join(self.settings),
            "measured": called_by(worst.seen).spec,
            **({"expected": meant_by(worst.seen.expected, worst.seen)} if worst.seen.expected else {}),
            **more,
        }
        where = place(rows, seen)._replace(heads=None)
        return Found(modules(each.seen for each in self.apart), message, fix, where, evidence, severity)


def groups(judged: Judged, why: Why, cross: bool | None = None) -> Iterator[Group]:
    """What is wrong for one reason: modules with the same measured and expected mask together.

    With `cross`, of cross-attention only, or of all else.
    """
    by_module: dict[tuple[str, Cause | None], list[Apart]] = {}
    apart = [each for each in judged.apart if each.why is why]
    deepest = modules(each.seen for each in apart)
    for each in apart:
        if each.seen.module in deepest and cross in (None, each.seen.keys == "cross"):
            by_module.setdefault((each.seen.module, each.cause), []).append(each)
    alike: dict[tuple[object, ...], list[Apart]] = {}
    for (_, cause), members in by_module.items():
        worst = Group(tuple(members)).worst.seen
        expected = bare(worst.expected.spec) if worst.expected else None
        alike.setdefault((cause, bare(called_by(worst).spec), expected), []).extend(members)
    for members in alike.values():
        yield Group(tuple(members))


def modules(seen: Iterable[Seen]) -> tuple[str, ...]:
    """The paths of modules, the deepest only: what holds one of them shows no more than that."""
    names = list(dict.fromkeys(each.module for each in seen))
    return tuple(name for name in names if not any(_is_inside(other, name) for other in names))


def _is_inside(inner: str, outer: str) -> bool:
    return inner != outer and (outer == "" or inner.startswith(f"{outer}."))


def whole(
    judged: Judged, tests: Sequence[str], message: str, fix: str, unless: Sequence[Why] = ()
) -> Iterator[Found]:
    """What comparisons of the whole model say, where no module shows it by itself."""
    if any(each.why in unless for each in judged.apart):
        return
    differing = [each for each in differing_in(judged, *tests) if not _is_harmless(judged, each)]
    if differing:
        yield compared(differing, f"{message} ({said(differing)})", fix)


def differing_in(judged: Judged, *tests: str) -> list[Compared]:
    """Comparisons of these names that rounding does not explain."""
    return [each for each in judged.behaviour.compared if each.test in tests and not each.agrees]


def _is_harmless(judged: Judged, each: Compared) -> bool:
    """Whether other ids in padding change something, and the padding that there is nothing.

    RoBERTa and its like count positions over ids that are no padding: texts are then as they are alone.
    """
    alone = [
        other for other in judged.behaviour.compared if (other.test, other.setting) == ("T2", each.setting)
    ]
    return each.test == "X2" and any(other.agrees for other in alone)


def compared(differing: Sequence[Compared], message: str, fix: str, severity: str | None = None) -> Found:
    """The finding of some comparisons that differ."""
    worst = max(differing, key=lambda each: each.difference)
    evidence: dict[str, float | int | str] = {
        "tests": ", ".join(dict.fromkeys(each.test for each in differing)),
        "difference": worst.difference if math.isfinite(worst.difference) else "infinite",
        "limit": worst.limit,
        "settings": "; ".join(dict.fromkeys(each.setting for each in differing)),
    }
    return Found((), message, fix, evidence=evidence, severity=severity)


def said(differing: Sequence[Compared]) -> str:
    """The comparison that differs most, in words."""
    worst = max(differing, key=lambda each: each.difference)
    return f"{worst.what}: {worst.told}"
