"""Markers of turns: what a chat template writes before and behind each role's contents, as ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from maskcli.text.sentinels import Gap, Ids, Slot, common_prefix, common_suffix

# In the order in which they keep a header that two of them share.
ROLES = ("assistant", "user", "tool", "system", "other")
# Fewer plain tokens than these are found in any text.
_DISTINCT = 3


class Header(NamedTuple):
    """Ids before a role's content; the first `need` of them are enough to know it by.

    `borrowed`: the same ids also end another role's turn, so that with nothing behind them they are no turn.
    """

    role: str
    ids: Ids
    need: int
    borrowed: bool = False


class End(NamedTuple):
    """Ids that end a turn of these roles."""

    ids: Ids
    roles: frozenset[str]


@dataclass(frozen=True)
class Vocabulary:
    """What is asked of single ids: whether one is special, whether one is white space alone."""

    special: Callable[[int], bool]
    blank: Callable[[int], bool]

    def strong(self, ids: Iterable[int]) -> bool:
        """Whether ids hold a special one, which no text of a user makes."""
        return any(self.special(number) for number in ids)

    def trimmed(self, ids: Ids) -> Ids:
        """Ids without white space behind them."""
        while ids and self.blank(ids[-1]):
            ids = ids[:-1]
        return ids

    def tells(self, ids: Ids, whole: Ids) -> bool:
        """Whether a part of a marker still is one: it is special, or little was lost, or enough is left."""
        left = sum(not self.blank(number) for number in ids)
        lost = sum(not self.blank(number) for number in whole) - left
        return left > 0 and (self.strong(ids) or lost == 0 or left >= _DISTINCT)


@dataclass(eq=False)
class Forms:
    """Markers as they are found: ids of headers to their roles, ids of ends to their roles."""

    vocabulary: Vocabulary
    headers: dict[Ids, tuple[str, bool]] = field(default_factory=dict)
    ends: dict[Ids, set[str]] = field(default_factory=dict)

    def add_header(
        self,
        role: str,
        ids: Ids,
        backs: Sequence[int] = (0,),
        fronts: Sequence[int] = (0,),
        borrowed: bool = False,
    ) -> None:
        """A header, also without the ids that some contents change; the first role keeps a shared one."""
        for form in (ids[front : len(ids) - back] for back in backs for front in fronts):
            known = self.headers.get(form)
            taken = known is not None and ROLES.index(known[0]) <= ROLES.index(role)
            if not taken and self.vocabulary.tells(form, ids):
                self.headers[form] = (role, borrowed)

    def add_end(self, role: str, ids: Ids, fronts: Sequence[int] = (0,)) -> None:
        """An end, also without the first ids that some contents change."""
        whole = self.vocabulary.trimmed(ids)
        for front in self.shared(whole, fronts):
            form = whole[front:]
            if self.vocabulary.tells(form, whole):
                self.ends.setdefault(form, set()).add(role)

    def shared(self, ids: Ids, fronts: Sequence[int]) -> list[int]:
        """How many first ids contents change; plain words share tokens with any punctuation before them."""
        return sorted(fronts if self.vocabulary.strong(ids) else {*fronts, *range(_DISTINCT)})

    def headers_of(self, role: str) -> list[Ids]:
        """Forms of a role's header, the longest first."""
        return sorted((ids for ids, (owner, _) in self.headers.items() if owner == role), key=len)[::-1]

    def longest_end(self, ids: Ids) -> int:
        """How many ids the longest known end takes at the front of these."""
        return max((len(end) for end in self.ends if ids[: len(end)] == end), default=0)


def read_gaps(
    forms: Forms, gaps: Sequence[Gap], tails: dict[Slot, list[Ids]], prompts: Sequence[Ids]
) -> None:
    """Read headers and ends off the gaps between slots.

    A gap begins as the text does that stops there (`tails`); what is left is the next one's header. An
    assistant's header is as much of it as a generation prompt writes too (`prompts`).
    """
    # First the gaps whose tails agree: their ends are known where a last turn ends in another way.
    inner = [gap for gap in gaps if gap.before is not None and gap.after is not None and gap.ids]
    ranked = sorted(inner, key=lambda gap: _tail(gap, tails) == 0)
    for gap in ranked:
        _read(forms, gap, tails, prompts)


def _tail(gap: Gap, tails: dict[Slot, list[Ids]]) -> int:
    """How many ids of a gap stand at the text's end too."""
    known = tails.get(gap.before, []) if gap.before else []
    return max((common_prefix(tail, gap.ids) for tail in known), default=0)


def _read(forms: Forms, gap: Gap, tails: dict[Slot, list[Ids]], prompts: Sequence[Ids]) -> None:
    """One gap between two slots."""
    before, after = gap.before, gap.after
    if before is None or after is None:
        return
    if before.role == after.role == "assistant" and before.kind == "thought":
        _read_thought(forms, gap)
        return
    size = _tail(gap, tails) or forms.longest_end(gap.ids)
    header = gap.ids[size:]
    if header and not forms.vocabulary.trimmed(header):
        # The tokens that end a turn begin the next one.
        header = gap.ids
    # What is known to begin that role's turn wherever it stands; the rest also ends the turn before it.
    known = (form for form in forms.headers_of(after.role) if forms.vocabulary.special(form[0]))
    header = next((form for form in known if behind(header, form)), header)
    end = gap.ids[: len(gap.ids) - len(header)]
    if not header:
        forms.add_header(after.role, end, gap.backs, forms.shared(end, gap.fronts), borrowed=True)
        return
    add_end(forms, before, end, gap.fronts)
    add_role(forms, after, header, gap.backs, prompts, (0,) if end else forms.shared(header, gap.fronts))


def _read_thought(forms: Forms, gap: Gap) -> None:
    """Between a thought and its answer: a template that gives each a turn of its own ends the first here."""
    for header in forms.headers_of("assistant"):
        if not forms.vocabulary.strong(header):
            continue
        places = (at for at in range(1, len(gap.ids)) if gap.ids[at : at + len(header)] == header)
        at = next(places, None)
        if at is not None:
            forms.add_end("assistant", gap.ids[:at], gap.fronts)
            return


def add_end(forms: Forms, slot: Slot, ids: Ids, fronts: Sequence[int] = (0,)) -> None:
    """What ends a slot's turn. Behind a tool call's arguments that is the last special id alone."""
    if slot.kind != "call":
        forms.add_end(slot.role, ids, fronts)
        return
    special = [number for number in ids if forms.vocabulary.special(number)]
    if special:
        forms.add_end(slot.role, (special[-1],))


def add_role(
    forms: Forms,
    slot: Slot,
    ids: Ids,
    backs: Sequence[int] = (0,),
    prompts: Sequence[Ids] = (),
    fronts: Sequence[int] = (0,),
) -> None:
    """What stands before a slot's turn."""
    shared, blank = max((_shared(forms, ids, prompt) for prompt in prompts), default=(0, False))
    lost = len(ids) - shared
    if slot.role == "assistant" and shared and blank:
        backs = [*backs, lost]
    elif slot.role == "assistant" and shared:
        ids, backs = ids[:shared], [max(back - lost, 0) for back in backs]
    elif slot.kind == "call":
        return
    forms.add_header(slot.role, ids, backs, fronts)


def _shared(forms: Forms, ids: Ids, prompt: Ids) -> tuple[int, bool]:
    """How much of a header a prompt writes too, and whether the rest of both is white space alone, which may
    be other tokens where a text stops than before a word.
    """
    shared = common_prefix(ids, prompt)
    rests = ids[shared:], prompt[shared:]
    return shared, all(rest and not forms.vocabulary.trimmed(rest) for rest in rests)


def headers(forms: Forms) -> tuple[Header, ...]:
    """Headers with what is needed to know each by; one of no known role where all begin with one token."""
    known = [
        Header(role, ids, _need(forms, role, ids, borrowed), borrowed)
        for ids, (role, borrowed) in forms.headers.items()
    ]
    first = [header.ids[0] for header in known if forms.vocabulary.special(header.ids[0]) and header.need > 1]
    openers = {number for number in first if len({h.role for h in known if h.ids[0] == number}) > 1}
    return (*known, *(Header("other", (number,), 1) for number in sorted(openers)))


def _need(forms: Forms, role: str, ids: Ids, borrowed: bool) -> int:
    """How many first ids of a header tell it from any other role's: all of them in plain text.

    What follows may change: the date in a system's header, a tool's name.
    """
    special = next((at for at, number in enumerate(ids) if forms.vocabulary.special(number)), None)
    others = [form for form, (owner, _) in forms.headers.items() if owner != role]
    longer = any(ids[: len(form)] == form for form in others)
    if special is None or borrowed or longer:
        return len(ids)
    differs = 1 + max((common_prefix(ids, form) for form in others), default=0)
    return min(len(ids), max(differs, special + 1))


def behind(ids: Ids, header: Ids) -> bool:
    """Whether ids end with a header."""
    return common_suffix(ids, header) == len(header)
