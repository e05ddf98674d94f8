"""Chat messages as JSON, turned into the texts that the tokenizer's chat template makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from maskcli.arrays import Array, Real
from maskcli.errors import MaskcliError
from maskcli.text.tokenizer import Messages, Template, Tokenizer, Tools, quoted

_TOOLS = '[{"type": "function", "function": {"name": "search", "parameters": {}}}]'
_EXAMPLE = '[{"role": "user", "content": "Hello"}]'


def parse_messages(text: str) -> tuple[Messages, ...]:
    """Conversations from JSON: a list of messages, or a list of such lists."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MaskcliError(
            f"the messages {quoted(text)} are not valid JSON ({error}); write {_EXAMPLE}"
        ) from None
    if not isinstance(value, list) or not value:
        raise MaskcliError(f"the messages {quoted(value)} are not a list of messages; write {_EXAMPLE}")
    conversations = value if all(isinstance(item, list) for item in value) else [value]
    for conversation in conversations:
        for message in conversation or [None]:
            check_message(message)
    return tuple(conversations)


def check_message(message: object) -> None:
    """Refuse what is no message with a role and a text, or parts of one."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise MaskcliError(f"{quoted(message)} is not a message with a role; write {_EXAMPLE}")
    if not isinstance(message.get("content", ""), (str, list, type(None))):
        raise MaskcliError(f"the content of message {quoted(message)} is not text; write {_EXAMPLE}")


def chat_texts(
    conversations: tuple[Messages, ...],
    tokenizer: Tokenizer,
    *,
    generation_prompt: bool = False,
    tools: Tools | None = None,
) -> tuple[str, ...]:
    """Each conversation as text, from a tokenizer loaded with `chat=True`.

    The text already holds the special tokens: encode it with `special_tokens=False`, or they come twice.
    """
    render = template_of(tokenizer).render
    return tuple(render(conversation, generation_prompt, tools) for conversation in conversations)


def counted_by(
    conversations: tuple[Messages, ...],
    tokenizer: Tokenizer,
    *,
    generation_prompt: bool = False,
    tools: Tools | None = None,
) -> Callable[[int, Array], Real]:
    """Which tokens of each conversation a loss is to count, as `batch_from_texts` asks for it.

    What the template marks with `{% generation %}`, else by its turns the assistants' contents and ends.
    """
    template = template_of(tokenizer)
    marked = template.marked
    if marked is None:
        from maskcli.text.turns import learn

        turns = learn(tokenizer)
        return lambda number, ids: turns.split(ids[None]).answers()[0]

    def by_marks(number: int, ids: Array) -> Real:
        told = np.asarray(marked(conversations[number], generation_prompt, tools), bool)
        if len(told) == len(ids):
            return told
        # Cut texts keep their first or their last tokens, as the tokenizer does.
        whole = tokenizer.encode(
            template.render(conversations[number], generation_prompt, tools), None, False
        ).ids
        kept_first = np.array_equal(whole[: len(ids)], ids)
        return told[: len(ids)] if kept_first else told[len(told) - len(ids) :]

    return by_marks


def parse_tools(text: str) -> Tools:
    """Tools from JSON: a list of objects."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MaskcliError(f"the tools {quoted(text)} are not valid JSON ({error}); write {_TOOLS}") from None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise MaskcliError(f"the tools {quoted(value)} are not a list of objects; write {_TOOLS}")
    return value


def template_of(tokenizer: Tokenizer) -> Template:
    """The tokenizer's chat template; an error where it has none."""
    if tokenizer.template is None:
        raise MaskcliError(
            f"tokenizer {quoted(tokenizer.name)} has no chat template; pass --tokenizer with a folder or "
            "hub name of a chat model, whose tokenizer_config.json or chat_template.jinja holds one"
        )
    return tokenizer.template
