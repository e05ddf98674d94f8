"""Rows without ids: which of their columns are encoded, and how chunks of them become columns of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from maskcli.auditing import encoding
from maskcli.auditing.encoding import Coded, Encode, Encoder, Row, flattened, holds_chats, tools_in
from maskcli.errors import MaskcliError
from maskcli.tables.columns import Chunk, Column
from maskcli.text.chat import template_of
from maskcli.text.learning import Chat, learnt
from maskcli.text.load import load_tokenizer
from maskcli.text.templates import TooCostlyError

# Rows that are encoded together.
ROWS = 512
TOOLS = "tools"
REFUSED = "could not be rendered and counts as empty"
LOOSE = (
    "prompt and answer together do not begin with the tokens of the prompt alone; what is counted begins "
    "where they part"
)
MASK, LABELS = "assistant_masks", "labels"
_PAIR = ("chosen_", "rejected_")


class Form(NamedTuple):
    """A form of rows without ids: its columns, what encodes them, to which sides, and what counts then.

    `says` is the column that tells what counts: a mask, or labels where all does.
    """

    columns: tuple[str, ...]
    encode: Encode
    sides: tuple[str, ...]
    counts: str
    says: str = MASK


# The first whose columns are there is taken.
FORMS = (
    Form(("messages",), encoding.messages, ("",), ""),
    Form(("conversations",), encoding.messages, ("",), ""),
    Form(("prompt", "chosen", "rejected"), encoding.answers, _PAIR, "what follows the prompt"),
    Form(("chosen", "rejected"), encoding.pairs, _PAIR, "what the two do not begin with alike"),
    Form(("prompt", "completion"), encoding.answers, ("",), "what follows the prompt"),
    Form(("text",), encoding.texts, ("",), "every token", LABELS),
)
_MARKED = "what its {% generation %} marks hold, as in a trainer that goes by them"
_TURNS = (
    "the answers and what ends them, as its template has no {% generation %} marks (a trainer that goes by "
    "marks counts nothing, and one that does not counts every token)"
)


class Rendering(NamedTuple):
    """How rows without ids become rows of tokens: the number of their form in FORMS, the column of tools, the
    tokenizer, a template instead of its own, and the number of tokens at which a row is cut.

    It is small, and the same in every process.
    """

    form: int
    tools: str | None
    tokenizer: str
    template: str | None = None
    max_length: int | None = None

    @property
    def read(self) -> tuple[str, ...]:
        """The columns to read."""
        columns = FORMS[self.form].columns
        return columns if self.tools is None else (*columns, self.tools)

    @property
    def made(self) -> tuple[str, ...]:
        """The columns of numbers that come of them."""
        form = FORMS[self.form]
        return tuple(f"{side}{name}" for side in form.sides for name in ("input_ids", form.says))

    @property
    def encoder(self) -> Encoder:
        """What encodes the rows, loaded once in each process."""
        return _encoder(self.tokenizer, self.template, self.max_length)


class Odd(NamedTuple):
    """What is odd in some rows: how many, the first of them (of which file), and why there."""

    what: str
    rows: int
    first: int
    why: str = ""
    file: str = ""


class Rendered(NamedTuple):
    """Rows as columns of numbers, and what is odd in some. Those that could not be rendered are empty."""

    chunk: Chunk
    odd: tuple[Odd, ...]


def rendering_of(
    others: Iterable[str],
    tokenizer: str,
    *,
    tools: str | None = None,
    template: str | None = None,
    max_length: int | None = None,
) -> Rendering | None:
    """How a table is rendered that has these columns of text and messages; None where they are none of FORMS.

    `tools` is the column of tools, where it is not called so.

    >>> rendering_of(["id", "prompt", "completion"], "my-model").read
    ('prompt', 'completion')
    """
    names = list(others)
    if tools is not None and tools not in names:
        listed = ", ".join(map(repr, names)) or "none of text or objects"
        raise MaskcliError(f"there is no column {tools!r} of tools; there are {listed}")
    known = tools or (TOOLS if TOOLS in names else None)
    form = next((at for at, each in enumerate(FORMS) if {*each.columns} <= {*names}), None)
    return None if form is None else Rendering(form, known, tokenizer, template, max_length)


def rendered(chunk: Chunk, rendering: Rendering) -> Rendered:
    """The rows of a chunk as ids and loss masks; columns of numbers that it has are left out.

    Raises MaskcliError for messages and a tokenizer without a chat template.
    """
    by, form = rendering.encoder, FORMS[rendering.form]
    rows = [{name: chunk.objects[name][at] for name in rendering.read} for at in range(chunk.rows)]
    if holds_chats(rows, form.columns):
        template_of(by.tokenizer)
    odd: list[Odd] = []
    parts = [
        _coded(rows[at : at + ROWS], chunk.first + at, rendering, odd) for at in range(0, len(rows), ROWS)
    ]
    columns: dict[str, Column] = {}
    for number, side in enumerate(form.sides):
        ids = [row[: by.max_length] for part in parts for row in part[number].ids]
        counted = [row[: by.max_length] for part in parts for row in part[number].counted]
        flat, offsets = flattened(ids)
        mask = np.concatenate([np.zeros(0, bool), *counted])
        columns[f"{side}input_ids"] = Column(flat, offsets)
        columns[f"{side}{form.says}"] = Column(mask if form.says == MASK else flat, offsets)
    return Rendered(replace(chunk, columns=columns, objects={}), together(odd))


def together(odd: Iterable[Odd]) -> tuple[Odd, ...]:
    """What is odd, each once, with its rows added up; earlier ones come first."""
    told: dict[str, Odd] = {}
    for each in odd:
        known = told.get(each.what)
        told[each.what] = each if known is None else known._replace(rows=known.rows + each.rows)
    return tuple(told.values())


def notes(rendering: Rendering, odd: Sequence[Odd]) -> Iterator[str]:
    """What the numbers of rendered rows mean, and what is odd in some."""
    form, by = FORMS[rendering.form], rendering.encoder
    counts = form.counts or (_MARKED if by.turns is None else _TURNS)
    columns = ", ".join(form.columns)
    yield f"{columns}: rendered by {rendering.tokenizer}; counted here: {counts}"
    if by.max_length is not None:
        yield f"rows are cut at {by.max_length:,} tokens"
    for what, rows, first, why, file in together(odd):
        whose = f"row {first}" + (f" of {file}" if file else "")
        if rows > 1:
            whose = f"{rows:,} rows, the first of them {whose}"
        yield f"{whose}: {what}" + (f" ({why})" if why else "")


@cache
def _encoder(name: str, template: str | None, max_length: int | None) -> Encoder:
    tokenizer = load_tokenizer(name, chat=True, template=template)
    known = tokenizer.template
    if known is None or known.marked is not None:
        return Encoder(tokenizer, None, max_length)
    turns, refusal = learnt(Chat(name, template))
    if turns is None:
        raise MaskcliError(str(refusal))
    return Encoder(tokenizer, turns, max_length)


def _coded(rows: Sequence[Row], first: int, rendering: Rendering, odd: list[Odd]) -> tuple[Coded, ...]:
    """Some rows at once; where one of them is refused, their halves, down to that row."""
    form = FORMS[rendering.form]
    try:
        coded = form.encode(rows, form.columns, tools_in(rows, rendering.tools), rendering.encoder)
    except TooCostlyError:
        raise
    except MaskcliError as error:
        if len(rows) == 1:
            odd.append(Odd(REFUSED, 1, first, str(error)))
            return tuple(Coded([[]], [np.zeros(0, bool)]) for _ in form.sides)
        half = len(rows) // 2
        left = _coded(rows[:half], first, rendering, odd)
        right = _coded(rows[half:], first + half, rendering, odd)
        both = zip(left, right, strict=True)
        return tuple(Coded(one.ids + other.ids, one.counted + other.counted) for one, other in both)
    odd += [Odd(LOOSE, len(side.loose), first + side.loose[0]) for side in coded[:1] if side.loose]
    return coded
