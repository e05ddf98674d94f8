"""The black box: what a server's log-probs tell of its masks, caches and neighbours.

Nothing but token ids is sent. Each test asks for the log-probs of texts that should agree, and gives a
`Compared` with the largest change over the spread (standard deviation) of a text's log-probs:

- S-future: later tokens changed; the log-probs before them
- S-prefix: the beginning of a text alone, and inside of it; other lengths, other rounding
- S-decode: tokens as they were generated, and the same scored as a text
- S-neighbours: a text alone, and beside others: in one request, or at the same time
- S-longer: a text alone, and in one request with a shorter and a longer one, which pads
- S-cache: a text that is new to the server, and the same again, from its prefix cache
- S-window: the first token changed; log-probs behind the reach of the layers that are expected
- S-reach: the same without an expectation; how far the first token reaches

Servers round. How far is measured on the way: the same text is scored several times, and beside copies of
itself; its beginning alone differs by rounding where later tokens change nothing. What accuses is asked
again, and the smallest change in each place counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Behaviour, Compared
from maskcli.errors import MaskcliError
from maskcli.probing.blackbox import (
    GENERATED,
    OVER_SHAPES,
    Case,
    Noise,
    Words,
    accusing,
    at_once,
    beginning,
    beside_longer,
    cached,
    decoded,
    future,
    in_one_request,
    largest,
)
from maskcli.probing.completions import Completions, Served, find_served
from maskcli.probing.first_token import MOVED, TOLD_PLACES, reached
from maskcli.probing.wire import SECONDS, Wire

# Long enough for four blocks of a usual prefix cache.
LENGTH = 64
SHORTEST = 12
# How often the same text is scored alone, and how many copies of it go out in one request.
REPEATS, COPIES = 5, 3
# Rounding moves a text of SmolLM2-135M alone, padded or decoded by at most 0.14 of the spread in bfloat16
# (0.015 in float16, 8e-6 in float32), bugs by 0.45 to 5. What moves a beginning by more is no rounding.
ROUNDING = 0.45
# What moves by less than this share of the spread is no accusation, whatever the noise.
LEAST = 0.05
# A change beyond this, and beyond three times the noise, that accuses nobody is told as what cannot be told.
DOUBT, OVER_DOUBT = 0.01, 3
# A server whose repeats are further apart answers at random.
RANDOM = 0.5
# Every vocabulary has these; the first text is made of them.
FIRST_IDS = np.arange(16, 32)
FEWEST_IDS = 8
# No vocabulary has as many, whatever a server names; of a larger one the ids below it are taken.
MOST_IDS = 2**22

Progress = Callable[[str], None]
UNSEEN = (
    "the answers of a server do not show which layer it is, or what happens inside of packed rows; probe the "
    "model for that"
)


class Test(NamedTuple):
    """Log-probs that should agree: what is `asked`, and the `least` change that accuses."""

    name: str
    what: str
    setting: str
    asked: Callable[[Case], Array | None]
    least: float = LEAST


FUTURE = Test("S-future", "log-probs before tokens that are changed", "alone", future)
PREFIX = Test("S-prefix", "the beginning of a text alone and in it", "alone", beginning, ROUNDING)
DECODE = Test("S-decode", "tokens as they are generated and as a text", "alone", decoded)
IN_ONE = Test("S-neighbours", "a text alone and between others", "in one request", in_one_request)
AT_ONCE = Test("S-neighbours", "a text alone and beside others", "at the same time", at_once)
LONGER = Test("S-longer", "a text alone and beside a longer one", "in one request", beside_longer)
CACHE = Test("S-cache", "a text when it is new and again", "prefix cache", cached)


def measure_server(
    url: str,
    served: str | None = None,
    *,
    length: int = LENGTH,
    vocab: int | None = None,
    key: str | None = None,
    layers: Sequence[str | None] = (),
    told: str = "the expectation",
    seconds: float = SECONDS,
    progress: Progress = lambda _: None,
) -> Behaviour:
    """Probe a server with OpenAI's completions, such as vLLM's at http://localhost:8000/v1.

    `served` is the model's name there (None: the only one that it lists), `key` its API key. Texts have
    `length` tokens, with ids below `vocab` (None: with such as the server itself names). `layers` are the
    masks that the layers should have, as specs (None: not known), and `told` who says so. No request takes
    more than `seconds`; `progress` hears which test is at work.

    MaskcliError when the server cannot be reached, tells no log-probs of prompts, or answers the same text
    differently each time.

    >>> measure_server("http://localhost:8000/v1").model  # doctest: +SKIP
    'my-model'
    """
    wire = Wire(url, key, seconds)
    model = find_served(wire, served)
    size = _fitting(length, model)
    completions = Completions(wire, model.name)
    words = Words(_vocabulary(completions, vocab))

    progress("the same text again")
    case, noise = _repeated(completions, words, words.text(size))
    sitting = _Sitting(case, noise, progress)
    _run(sitting)
    progress("the first token")
    end = reached(sitting.case, sitting.noise, layers, told)
    return Behaviour(
        model=model.name,
        calls=0,
        mixing=(),
        seen=(),
        compared=(*sitting.compared, *end.compared),
        reach=end.reach,
        forwards=completions.requests,
        unmeasured=(*sitting.unmeasured, *end.unmeasured),
        notes=(f"{completions.tokens:,} tokens were sent in all", *end.notes, UNSEEN),
    )


@dataclass
class _Sitting:
    """The tests so far, and what is known of rounding."""

    case: Case
    noise: Noise
    progress: Progress
    compared: list[Compared] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)

    def ask(self, test: Test) -> Array | None:
        """The gaps of a test, also when it is asked again; None when the server does not tell them."""
        self.progress(test.what)
        gaps = test.asked(self.case)
        if gaps is None:
            self.unmeasured.append(f"{test.what}: the server tells no ids or log-probs of them")
            return None
        limit = self.noise.limit(test.least)
        gaps = accusing(lambda: _known(test.asked(self.case)), limit, gaps)
        places = np.flatnonzero(gaps > limit)[:TOLD_PLACES]
        cells = tuple((0, int(at)) for at in places)
        self.compared.append(Compared(test.name, test.what, test.setting, largest(gaps), limit, cells))
        return gaps

    def agrees(self, test: Test) -> bool:
        """Ask for a test; whether its texts agree, or nothing can be said."""
        if self.ask(test) is None:
            return True
        found = self.compared[-1]
        if found.agrees and found.difference > max(DOUBT, OVER_DOUBT * max(self.noise)):
            self.unmeasured.append(
                f"{found.what} ({found.setting}): log-probs move by {found.difference:.2g} of their spread, "
                f"more than by noise and less than by a fault, which is from {found.limit:.2g} on"
            )
        return found.agrees


def _known(gaps: Array | None) -> Array:
    return np.zeros(0) if gaps is None else gaps


def _run(sitting: _Sitting) -> None:
    """All tests, each where those before leave it something to say."""
    if not sitting.agrees(FUTURE):
        sitting.unmeasured.append("caches and neighbours, while later tokens change what is said before them")
        return
    # Where later tokens change nothing, a beginning alone differs by rounding, as texts beside others do.
    sitting.ask(PREFIX)
    shapes = max(sitting.noise.shapes, sitting.compared[-1].difference)
    sitting.noise = sitting.noise._replace(shapes=min(shapes, ROUNDING / OVER_SHAPES))
    sitting.case = replace(sitting.case, decodes=sitting.agrees(DECODE))
    if not sitting.agrees(CACHE):
        sitting.unmeasured.append("neighbours, while a text that comes again is told another way")
        return
    alone = [sitting.agrees(test) for test in (IN_ONE, AT_ONCE)]
    if all(alone):
        sitting.agrees(LONGER)
    else:
        sitting.unmeasured.append("padding beside a longer text, while any text beside another changes it")


def _fitting(length: int, model: Served) -> int:
    """How many tokens a text has, so that one half as long again and what is generated still fit."""
    most = model.most_tokens
    size = length if most is None else min(length, (most - GENERATED) * 2 // 3)
    if size < SHORTEST:
        raise MaskcliError(
            f"texts of {size} tokens tell nothing (the model takes {most or 'any number'}); pass a --length "
            f"of {SHORTEST} or more, and probe a model that takes {2 * SHORTEST + GENERATED}"
        )
    return size


def _vocabulary(completions: Completions, vocab: int | None) -> Array:
    """Ids that the server takes: from the middle of its vocabulary, where no special tokens are."""
    if vocab is not None and vocab < FEWEST_IDS:
        raise MaskcliError(
            f"a vocabulary of {vocab} ids is too small; pass a --vocab of {FEWEST_IDS} or more"
        )
    known = FIRST_IDS if vocab is None else _middle(vocab)
    answer = completions.greet([int(each) for each in np.resize(known, len(FIRST_IDS))])
    if vocab is not None:
        return known
    # An id that the server names is one of its own, and so are all below.
    named = max(answer.named, default=0)
    return _middle(named) if named >= 4 * len(FIRST_IDS) else FIRST_IDS


def _middle(vocab: int) -> Array:
    size = min(vocab, MOST_IDS)
    return np.arange(size // 4, size - size // 4)


def _repeated(completions: Completions, words: Words, text: list[int]) -> tuple[Case, Noise]:
    """The first answer to a text, and how far answers to the same are apart."""
    first, warm, *repeats = (completions.score(text, generate=GENERATED)[0] for _ in range(REPEATS))
    case = Case(completions, words, text, first)
    url = completions.wire.url
    if not case.spread > MOVED:
        raise MaskcliError(
            f"{url!r} gives every token the same log-prob, so that nothing can be compared; probe a server "
            "that tells those of its model"
        )
    same = max(largest(case.again(each, warm)) for each in repeats)
    if same > RANDOM:
        raise MaskcliError(
            f"{url!r} answers the same text differently each time (log-probs move by {same:.2g} of their "
            "spread), so nothing can be decided; switch off what is random in it, such as dropout"
        )
    # What the first answer differs by may come from a cold cache, which has a test of its own.
    cold = largest(case.again(warm))
    copies = completions.score(*[text] * COPIES, generate=GENERATED)
    beside = max(largest(case.again(each, warm)) for each in copies)
    case = replace(case, first=cold if cold > ROUNDING else 0.0)
    return case, Noise(
        same=max(same, cold) if cold <= ROUNDING else same,
        shapes=min(beside, ROUNDING / OVER_SHAPES) if beside <= ROUNDING else 0.0,
    )
