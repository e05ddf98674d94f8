"""What a chat template does to training, found by rendering it: marks, ends, prompts, thoughts, roles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from maskcli.text.chat import template_of
from maskcli.text.sentinels import Prober
from maskcli.text.tokenizer import Tokenizer, quoted
from maskcli.text.turns import Marks, learn, shaped

# Conversations whose beginnings should be rendered as the beginnings of the whole.
_GROWING = (("user", "assistant", "user", "assistant"), ("user", "calling", "tool", "assistant"))
# Conversations that show whether a role is taken: one of them will do.
_WITH_ROLE = {
    "system": (("system", "user", "assistant"),),
    "tool": (("user", "calling", "tool", "assistant"), ("user", "assistant", "tool", "assistant")),
}


class Remark(NamedTuple):
    """Something to know of a template: how bad it is (error, warning, note), and a sentence."""

    severity: str
    sentence: str


@dataclass(frozen=True)
class Checked:
    """What a chat template does.

    `marks`: what its generation marks hold of an answer, None without any. `stable_text` and `stable_ids`:
    the beginning of a conversation is rendered, and encoded, as the beginning of the whole. `ends` are the
    tokens that end an answer. `prompt_begins_answers`: behind the generation prompt an answer is rendered as
    it is trained on; None without a prompt. `keeps_thinking`: thoughts of earlier answers are rendered too,
    None where none is. `doubled_start`: the tokenizer adds a second beginning token. `refused` are roles that
    it refuses, or leaves out.
    """

    marks: Marks | None
    stable_text: bool
    stable_ids: bool
    ends: tuple[int, ...]
    prompt_begins_answers: bool | None
    keeps_thinking: bool | None
    doubled_start: bool
    refused: tuple[str, ...]
    remarks: tuple[Remark, ...]


def check(tokenizer: Tokenizer) -> Checked:
    """Check the chat template of a tokenizer that was loaded with `chat=True`.

    Raises MaskcliError for a tokenizer without a template, and for one whose turns cannot be told apart.

    >>> check(load_tokenizer("my-chat-model", chat=True)).remarks  # doctest: +SKIP
    (Remark(severity='note', sentence='the template has no generation marks: …'),)
    """
    turns = learn(tokenizer)
    prober = shaped(Prober(tokenizer, template_of(tokenizer)))
    texts = [[prober.text(kinds[:count]) for count in range(1, len(kinds) + 1)] for kinds in _GROWING]
    ids = [[prober.ids(kinds[:count]) for count in range(1, len(kinds) + 1)] for kinds in _GROWING]
    checked = Checked(
        marks=turns.marks,
        stable_text=all(_grows(each) for each in texts),
        stable_ids=all(_grows(each) for each in ids),
        ends=tuple(sorted(turns.end_ids())),
        prompt_begins_answers=_prompt_begins_answers(prober) if turns.prompt else None,
        keeps_thinking=turns.keeps_thinking,
        doubled_start=turns.doubled_start,
        refused=tuple(
            role
            for role, several in _WITH_ROLE.items()
            if all(prober.gaps(kinds, edges=False) is None for kinds in several)
        ),
        remarks=(),
    )
    return replace(checked, remarks=tuple(_remarks(checked, tokenizer)))


def _grows(steps: Sequence[Sequence[object] | None]) -> bool:
    """Whether each is the beginning of the next, of those that are rendered."""
    known = [step for step in steps if step is not None]
    return all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(known))


def _prompt_begins_answers(prober: Prober) -> bool | None:
    """Whether a prompt with its generation prompt is the beginning of the text with its answer."""
    prompted = prober.ids(("user",), generation_prompt=True)
    whole = prober.ids(("user", "assistant"))
    return None if prompted is None or whole is None else whole[: len(prompted)] == prompted


def _remarks(checked: Checked, tokenizer: Tokenizer) -> Iterator[Remark]:
    """What there is to know, the worst first."""
    ends = ", ".join(quoted(tokenizer.token(number)) for number in checked.ends)
    if checked.marks is not None and checked.ends and not checked.marks.ends:
        yield Remark(
            "error",
            f"the generation marks leave out {ends}, which ends an answer: a loss on answers alone never "
            "teaches to stop; move {% endgeneration %} behind it",
        )
    if checked.doubled_start:
        yield Remark(
            "warning",
            f"template and tokenizer both write {quoted(tokenizer.token(tokenizer.bos_id or 0))}: encode "
            "rendered text with add_special_tokens=False",
        )
    yield from _on_marks(checked)
    yield from _on_prompts(checked)
    if checked.ends and tokenizer.eos_id is not None and tokenizer.eos_id not in checked.ends:
        yield Remark(
            "note",
            f"answers end in {ends}, and the tokenizer's end is {quoted(tokenizer.token(tokenizer.eos_id))}: "
            "a generation has to stop at both",
        )
    if not checked.ends:
        yield Remark("note", "nothing ends an answer but the next turn: append the tokenizer's end token")
    for role in checked.refused:
        yield Remark("note", f"a {role} turn is refused, or what it says is left out")


def _on_marks(checked: Checked) -> Iterator[Remark]:
    if checked.marks is None:
        yield Remark(
            "note",
            "the template has no generation marks ({% generation %}): masks of answers come from its turns, "
            "and assistant_only_loss finds none",
        )
    elif checked.marks.headers:
        yield Remark("note", "the generation marks hold a part of the header of answers too")


def _on_prompts(checked: Checked) -> Iterator[Remark]:
    if checked.prompt_begins_answers is False:
        yield Remark(
            "note",
            "the generation prompt is not what an answer is trained behind: a prompt cut off by its length "
            "takes tokens of the answer along, or leaves some of its own",
        )
    if checked.keeps_thinking is False:
        yield Remark(
            "note",
            "thoughts of earlier answers are left out: train on the last answer of a conversation, or split "
            "it at every answer",
        )
    if not checked.stable_text:
        yield Remark(
            "note",
            "the beginning of a conversation is not rendered as the beginning of the whole: a mask from the "
            "lengths of beginnings is wrong",
        )
    elif not checked.stable_ids:
        yield Remark(
            "note",
            "the beginning of a conversation is encoded otherwise than in the whole: a mask from the lengths "
            "of beginnings is some tokens off",
        )
