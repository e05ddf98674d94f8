"""What the columns of a training set are: by their names, as in `diagnose`, or as a user says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.scene.sides import TOKEN_ROLES
from maskcli.tensors import Kind, group_by_name, role_by_name

# Roles that say where the texts of a packed row begin, each a list a row.
BORDERS = ("lengths", "cu_seqlens", "document_starts")
# One number a row.
OF_ROWS = ("prompt_lengths",)
ROLES_OF_SETS = (*TOKEN_ROLES, "segment_ids", *BORDERS, *OF_ROWS)
# A prompt and what follows it, as trl keeps them: the two make one row, of which the second part counts.
PROMPT = "prompt_ids"
ANSWERS = {"completion_ids": "", "chosen_ids": "chosen", "rejected_ids": "rejected"}
# Masks of the two parts, which say what is padding (TRL's GRPO).
PROMPT_MASK, ANSWER_MASK = "prompt_mask", "completion_mask"
# Masks of the answer alone, which ends a row whose ids are all there, where the answer has a column as well
# (verl's batches).
OF_ANSWERS = {"response_mask": "responses", "completion_mask": "completion_ids"}
# Columns that hold no tokens, and of which nothing needs to be said.
_KNOWN = re.compile(
    r"(pixel|image|video|audio)\w*|images?|videos?|audios?|special_tokens_mask|(max_)?length(_[qk])?|num_tokens|id|idx|index"
    r"|(ref|old|reward|advantage|logp)\w*|rewards?|score\w*|prompts|responses"
)


class Role(NamedTuple):
    """What a column is: its role, the side of a batch and the group (chosen, rejected) that it belongs to."""

    role: str
    kind: Kind = "self"
    group: str = ""


class Joined(NamedTuple):
    """A row in two columns, a prompt and its answer: the ids, and masks of what is no padding, if any."""

    prompt: str
    answer: str
    group: str
    masks: tuple[str, str] | None


@dataclass(frozen=True)
class Columns:
    """The columns of a set: what each that is read is, by its own name, and why the others are not.

    `renamed` says what a user calls a column that is read under another name. `of_answers` are loss masks of
    the last tokens of rows.
    """

    roles: dict[str, Role]
    joined: tuple[Joined, ...] = ()
    unread: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    of_answers: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of numbers to read."""
        parts = [name for each in self.joined for name in (each.prompt, each.answer, *(each.masks or ()))]
        return tuple(dict.fromkeys([*self.roles, *parts]))

    def told(self) -> dict[str, str]:
        """What each column is read as, in words."""
        told = {name: _in_words(role) for name, role in self.roles.items()}
        for each in self.joined:
            side = f" of the {each.group} side" if each.group else ""
            told |= {each.prompt: "ids of the prompt", each.answer: f"ids of the answer{side}"}
            told |= dict.fromkeys(each.masks or (), "padding mask")
        return told


def columns_of(names: Sequence[str], said: Mapping[str, str] | None = None) -> Columns:
    """What columns of numbers are; `said` is the role of a column, by its name, as a user says it.

    Raises MaskcliError for a column that is not there, a role that is none, and where there are no ids,
    labels or masks of tokens at all.

    >>> columns_of(["input_ids", "labels", "my_mask"]).told()
    {'input_ids': 'input_ids', 'labels': 'labels'}
    """
    said = dict(said or {})
    for name, role in said.items():
        _check(name, role, names)
    joined = tuple(_joined(names, said))
    parts = {part for each in joined for part in (each.prompt, each.answer, *(each.masks or ()))}
    roles, unread = dict[str, Role](), dict[str, str]()
    for name in names:
        if name in parts:
            continue
        known = _role(said.get(name, name))
        if known is not None:
            roles[name] = known
        elif not _KNOWN.fullmatch(name):
            unread[name] = f"its name says nothing; say what it is, such as --column loss_mask={name}"
    if not roles and not joined:
        listed = ", ".join(map(repr, names)) or "no columns of numbers"
        raise MaskcliError(
            f"nothing to audit among {listed}: expected input_ids, labels or loss_mask; say what a column is "
            "with --column input_ids=NAME"
        )
    of_answers = frozenset(name for name, answer in OF_ANSWERS.items() if name in roles and answer in names)
    return Columns(roles, joined, unread, of_answers=of_answers)


def is_known(name: str) -> bool:
    """Whether a column of numbers has a role by its name, alone or as part of a row."""
    return _role(name) is not None or name in (PROMPT, *ANSWERS)


def parse_column(text: str) -> tuple[str, str]:
    """`ROLE=NAME` as the column's name and its role."""
    role, equals, name = text.partition("=")
    if not equals or not name or _role(role.strip()) is None:
        raise MaskcliError(
            f"the column {text!r} was not understood; expected ROLE=NAME with one of {_choices()}"
        )
    return name, role.strip()


def columns_said(texts: Sequence[str]) -> dict[str, str]:
    """`ROLE=NAME` of several columns, as the role of each by its name.

    >>> columns_said(["labels=y"])
    {'y': 'labels'}
    """
    said = dict(map(parse_column, texts))
    for role in said.values():
        names = [name for name, its in said.items() if its == role]
        if len(names) > 1:
            raise MaskcliError(
                f"the columns {' and '.join(map(repr, names))} are both said to be {role}; name one"
            )
    if len(said) < len(texts):
        raise MaskcliError(f"a column is given two roles by --column {', '.join(texts)}; give each one")
    return said


def _choices() -> str:
    return ", ".join("attention_mask" if role == "padding_mask" else role for role in ROLES_OF_SETS)


def _check(name: str, role: str, names: Sequence[str]) -> None:
    if name not in names:
        raise MaskcliError(f"there is no column {name!r} of numbers; there are {', '.join(map(repr, names))}")
    if _role(role) is None:
        raise MaskcliError(f"the column {name!r} cannot be {role!r}; choose one of {_choices()}")


def _role(name: str) -> Role | None:
    """The role that a name speaks of, where it is one of tokens."""
    role, kind = (name, "self") if name in ROLES_OF_SETS else role_by_name(name)
    return Role(role, kind, group_by_name(name)) if role in ROLES_OF_SETS else None


def _joined(names: Sequence[str], said: Mapping[str, str]) -> list[Joined]:
    """Prompts and answers that make one row, unless whole rows are there as well."""
    whole = any(_role(said.get(name, name)) == Role("input_ids") for name in names)
    if PROMPT not in names or whole:
        return []
    masks = (PROMPT_MASK, ANSWER_MASK)
    given = masks if set(masks) <= set(names) else None
    return [
        Joined(PROMPT, answer, group, None if group else given)
        for answer, group in ANSWERS.items()
        if answer in names and answer not in said
    ]


def _in_words(role: Role) -> str:
    side = f" of the {role.group} side" if role.group else ""
    kind = "decoder " if role.kind == "decoder" else ""
    return f"{kind}{'attention_mask' if role.role == 'padding_mask' else role.role}{side}"
