"""Tokenizer and Encoding: what every way of turning text into token ids looks like from outside."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from maskcli.arrays import Array
from maskcli.errors import MaskcliError

# The roles a special token can play; `--pad-token` takes any of them in place of a token.
ROLES = ("pad", "bos", "eos", "unk", "sep", "cls", "mask")


def quoted(value: object) -> str:
    """The value as an error shows it: escaped by repr, without its middle beyond 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:48]}...{text[-48:]}"


@dataclass(frozen=True, eq=False)
class Encoding:
    """One sequence [L]: ids int64, special bool, type_ids int64.

    `total` counts the tokens before truncation; `end_lost` says that truncation removed the eos token at
    the end.
    """

    ids: Array
    special: Array
    type_ids: Array
    total: int
    end_lost: bool = False

    def __len__(self) -> int:
        return len(self.ids)


# What Python makes of bytes that are not UTF-8 in arguments; no tokenizer takes it.
_SURROGATE = re.compile("[\ud800-\udfff]")
# (text, pair, special_tokens, max_length) to Encoding. special_tokens=None is the tokenizer's own habit.
Encode = Callable[[str, str | None, bool | None, int | None], Encoding]
# (texts, special_tokens) to the ids of each, without a maximum: what is faster for many than one by one.
EncodeMany = Callable[[Sequence[str], bool | None], list[list[int]]]
Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]]


class Render(Protocol):
    """What turns messages into a text."""

    def __call__(
        self, messages: Messages, generation_prompt: bool = False, tools: Tools | None = None
    ) -> str:
        """The text."""


class Marked(Protocol):
    """What tells, token by token of the text without further special tokens, what the loss is to count."""

    def __call__(
        self, messages: Messages, generation_prompt: bool = False, tools: Tools | None = None
    ) -> list[int]:
        """1 on tokens that count, 0 on others."""


class Rows(NamedTuple):
    """The ids of many conversations, and for each token whether `{% generation %}` marks it, None without."""

    ids: list[list[int]]
    marks: list[list[int]] | None = None


class Many(Protocol):
    """What turns many conversations into rows of ids: faster than one by one, and refused as a whole."""

    def __call__(
        self, conversations: Sequence[Messages], generation_prompt: bool = False, tools: Tools | None = None
    ) -> Rows:
        """The rows, without further special tokens."""


@dataclass(frozen=True, eq=False)
class Template:
    """A chat template: its source, `render` to text, `many` to rows of ids.

    `marked` is 1 on each token inside `{% generation %}`, and None for a template without such marks.
    """

    source: str = field(repr=False)
    render: Render = field(repr=False)
    many: Many = field(repr=False)
    marked: Marked | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A loaded tokenizer.

    `roles` maps pad, bos, eos, unk, sep, cls, mask to ids, for those it has; `model_max_length` is None
    when the files name no sane one; `padding_side` is the files' default. `pad_borrowed` names the role
    whose token the user made the pad token. `template` turns chat messages into text, None without one;
    `templated` makes a template of another source, where the tokenizer's library can.
    """

    name: str
    roles: Mapping[str, int]
    special_ids: frozenset[int]
    encoder: Encode = field(repr=False)
    text_of: Callable[[int], str | None] = field(repr=False)
    id_of: Callable[[str], int | None] = field(repr=False)
    size: Callable[[], int] = field(repr=False)
    padding_side: str = "right"
    model_max_length: int | None = None
    pad_type_id: int = 0
    pad_borrowed: str | None = None
    encoder_of_many: EncodeMany | None = field(default=None, repr=False)
    template: Template | None = None
    templated: Callable[[str], Template] | None = field(default=None, repr=False)

    @property
    def pad_id(self) -> int | None:
        """The id of the pad token, None when there is none."""
        return self.roles.get("pad")

    @property
    def bos_id(self) -> int | None:
        """The id of the token that begins a sequence, None when there is none."""
        return self.roles.get("bos")

    @property
    def eos_id(self) -> int | None:
        """The id of the token that ends a sequence, None when there is none."""
        return self.roles.get("eos")

    @property
    def pad_token(self) -> str | None:
        """The pad token's text, None when there is none."""
        return None if self.pad_id is None else self.token(self.pad_id)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included; the built-in tokenizer's grow as it reads."""
        return self.size()

    def token(self, token_id: int) -> str:
        """The token as people read it: a space is `▁`, a part of a character `\\xe4`, an unknown id `#7`."""
        text = self.text_of(token_id) if 0 <= token_id < 2**31 else None
        return f"#{token_id}" if text is None else text

    def encode(
        self,
        text: str,
        pair: str | None = None,
        special_tokens: bool | None = None,
        max_length: int | None = None,
    ) -> Encoding:
        """The text, or the pair of texts, as one sequence of at most `max_length` tokens."""
        _check_utf8(text, pair or "")
        return self.encoder(text, pair, special_tokens, max_length)

    def encode_many(self, texts: Sequence[str], special_tokens: bool | None = None) -> list[list[int]]:
        """The ids of each text, as `encode` has them."""
        _check_utf8(*texts)
        if self.encoder_of_many is None:
            return [self.encoder(text, None, special_tokens, None).ids.tolist() for text in texts]
        return self.encoder_of_many(texts, special_tokens)


def _check_utf8(*texts: str) -> None:
    for text in texts:
        if _SURROGATE.search(text):
            raise MaskcliError(
                f"the text {quoted(text)} holds bytes that are not UTF-8; save or paste it as UTF-8 and try "
                "again"
            )


def with_pad_token(tokenizer: Tokenizer, pad_token: str) -> Tokenizer:
    """The same tokenizer, padding with another token: a role ("eos") or a token of its vocabulary."""
    role = pad_token.lower()
    token_id = tokenizer.roles.get(role) if role in ROLES else tokenizer.id_of(pad_token)
    if token_id is None:
        known = ", ".join(role for role in ROLES if role in tokenizer.roles) or "none"
        raise MaskcliError(
            f"tokenizer {quoted(tokenizer.name)} has no token {quoted(pad_token)} to pad with; "
            f"pass one of its special tokens by role (it has: {known}) or a token of its vocabulary"
        )
    borrowed = next((role for role in ("eos", *ROLES[1:]) if tokenizer.roles.get(role) == token_id), None)
    return replace(
        tokenizer,
        roles={**tokenizer.roles, "pad": token_id},
        special_ids=tokenizer.special_ids | {token_id},
        pad_borrowed=None if token_id == tokenizer.pad_id else borrowed,
    )


def with_template(tokenizer: Tokenizer, source: str) -> Tokenizer:
    """The same tokenizer with another chat template."""
    if tokenizer.templated is None:
        raise MaskcliError(
            f"tokenizer {quoted(tokenizer.name)} renders no chat templates; pass --tokenizer with the "
            "folder or hub name of a model beside --template"
        )
    return replace(tokenizer, template=tokenizer.templated(source))


def no_room(max_length: int, reserved: int) -> MaskcliError:
    """The error for a length that the special tokens alone exceed."""
    return MaskcliError(
        f"a maximum length of {max_length} leaves no room for the {reserved} special tokens that the "
        f"tokenizer adds; pass --max-length {reserved + 1} or more"
    )
