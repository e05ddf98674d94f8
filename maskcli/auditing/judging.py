"""The rules over a batch, row by row: what explains a row stands in it, whatever is beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.auditing.batch import Batch
from maskcli.diagnostics.catalogue import CAUSES, OF_TOKENS, RULES
from maskcli.diagnostics.diagnose import weighs
from maskcli.diagnostics.finding import Contrary, Found, Undecided
from maskcli.diagnostics.needs import met_by, unmet
from maskcli.diagnostics.rule import Rule
from maskcli.meant.facts import Declared
from maskcli.scene.assemble import build_scenes
from maskcli.scene.scene import Scene

# Rules on what a call of a model is given, which a collator makes of the rows of a set.
OF_CALLS = ("MSK403", "MSK405", "MSK406")
# What rules may find among tokens alone.
RULES_OF_SETS = tuple(rule for rule in RULES if rule.code in OF_TOKENS and rule.code not in OF_CALLS)


class Verdict(NamedTuple):
    """What a rule found in a batch: in which rows, bool [B], and at which of their tokens, bool [B, L] (None:
    it speaks of rows).
    """

    scene: Scene
    rule: Rule[Scene]
    found: Found
    rows: Array
    tokens: Array | None


@dataclass(eq=False)
class Judged:
    """What rules find that nothing explains, which could decide, and what the others need.

    `contrary` are codes of which some rows show the opposite, and whether that clears all others.
    """

    scenes: tuple[Scene, ...]
    verdicts: list[Verdict] = field(default_factory=list)
    decided: set[str] = field(default_factory=set)
    contrary: dict[str, bool] = field(default_factory=dict)
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)


def judge(batch: Batch, declared: Declared, codes: frozenset[str] | None = None) -> Judged:
    """What the rules find in the rows of a batch; of these `codes` alone (None: of all)."""
    judged = Judged(build_scenes("", batch.tensors, declared))
    for scene in judged.scenes:
        court = _Court(scene, batch, declared, judged)
        for rule in RULES_OF_SETS:
            if codes is None or rule.code in codes:
                judged.verdicts += court.ask(rule)
    for code in judged.decided:
        judged.needs.pop(code, None)
    return judged


class _Court:
    """The rules over one scene; each is asked once."""

    def __init__(self, scene: Scene, batch: Batch, declared: Declared, judged: Judged) -> None:
        self.scene, self.batch, self.declared, self.judged = scene, batch, declared, judged
        self.met = met_by(scene)
        self.asked: dict[str, list[Verdict]] = {}

    def ask(self, rule: Rule[Scene]) -> list[Verdict]:
        """What a rule finds, in rows that no cause explains."""
        if rule.code in self.asked:
            return self.asked[rule.code]
        self.asked[rule.code] = []
        missing = unmet(rule.needs, self.met, self.scene)
        if missing:
            self.judged.needs[rule.code] = missing
            return []

        found, undecided = self._check(rule, self.scene, self.batch.rows)
        if undecided and not found:
            self.judged.needs[rule.code] = undecided
        else:
            self.judged.decided.add(rule.code)
        if found:
            self.asked[rule.code] = self._unexplained(rule, found)
        return self.asked[rule.code]

    def _check(self, rule: Rule[Scene], scene: Scene, rows: Array) -> tuple[list[Verdict], tuple[str, ...]]:
        found, needed = list[Verdict](), dict[str, None]()
        for answer in rule.check(scene):
            if isinstance(answer, Undecided):
                needed[answer.needs] = None
            elif isinstance(answer, Contrary):
                self.judged.contrary[rule.code] = answer.clears or self.judged.contrary.get(rule.code, False)
            else:
                found.append(_verdict(scene, rule, answer, len(rows)))
        return found, tuple(needed)

    def _unexplained(self, rule: Rule[Scene], found: list[Verdict]) -> list[Verdict]:
        """Verdicts on rows that no cause explains: where one explains some, the others are judged anew."""
        causes = [cause for each in CAUSES[rule.code] if each in RULES_OF_SETS for cause in self.ask(each)]
        explained = np.zeros(len(self.batch.rows), bool)
        for verdict in found:
            for cause in causes:
                if weighs(cause.found, verdict.found, rule):
                    explained |= _explained(cause, verdict)
        if not explained.any():
            return found
        left = np.flatnonzero(~explained)
        if not left.size:
            return []
        return [self._spread(verdict, left) for verdict in self._anew(rule, left)]

    def _anew(self, rule: Rule[Scene], left: Array) -> list[Verdict]:
        part = self.batch.take(left)
        scenes = build_scenes("", part.tensors, self.declared)
        at = self.judged.scenes.index(self.scene)
        return self._check(rule, scenes[at], part.rows)[0]

    def _spread(self, verdict: Verdict, left: Array) -> Verdict:
        """A verdict on some rows as one on the whole batch."""
        rows = np.zeros(len(self.batch.rows), bool)
        rows[left] = verdict.rows
        tokens = None
        if verdict.tokens is not None:
            tokens = np.zeros((len(rows), verdict.tokens.shape[1]), bool)
            tokens[left] = verdict.tokens
        return verdict._replace(scene=self.scene, rows=rows, tokens=tokens)


def _verdict(scene: Scene, rule: Rule[Scene], found: Found, count: int) -> Verdict:
    """A finding by rows and tokens."""
    if found.flags is not None:
        cells = found.flags.cells
        return Verdict(scene, rule, found, np.any(cells, axis=1), cells)
    rows = np.full(count, found.where.batch is None)
    rows[list(found.where.batch or ())] = True
    return Verdict(scene, rule, found, rows, None)


def _explained(cause: Verdict, verdict: Verdict) -> Array:
    """Rows [B] of a verdict that a cause explains: it is in that row too, at a token of it if both say so."""
    everywhere = cause.found.explains is not None and cause.found.explains.batch is None
    rows: Array = verdict.rows if everywhere else cause.rows & verdict.rows
    first, second = _places(cause), _places(verdict)
    if first is None or second is None or first.shape != second.shape:
        return rows
    rows &= np.any(first & second, axis=1)
    return rows


def _places(verdict: Verdict) -> Array | None:
    """Flagged tokens that say where a row is wrong; None where a finding explains or is about all of it."""
    flags = verdict.found.flags
    spread = verdict.found.explains is not None
    return verdict.tokens if flags is not None and flags.many == "tokens" and not spread else None
