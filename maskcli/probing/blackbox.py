"""Texts whose log-probs should agree, asked of a server: what changes around a text, and how far it moves."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.probing.completions import Completions
from maskcli.probing.logprobs import Scored

# Tokens that are generated behind a text, so that decoding is compared as well.
GENERATED = 8
# An accusation is this much above repeats, which may be bit for bit alike, and above texts of other lengths,
# which never are.
OVER_REPEATS, OVER_SHAPES = 10, 5
# How often what accuses is asked again.
CHECKS = 2


class Noise(NamedTuple):
    """How far log-probs are apart without a cause: in requests of the `same` shape, and of other `shapes`."""

    same: float
    shapes: float = 0.0

    def limit(self, least: float) -> float:
        """What accuses a test in which no change below `least` does."""
        return max(OVER_REPEATS * self.same, OVER_SHAPES * self.shapes, least)


class Words:
    """Texts of some token ids. Those of `seed` are the same in every run; `fresh` ones never were before."""

    def __init__(self, ids: Array, seed: int = 0) -> None:
        self.ids = ids
        self._known = np.random.default_rng(seed)
        self._fresh = np.random.default_rng()

    def text(self, length: int) -> list[int]:
        """Ids at random."""
        return [int(each) for each in self._known.choice(self.ids, length)]

    def fresh(self, length: int) -> list[int]:
        """Ids that no cache has."""
        return [int(each) for each in self._fresh.choice(self.ids, length)]

    def others(self, text: list[int]) -> list[int]:
        """Another id in every place."""
        steps = self._known.integers(1, len(self.ids), len(text))
        at = np.searchsorted(self.ids, text)
        return [int(each) for each in self.ids[(at + steps) % len(self.ids)]]


@dataclass(frozen=True, eq=False)
class Case:
    """A text and what a server answers to it alone; changes are told over the `spread` of its log-probs.

    `decodes` says that tokens are generated as they are scored; else they are left out of all comparisons.
    `first` is how far the first answer was from all others, which agree, where that is more than rounding.
    """

    completions: Completions
    words: Words
    text: list[int]
    alone: Scored
    decodes: bool = True
    first: float = 0.0

    @property
    def spread(self) -> float:
        """The standard deviation of the log-probs of the text."""
        return float(np.std(self.alone.token[1 : len(self.text)]))

    def apart(self, one: Scored, other: Scored, until: int) -> Array:
        """How far two answers are apart, float [until + 1], whose texts agree before `until`.

        There the token itself may differ, yet the likeliest one has the same log-prob.
        """
        size = min(until + 1, len(one.token), len(other.token))
        token = np.abs(one.token[:size] - other.token[:size])
        token[until:] = 0
        top = np.abs(one.top[:size] - other.top[:size])
        gaps: Array = np.nan_to_num(np.fmax(token, top)) / self.spread
        return gaps

    def again(self, other: Scored, one: Scored | None = None) -> Array:
        """How far two answers to the same text are apart, as far as they generate the same."""
        one = self.alone if one is None else one
        pairs = zip(one.generated, other.generated, strict=False)
        alike = next((at for at, (a, b) in enumerate(pairs) if not a or a != b), len(one.generated))
        return self.apart(one, other, one.length + alike * self.decodes)


def largest(gaps: Array) -> float:
    """The largest gap; 0 of none."""
    return float(gaps.max(initial=0.0))


def joined(*parts: Array) -> Array:
    """The largest of some gaps in each place."""
    gaps = np.zeros(max(map(len, parts)))
    for part in parts:
        gaps[: len(part)] = np.maximum(gaps[: len(part)], part)
    return gaps


def accusing(ask: Callable[[], Array], limit: float, gaps: Array) -> Array:
    """Gaps that accuse are asked for again, and the smallest in each place counts.

    What others ask of a server passes, and so does the rounding of experts that other tokens share.
    """
    for _ in range(CHECKS):
        if largest(gaps) <= limit:
            break
        again = ask()
        size = min(len(gaps), len(again))
        gaps = np.minimum(gaps[:size], again[:size])
    return gaps


def future(case: Case) -> Array:
    """Later tokens are changed, from two places on; no log-prob before them may move."""
    size = len(case.text)
    moved = []
    for cut in (size // 3, 2 * size // 3):
        changed = case.text[:cut] + case.words.others(case.text[cut:])
        moved.append(case.apart(case.alone, case.completions.score(changed, generate=GENERATED)[0], cut))
    return joined(*moved)


def beginning(case: Case) -> Array:
    """Beginnings of the text alone, of lengths that no kernel is made for."""
    size = len(case.text)
    cuts = (size // 3 | 1, 2 * size // 3 | 1)
    alone = {cut: case.completions.score(case.text[:cut])[0] for cut in cuts}
    return joined(*(case.apart(case.alone, scored, cut) for cut, scored in alone.items()))


def decoded(case: Case) -> Array | None:
    """The tokens that were generated, scored as a text; None when the server does not tell which they are."""
    ids = case.alone.ids
    size = len(case.text)
    # Log-probs after a temperature of 0 are 0.
    if not ids or not case.alone.token[size:].any():
        return None
    scored = case.completions.score(case.text + ids)[0]
    gaps = case.apart(case.alone, scored, size + len(ids))
    gaps[:size] = 0
    return gaps


def in_one_request(case: Case) -> Array:
    """Between two other texts of the same length, in one request."""
    before, after = (case.words.text(len(case.text)) for _ in range(2))
    return case.again(case.completions.score(before, case.text, after, generate=GENERATED)[1])


def at_once(case: Case) -> Array:
    """In two requests beside a third, at the same time: one of the two is behind something else."""
    texts = (case.text, case.words.text(len(case.text)), case.text)
    start = Barrier(len(texts))

    def ask(text: list[int]) -> Scored:
        start.wait()
        return case.completions.score(text, generate=GENERATED)[0]

    with ThreadPoolExecutor(len(texts)) as pool:
        first, _, last = pool.map(ask, texts)
    return joined(case.again(first), case.again(last))


def beside_longer(case: Case) -> Array:
    """With its own beginning and a longer text in one request: each of them reads its own tokens alone."""
    size = len(case.text)
    shorter, longer = case.text[: size // 3], case.text + case.words.text(size // 2)
    first, own, last = case.completions.score(shorter, case.text, longer, generate=GENERATED)
    parts = [case.apart(case.alone, first, len(shorter)), case.again(own), case.apart(case.alone, last, size)]
    return np.concatenate(parts)


def cached(case: Case) -> Array:
    """A text that the server never saw, and again without its own log-probs, which no cache holds.

    Asked again it is another text, whose places say nothing of those before: the largest gap counts.
    """
    text = case.words.fresh(len(case.text))
    cold = case.completions.score(text, generate=GENERATED)[0]
    new = largest(case.again(case.completions.generate(text, GENERATED), cold))
    return np.array([max(new, case.first)])


def first_changed(case: Case) -> Array:
    """The first token is changed: by how much each log-prob moves, float [n]."""
    size = len(case.text)
    changed = case.words.others(case.text[:1]) + case.text[1:]
    return case.apart(case.alone, case.completions.score(changed, generate=GENERATED)[0], size)[:size]
