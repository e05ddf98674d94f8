"""Log-probs of texts and of what a server generates behind them, read from whichever form it answers in."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.text.tokenizer import quoted

# Log-probs of impossible tokens are -inf, or what a server writes in its place.
LOWEST = -1e4
# What is above 0 by more than rounding is no log-prob.
HIGHEST = 1e-3
MOST_IDS = 2**31

# Where the log-probs of a text stand: in front of those generated, in a list of their own, or nowhere.
Form = Literal["echo", "prompt_logprobs", "generated"]


class Untold(Exception):  # noqa: N818 (another form is asked for)
    """The answer tells no log-probs of the text."""


class Scored(NamedTuple):
    """The log-probs of a text of n tokens and of the g tokens generated behind it.

    `token` float [n + g] has the log-prob of each token after those before it, `top` that of the likeliest
    token in its place; NaN where the server tells none, as for the first. `generated` are the g tokens as the
    server writes them, "" for one that it does not; `named` are the ids that it speaks of.
    """

    length: int
    token: Array
    top: Array
    generated: tuple[str, ...]
    named: frozenset[int]

    @property
    def ids(self) -> list[int] | None:
        """The ids of the generated tokens; None where the server does not tell them."""
        ids = [_id(name) for name in self.generated]
        return None if None in ids else [each for each in ids if each is not None]


def read(value: dict[str, Any], texts: Sequence[list[int]], form: Form) -> list[Scored]:
    """The completions of some texts, in their order.

    Untold when log-probs are missing; ValueError, with what is there instead, for anything else that is no
    completion.
    """
    choices = value.get("choices")
    if not isinstance(choices, list) or len(choices) != len(texts):
        count = len(choices) if isinstance(choices, list) else "no"
        raise ValueError(f"{count} choices to {len(texts)} prompts")
    ordered = {_index(choice, at): choice for at, choice in enumerate(choices)}
    if set(ordered) != set(range(len(texts))):
        raise ValueError("choices without an index of their own")
    return [_completion(ordered[at], text, form) for at, text in enumerate(texts)]


def _index(choice: Any, at: int) -> int:
    index = choice.get("index", at) if isinstance(choice, dict) else None
    return index if isinstance(index, int) else -1


def _completion(choice: dict[str, Any], text: list[int], form: Form) -> Scored:
    told = choice.get("logprobs")
    if not isinstance(told, dict) or not isinstance(told.get("token_logprobs"), list):
        raise Untold
    token = [_number(each) for each in told["token_logprobs"]]
    places = _aligned(told.get("top_logprobs"), len(token))
    top = [_top(place) for place in places]
    names = [each if isinstance(each, str) else "" for each in _aligned(told.get("tokens"), len(token))]
    named = {_id(name) for place in places if isinstance(place, dict) for name in place}

    if form == "generated":
        before = [math.nan] * len(text)
        token, top, names = before + token, before + top, [""] * len(text) + names
    elif form == "prompt_logprobs":
        apart = choice.get("prompt_logprobs")
        if not isinstance(apart, list):
            raise Untold
        token = [_of(place, at) for place, at in zip_longest(apart, text)] + token
        top = [_top(place) for place in apart] + top
        names = [""] * len(apart) + names
        named |= {_id(f"token_id:{each}") for place in apart if isinstance(place, dict) for each in place}
    _check_length(token, text, form)
    ids = frozenset(each for each in named if each is not None)
    return Scored(len(text), np.array(token), np.array(top), tuple(names[len(text) :]), ids)


def _check_length(token: list[float], text: list[int], form: Form) -> None:
    """Untold unless all tokens of the text but the first have a log-prob."""
    # A server that ignores what was asked tells of what it generates alone.
    if len(token) < len(text):
        raise Untold
    if form != "generated" and any(map(math.isnan, token[1 : len(text)])):
        raise Untold


def _of(place: Any, token: int | None) -> float:
    """The log-prob of one token among those that prompt_logprobs has in its place."""
    if place is None:
        return math.nan
    if not isinstance(place, dict) or str(token) not in place:
        raise ValueError("prompt_logprobs without the tokens of the prompt")
    return _number(_bare(place[str(token)]))


def _top(place: Any) -> float:
    """The largest log-prob in one place: {token: log-prob}, or {id: {"logprob": log-prob}}."""
    if not isinstance(place, dict) or not place:
        return math.nan
    return max(_number(_bare(value)) for value in place.values())


def _bare(value: Any) -> Any:
    return value.get("logprob") if isinstance(value, dict) else value


def _number(value: Any) -> float:
    """A log-prob; NaN where none is told."""
    if value is None:
        return math.nan
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not value <= HIGHEST:
        raise ValueError(f"{quoted(value)} in the place of a log-prob")
    return float(max(value, LOWEST))


def _aligned(value: Any, length: int) -> list[Any]:
    """A list of some length; nothing in each place where it is none."""
    return value if isinstance(value, list) and len(value) == length else [None] * length


def _id(name: str) -> int | None:
    """The id in a token's name, as vLLM writes it when asked: `token_id:17`."""
    found = re.fullmatch(r"token_id:(\d{1,10})", name)
    return int(found[1]) if found and int(found[1]) < MOST_IDS else None
