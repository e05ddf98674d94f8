"""Chat templates of tokenizers: text that nobody vouched for, rendered in the sandbox of transformers."""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.text.files import MAX_TEXT_BYTES
from maskcli.text.library import reason
from maskcli.text.tokenizer import Messages, Rows, Template, Tools, quoted
from maskcli.untrusted import MEBIBYTE, memory_limit

# Real templates need milliseconds; ranges within ranges need for ever. The second is for each conversation.
_SECONDS, _SECONDS_OF_EACH = 2.0, 0.05
# What a rendering may take beyond what it is given, and letters of one text that comes out.
_MEMORY, _LETTERS = 512 * MEBIBYTE, MAX_TEXT_BYTES
# Filters of Jinja that go over their text again and again, and are in no real template; nor is "**".
_ENDLESS = ("wordwrap", "urlize", "lipsum")
# What asks for ids, and for the tokens that `{% generation %}` marks.
_MARKED = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_ANOTHER = "pass another with --template FILE"


class TooCostlyError(MaskcliError):
    """A template that takes more time, memory or letters than any real one."""


def template_of(tokenizer: Any, name: str, source: str | None = None) -> Template | None:
    """The chat template of a transformers tokenizer, or one of another source; None where there is none."""
    text = _source(tokenizer) if source is None else source
    if not text:
        return None
    endless = _endless(text)
    if endless:
        raise TooCostlyError(f"the chat template of {quoted(name)} uses {endless[0]}; {_ANOTHER}")

    marks = _GENERATION.search(text) is not None
    allowance = _Allowance()

    def apply(
        conversations: Sequence[Messages], generation_prompt: bool, tools: Tools | None, **more: Any
    ) -> Any:
        return tokenizer.apply_chat_template(
            list(conversations),
            tools=tools,
            add_generation_prompt=generation_prompt,
            chat_template=source,
            **more,
        )

    def rendered(
        conversations: Sequence[Messages], generation_prompt: bool, tools: Tools | None
    ) -> list[str]:
        with quiet(), _refused(name), allowance.of(len(conversations)), memory_limit(_MEMORY):
            texts: list[str] = apply(conversations, generation_prompt, tools, tokenize=False)
        if max(map(len, texts), default=0) > _LETTERS:
            what = f"the chat template made a text of more than {_LETTERS:,} letters"
            raise TooCostlyError(f"{what}; {_ANOTHER}")
        return texts

    def render(messages: Messages, generation_prompt: bool = False, tools: Tools | None = None) -> str:
        return rendered([messages], generation_prompt, tools)[0]

    def many(
        conversations: Sequence[Messages], generation_prompt: bool = False, tools: Tools | None = None
    ) -> Rows:
        # Ids only of texts that have come out within bounds: the library that makes them keeps none.
        texts = rendered(conversations, generation_prompt, tools)
        with quiet(), _refused(name):
            if marks:
                told = apply(conversations, generation_prompt, tools, **_MARKED)
                return Rows(list(told["input_ids"]), list(told["assistant_masks"]))
            return Rows(list(tokenizer(texts, add_special_tokens=False)["input_ids"]))

    def marked(messages: Messages, generation_prompt: bool = False, tools: Tools | None = None) -> list[int]:
        rows = many([messages], generation_prompt, tools)
        return [int(counted) for counted in (rows.marks or [[]])[0]]

    return Template(text, render, many, marked if marks else None)


def _endless(text: str) -> list[str]:
    """What a template uses of which one call may take for ever, and nothing could stop it."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        words = [word for _, kind, word in Environment().lex(text) if kind in ("operator", "name", "integer")]
    except TemplateSyntaxError:
        # transformers says what is wrong with it.
        return []
    powers = [word for before, word in pairwise(words) if word == "**" and before not in ("(", ",")]
    return powers + [word for word in words if word in _ENDLESS]


def _source(tokenizer: Any) -> str:
    """The template that conversations without tools are rendered with, empty for none."""
    template = tokenizer.chat_template or ""
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), "")
    return str(template)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' remarks off standard error: what matters becomes an error or a warning of ours."""
    import logging

    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """What a template raises, in one sentence."""
    try:
        yield
    except MaskcliError:
        raise
    except MemoryError:
        raise TooCostlyError(
            f"the chat template took more than {_MEMORY // MEBIBYTE} MiB of memory; {_ANOTHER}"
        ) from None
    except Exception as error:
        raise MaskcliError(
            f"the chat template of {quoted(name)} refused the messages ({reason(error)}); "
            "pass messages as it expects them"
        ) from None


class _Allowance:
    """The time that a template has in all: some to begin with, and a little for each text."""

    def __init__(self) -> None:
        self.seconds = _SECONDS

    @contextmanager
    def of(self, count: int) -> Iterator[None]:
        """Time for so many conversations."""
        self.seconds += count * _SECONDS_OF_EACH
        start = time.thread_time()
        try:
            with _bounded(self.seconds):
                yield
        finally:
            self.seconds -= time.thread_time() - start


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Stop what works for longer; a machine that is busy with other things takes nothing from it.

    The sandbox bounds each range, not ranges within ranges. Lines of the template are looked at, and calls of
    whatever it calls; under a debugger, which has the only hook for it, nothing is bounded.
    """
    if sys.gettrace() is not None:
        yield
        return
    end, worked = time.monotonic() + seconds, time.thread_time() + seconds

    def line(frame: FrameType, event: str, argument: object) -> Any:
        # The second clock is the slower one to ask.
        if time.monotonic() > end and time.thread_time() > worked:
            raise TooCostlyError(f"the chat template ran for more than {_SECONDS:.0f} seconds; {_ANOTHER}")
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        line(frame, event, argument)
        return line if frame.f_code.co_filename == "<template>" else None

    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(None)
