"""Turns of chats: markers learnt from a chat template or given by hand, and any row of ids split by them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.text.chat import template_of
from maskcli.text.markers import (
    ROLES,
    End,
    Forms,
    Header,
    Vocabulary,
    add_end,
    add_role,
    behind,
    headers,
    read_gaps,
)
from maskcli.text.sentinels import SHAPES, Gap, Ids, Prober, Shape, Slot, as_ids, common_prefix
from maskcli.text.splitting import Kinds, Split, kinds_of, split_rows
from maskcli.text.tokenizer import Tokenizer, quoted
from maskcli.text.warnings import doubled_start

# What is rendered to read markers off; a template refuses what it does not know.
_CONVERSATIONS = (
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant"),
    ("developer", "user", "assistant"),
    ("user", "assistant", "tool", "assistant"),
    ("user", "calling", "tool", "assistant", "user"),
    ("user", "calling", "tool", "tool", "assistant"),
    ("user", "calling", "tool", "user", "assistant"),
    ("user", "thinking", "user", "thinking"),
)
# Where texts may stop.
_STOPS = (
    ("user",),
    ("user", "assistant"),
    ("system",),
    ("user", "calling"),
    ("user", "calling", "tool"),
    ("user", "assistant", "tool"),
    ("user", "thinking"),
    ("user", "assistant", "user"),
)
_SHAPING = (("user",), ("user", "assistant"), ("user", "calling", "tool"))
_STARTS_OF_TURNS = "user='<|im_start|>user\\n'"


class Marks(NamedTuple):
    """Whether a template's marks hold the headers of answers, and the tokens that end them."""

    headers: bool
    ends: bool


@dataclass(frozen=True, eq=False)
class Turns:
    """How turns begin and end in rows of ids.

    `headers` and `ends` are the markers, `starts` what stands before the first turn (the beginning token),
    `tail` what the template writes behind the last end. `prompt` is the generation prompt, empty for none.
    `closes`: an answer has its end where a text stops too, and not only by the turn behind it.
    `between` are the ids between a thought and its answer, such as that of `</think>`. `marks` says what the
    template's `{% generation %}` marks hold of an answer, None without them. `stable`: a conversation's first
    messages are rendered as the beginning of the whole. `keeps_thinking`: also with the thoughts of earlier
    answers; None where no thought is rendered. `doubled_start`: the tokenizer adds a beginning token to
    rendered text that has one already.
    """

    headers: tuple[Header, ...]
    ends: tuple[End, ...]
    special: frozenset[int]
    starts: tuple[Ids, ...] = ()
    tail: Ids = ()
    prompt: Ids = ()
    closes: bool = True
    between: frozenset[int] = frozenset()
    marks: Marks | None = None
    stable: bool = True
    keeps_thinking: bool | None = None
    doubled_start: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles whose turns are told, in the order of ROLES."""
        known = {header.role for header in self.headers}
        return tuple(role for role in ROLES if role in known and role != "other")

    def end_ids(self, role: str = "assistant") -> frozenset[int]:
        """The tokens that end a role's turn: the last of each form of its end. Empty where nothing does."""
        return frozenset(end.ids[-1] for end in self.ends if role in end.roles)

    def split(self, ids: Array, offsets: Array | None = None) -> Split:
        """Each token's turn, role and part.

        `ids` int [B, L], or flat [N] with int `offsets` [B + 1], where rows begin and the last ends. A row
        may begin and end in the middle of a turn. The result has the shape of `ids`.
        """
        flat = np.ascontiguousarray(ids).reshape(-1)
        if offsets is None:
            rows, length = ids.shape
            offsets = np.arange(rows + 1, dtype=np.int64) * length
        told = split_rows(self._kinds, flat, np.asarray(offsets, np.int64))
        columns = (told.turn, told.role, told.part)
        return Split(*(column.reshape(ids.shape) for column in columns))

    def split_real(self, ids: Array, real: Array) -> Split:
        """Each real token's turn, role and part, [B, L] both; padding is outside of any turn."""
        offsets = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
        return self.split(ids[real], offsets).spread(real)

    @cached_property
    def _kinds(self) -> Kinds:
        """The markers as columns; those with a special id hold wherever they stand."""
        markers = (*(item.ids for item in self.headers), *(item.ids for item in self.ends), *self.starts)
        strong = [not self.special.isdisjoint(ids) for ids in markers]
        return kinds_of(self.headers, self.ends, self.starts, strong)


def learn(tokenizer: Tokenizer) -> Turns:
    """The turns of a tokenizer's chat template, read off conversations of known words.

    Raises MaskcliError for a tokenizer without a template, and for a template that renders no conversation
    of a user and an assistant.

    >>> turns = learn(load_tokenizer("my-chat-model", chat=True))  # doctest: +SKIP
    >>> turns.split(np.array([[151644, 872, 198, 9707, 151645, 198]])).role  # doctest: +SKIP
    """
    template = template_of(tokenizer)
    vocabulary = _vocabulary(tokenizer)
    prober = shaped(Prober(tokenizer, template))
    forms = Forms(vocabulary)

    read = cache(prober.gaps)
    observed = [gaps for kinds in _CONVERSATIONS if (gaps := read(kinds))]
    last = [gaps[-1] for kinds in _STOPS if (gaps := read(kinds))]
    tails: dict[Slot, list[Ids]] = {}
    for gap in last:
        if gap.before is not None:
            tails.setdefault(gap.before, []).append(gap.ids)
    prompts = _prompts(prober)

    plain, *others = observed or [[]]
    read_gaps(forms, plain, tails, prompts)
    starts, merged = _read_first(forms, observed, prompts)
    rest = [gap for gaps in others for gap in gaps if not (merged and gap.before == Slot("system"))]
    read_gaps(forms, rest, tails, prompts)
    tail = _read_last(forms, last)
    if not forms.headers_of("assistant"):
        raise MaskcliError(
            f"the chat template of {quoted(tokenizer.name)} renders no conversation of a user and an "
            "assistant whose turns can be told apart; pass another with --template FILE"
        )
    turns = Turns(
        headers=headers(forms),
        ends=tuple(End(ids, frozenset(roles)) for ids, roles in forms.ends.items()),
        special=frozenset(tokenizer.special_ids),
        starts=starts,
        tail=tail,
        prompt=max(prompts, key=len, default=()),
        closes=_closes(last, vocabulary),
        between=_between(observed, vocabulary),
        stable=_stable(prober, ("user", "assistant", "user", "assistant")),
        keeps_thinking=_keeps_thinking(prober),
        doubled_start=_doubled_start(tokenizer, prober),
    )
    return replace(turns, marks=_marks(turns, prober))


def _vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """What the tokenizer says of single ids."""

    def blank(number: int) -> bool:
        text = tokenizer.token(number)
        return not re.sub(r"▁|\\x(?:20|09|0a|0d)", "", text).strip()

    return Vocabulary(tokenizer.special_ids.__contains__, blank)


def shaped(prober: Prober) -> Prober:
    """The prober in the first shape in which the most conversations are rendered whole."""

    def shown(shape: Shape) -> int:
        tried = replace(prober, shape=shape)
        return sum(tried.gaps(kinds, edges=False) is not None for kinds in _SHAPING)

    best = (Shape(), -1)
    for shape in SHAPES:
        count = shown(shape)
        best = (shape, count) if count > best[1] else best
        if count == len(_SHAPING):
            break
    return replace(prober, shape=best[0])


def _prompts(prober: Prober) -> list[Ids]:
    """What the generation prompt adds where a text stops, each form once."""
    found = []
    for kinds in _STOPS:
        plain, prompted = prober.ids(kinds), prober.ids(kinds, generation_prompt=True)
        if kinds[-1] in ("user", "tool") and plain is not None and prompted is not None:
            found.append(prompted[common_prefix(plain, prompted) :])
    return [prompt for prompt in dict.fromkeys(found) if prompt]


def _read_first(
    forms: Forms, observed: Sequence[Sequence[Gap]], prompts: Sequence[Ids]
) -> tuple[tuple[Ids, ...], bool]:
    """What stands before the first slots: the beginning of all texts, a text of the template's own, headers.

    Returns what begins a text outside of any turn, and whether a system's text stands inside the first
    user's turn: both begin alike.
    """
    firsts = [gaps[0] for gaps in observed if gaps[0].after is not None]
    plain = next((gap for gap in firsts if gap.after == Slot("user")), None)
    if plain is None:
        return (), False
    known = next((form for form in forms.headers_of("user") if behind(plain.ids, form)), ())
    lead = plain.ids[: len(plain.ids) - len(known)]
    start, own = _leading(forms, lead)
    if not known:
        forms.add_header("user", lead, plain.backs, borrowed=True)
    elif own:
        forms.add_header("system", own)
    merged = False
    for gap in firsts:
        if gap.after != Slot("system"):
            continue
        begins = gap.ids[: len(start)] == start
        ids = gap.ids[len(start) :] if begins else gap.ids
        if not ids:
            forms.add_header("system", start, borrowed=True)
        elif forms.headers.get(ids, ("", False))[0] == "user":
            merged = True
        else:
            add_role(forms, gap.after, ids, gap.backs, prompts)
    return ((start,) if start else ()), merged


def _leading(forms: Forms, lead: Ids) -> tuple[Ids, Ids]:
    """What begins a text outside of any turn, and the header of a turn of the template's own behind it.

    A turn ends as others do; before it may stand one special id.
    """
    vocabulary = forms.vocabulary
    whole = vocabulary.trimmed(lead)
    end = max((ids for ids in forms.ends if behind(whole, ids)), key=len, default=())
    if not end:
        return lead, ()
    two = len(lead) > 1 and vocabulary.special(lead[0]) and vocabulary.special(lead[1])
    start = lead[:1] if two else ()
    return start, whole[len(start) : len(whole) - len(end)]


def _read_last(forms: Forms, last: Sequence[Gap]) -> Ids:
    """Ends that stand only where a text stops; returns what the template writes behind an answer's end."""
    tail: Ids = ()
    for gap in last:
        if gap.before is None:
            continue
        size = forms.longest_end(gap.ids) if gap.before.kind != "call" else 0
        if not size:
            if gap.before.role == "assistant" or gap.ids not in forms.headers:
                add_end(forms, gap.before, gap.ids, gap.fronts)
        elif gap.before == Slot("assistant"):
            tail = max(tail, gap.ids[size:], key=len)
    return tail


def _closes(last: Sequence[Gap], vocabulary: Vocabulary) -> bool:
    """Whether something stands behind an answer with which a text stops."""
    behind = [gap.ids for gap in last if gap.before == Slot("assistant")]
    return any(vocabulary.trimmed(ids) for ids in behind)


def _between(observed: Sequence[Sequence[Gap]], vocabulary: Vocabulary) -> frozenset[int]:
    """The ids between a thought and its answer in one turn, but for white space."""
    gaps = (gap for each in observed for gap in each if gap.before == Slot("assistant", "thought"))
    told = {number for gap in gaps if gap.after == Slot("assistant") for number in gap.ids}
    return frozenset(number for number in told if not vocabulary.blank(number))


def _marks(turns: Turns, prober: Prober) -> Marks | None:
    """What the template's marks hold of the answers of a conversation."""
    ids, counted = prober.marked(("user", "assistant", "user", "assistant"))
    if not len(counted):
        return None
    split = turns.split(ids[None])
    answers = split.of("assistant")[0] & counted
    return Marks(bool((answers & split.headers[0]).any()), bool((answers & split.ends[0]).any()))


def _stable(prober: Prober, kinds: Sequence[str]) -> bool:
    """Whether each beginning of a conversation is rendered as the beginning of the whole."""
    texts = [prober.text(kinds[:count]) for count in range(1, len(kinds) + 1)]
    known = [text for text in texts if text is not None]
    return all(longer.startswith(shorter) for shorter, longer in pairwise(known))


def _keeps_thinking(prober: Prober) -> bool | None:
    """Whether the thought of an earlier answer is still rendered; None where that of the last one is not."""
    thought = Slot("assistant", "thought")
    one, two = (prober.gaps(("user", "thinking") * count) for count in (1, 2))
    if not one or not any(gap.before == thought for gap in one):
        return None
    return bool(two) and sum(gap.before == thought for gap in two or ()) == 2


def _doubled_start(tokenizer: Tokenizer, prober: Prober) -> bool:
    """Whether the beginning token stands twice when rendered text is encoded as other texts are."""
    text = prober.text(("user", "assistant"))
    return text is not None and doubled_start(tokenizer.encode(text), tokenizer)


def given(markers: Iterable[tuple[str, str | Sequence[int]]], tokenizer: Tokenizer | None = None) -> Turns:
    """Turns by markers of one's own: roles with their headers, several if need be, and `end` for what ends a
    turn.

    Text needs a tokenizer; ids need none.

    >>> given([("user", [5, 6]), ("assistant", [5, 7]), ("end", [8])]).roles
    ('assistant', 'user')
    """
    markers = tuple(markers)
    names = {name for name, _ in markers}
    unknown = sorted(names - {*ROLES[:-1], "end"})
    if unknown or not names - {"end"}:
        wrong = quoted(unknown[0]) if unknown else "the end alone"
        raise MaskcliError(
            f"{wrong} is no role of a turn; give system, user, assistant, tool or end, such as "
            f"{_STARTS_OF_TURNS}"
        )
    named = {number for _, value in markers if not isinstance(value, str) for number in value}
    special = named | (tokenizer.special_ids if tokenizer else frozenset())
    known = _vocabulary(tokenizer) if tokenizer else None
    vocabulary = Vocabulary(special.__contains__, known.blank if known else lambda number: False)
    forms = Forms(vocabulary)
    for name, value in markers:
        for ids in _marker_ids(name, value, tokenizer):
            if name == "end":
                for role in ROLES[:-1]:
                    forms.add_end(role, ids)
            else:
                forms.add_header(name, ids)
    ends = tuple(End(ids, frozenset(roles)) for ids, roles in forms.ends.items())
    return Turns(headers(forms), ends, frozenset(special), closes=bool(ends))


def _marker_ids(name: str, value: str | Sequence[int], tokenizer: Tokenizer | None) -> list[Ids]:
    """A marker's ids: as given, or of its text between several others."""
    if not isinstance(value, str):
        if not value:
            raise MaskcliError(f"the marker of {quoted(name)} is empty; give at least one id")
        return [tuple(int(number) for number in value)]
    if tokenizer is None:
        raise MaskcliError(
            f"the marker {quoted(value)} of {quoted(name)} is text; pass --tokenizer too, or its ids, such "
            f"as {name}=151644,872"
        )
    found = []
    for before in ("", "a", ".", "\n"):
        left = as_ids(tokenizer, before)
        for pair in (("Ab", "Zy"), ("\nA", "\nZ")):
            first, second = (as_ids(tokenizer, before + value + word) for word in pair)
            shared = first[: common_prefix(first, second)]
            found.append(shared[common_prefix(left, shared) :])
    return [ids for ids in dict.fromkeys(found) if ids]


def parse_marker(text: str) -> tuple[str, str | list[int]]:
    r"""A role and its marker as an option gives them: `user=<|im_start|>user\n`, or ids `user=151644,872`.

    >>> parse_marker("user=1,2")
    ('user', [1, 2])
    """
    role, found, marker = text.partition("=")
    if not found or not marker:
        raise MaskcliError(f"{quoted(text)} is not a role and its marker; write {_STARTS_OF_TURNS}")
    if re.fullmatch(r"\d{1,9}(?:[ ,]+\d{1,9})*", marker):
        return role, [int(number) for number in re.findall(r"\d+", marker)]
    return role, re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t"}.get(match[1], "\\"), marker)
