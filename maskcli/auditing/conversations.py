"""Conversations as data sets write them, in the one form that chat templates take."""

from __future__ import annotations

import json
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.text.chat import check_message
from maskcli.text.tokenizer import Messages, Tools, quoted

# Roles of ShareGPT, whose messages have "from" and "value".
SHAREGPT = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
}


def conversation(value: Any) -> Messages:
    """A row's messages: a list, or JSON that holds one; ShareGPT's names become those of templates.

    Keys that are null are left out, as in a file of JSON lines: columns of other files have each key in every
    row. Raises MaskcliError for what is no list of messages.
    """
    messages = _parsed(value) if isinstance(value, str) else value
    if not isinstance(messages, (list, tuple)) or not messages:
        raise MaskcliError(
            f"{quoted(value)} is not a list of messages; expected messages with role and content"
        )
    return [_message(message) for message in messages]


def _message(value: Any) -> dict[str, Any]:
    """One message, with role and content."""
    if not isinstance(value, dict):
        check_message(value)
    message = {key: each for key, each in value.items() if each is not None or key == "content"}
    if "from" in message and "role" not in message:
        role = message.pop("from")
        message["role"] = SHAREGPT.get(role, role) if isinstance(role, str) else role
        message["content"] = message.pop("value", None)
    check_message(message)
    return message


def tools_of(value: Any) -> Tools | None:
    """A row's tools: a list of objects or of JSON, or JSON that holds one; None for none."""
    whole = _parsed(value) if isinstance(value, str) and value.strip() else value
    if not whole:
        return None
    if not isinstance(whole, (list, tuple)):
        raise MaskcliError(f"the tools {quoted(value)} are not a list of objects")
    tools = [_parsed(each) if isinstance(each, str) else each for each in whole]
    if not all(isinstance(each, dict) for each in tools):
        raise MaskcliError(f"the tools {quoted(value)} are not a list of objects")
    return tools


def text(value: Any) -> str:
    """A row's text; null is empty."""
    if value is not None and not isinstance(value, str):
        raise MaskcliError(f"{quoted(value)} is not text")
    return value or ""


def shared(first: Messages, second: Messages) -> int:
    """How many messages two conversations begin with alike, their last ones left out."""
    most = min(len(first), len(second)) - 1
    return next((at for at in range(most) if first[at] != second[at]), most)


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise MaskcliError(f"{quoted(value)} is not valid JSON ({error})") from None
