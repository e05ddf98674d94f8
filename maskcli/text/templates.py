"""Chat templates of tokenizers: text that nobody vouched for, rendered in the sandbox of transformers."""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.text.library import reason
from maskcli.text.tokenizer import Messages, Rows, Template, Tools, quoted

# Real templates need milliseconds; ranges within ranges need for ever.
_SECONDS, _SECONDS_OF_EACH = 5.0, 0.05
# What asks for ids instead of text.
_AS_IDS = {"tokenize": True, "return_dict": True}
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class TooSlowError(MaskcliError):
    """A template that does not come to an end."""


def template_of(tokenizer: Any, name: str, source: str | None = None) -> Template | None:
    """The chat template of a transformers tokenizer, or one of another source; None where there is none."""
    text = _source(tokenizer) if source is None else source
    if not text:
        return None

    marks = _GENERATION.search(text) is not None

    def applied(
        messages: Messages | Sequence[Messages],
        generation_prompt: bool,
        tools: Tools | None,
        count: int = 1,
        **more: Any,
    ) -> Any:
        with quiet(), _refused(name), _bounded(_SECONDS + count * _SECONDS_OF_EACH):
            return tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=generation_prompt, chat_template=source, **more
            )

    def render(messages: Messages, generation_prompt: bool = False, tools: Tools | None = None) -> str:
        return str(applied(messages, generation_prompt, tools, tokenize=False))

    def many(
        conversations: Sequence[Messages], generation_prompt: bool = False, tools: Tools | None = None
    ) -> Rows:
        told = applied(
            list(conversations), generation_prompt, tools, len(conversations), **_AS_IDS, **_with(marks)
        )
        return Rows(list(told["input_ids"]), list(told["assistant_masks"]) if marks else None)

    def marked(messages: Messages, generation_prompt: bool = False, tools: Tools | None = None) -> list[int]:
        told = applied(messages, generation_prompt, tools, **_AS_IDS, **_with(marks))
        return [int(counted) for counted in told["assistant_masks"]]

    return Template(text, render, many, marked if marks else None)


def _with(marks: bool) -> dict[str, bool]:
    """What asks for the tokens that `{% generation %}` marks; templates without have none, and a warning."""
    return {"return_assistant_tokens_mask": True} if marks else {}


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
    except Exception as error:
        raise MaskcliError(
            f"the chat template of {quoted(name)} refused the messages ({reason(error)}); "
            "pass messages as it expects them"
        ) from None


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Stop a template that runs for longer than any real one.

    The sandbox bounds each range, not ranges within ranges. Only lines of the template are looked at; under
    a debugger, which has the only hook for it, nothing is bounded.
    """
    if sys.gettrace() is not None:
        yield
        return
    end = time.monotonic() + seconds

    def line(frame: FrameType, event: str, argument: object) -> Any:
        if time.monotonic() > end:
            raise TooSlowError(
                f"the chat template ran for more than {seconds:.0f} seconds; pass another with "
                "--template FILE"
            )
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if frame.f_code.co_filename == "<template>" else None

    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(None)
