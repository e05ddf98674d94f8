"""Chat templates in the styles that people meet, over real tokenizers, and random conversations for them."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskcli.text.heavy import from_transformers
from maskcli.text.tokenizer import Messages, Tokenizer

_LOOP = "{% for m in messages %}"
_PROMPT = "{% endfor %}{% if add_generation_prompt %}"
_ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles alternate') }}{% endif %}"
)
_NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
_CALLS = (
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}({{ c.function.arguments | tojson }})"
    "</tool_call>{% endfor %}"
)

# One template for each style, with the roles that it tells apart.
TEMPLATES: dict[str, tuple[str, str]] = {
    "chatml": (
        _LOOP
        + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        + _PROMPT
        + "<|im_start|>assistant\n{% endif %}",
        "system user assistant tool",
    ),
    "llama3": (
        "{{ bos_token }}"
        + _LOOP
        + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
        + _PROMPT
        + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        "system user assistant tool",
    ),
    "gemma": (
        "{{ bos_token }}"
        + _NO_SYSTEM
        + _LOOP
        + _ALTERNATE
        + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
        + "<end_of_turn>\n"
        + _PROMPT
        + "<start_of_turn>model\n{% endif %}",
        "user assistant",
    ),
    "mistral": (
        "{{ bos_token }}"
        + _NO_SYSTEM
        + _LOOP
        + "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.role == 'assistant' %}{{ m.content }}</s>{% endif %}"
        + "{% endfor %}",
        "user assistant",
    ),
    "mistral_system": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
        "{% set messages = messages[1:] %}{% endif %}"
        + _LOOP
        + "{% if m.role == 'user' %}[INST]{% if loop.first and system %}<<SYS>>{{ system }}<</SYS>>{% endif %}"
        + "{{ m.content }}[/INST]{% elif m.role == 'assistant' %}{{ m.content }}</s>{% endif %}{% endfor %}",
        "system user assistant",
    ),
    "zephyr": (
        _LOOP + "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n" + _PROMPT + "<|assistant|>\n{% endif %}",
        "system user assistant tool",
    ),
    "phi": (
        _LOOP
        + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n"
        + _PROMPT
        + "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        "system user assistant tool",
    ),
    "deepseek": (
        "{{ bos_token }}"
        + _LOOP
        + "{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}<｜User｜>{{ m.content }}"
        + "{% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}"
        + _PROMPT
        + "<｜Assistant｜><think>\n{% endif %}",
        "system user assistant",
    ),
    "thinking": (
        "{% set last = namespace(user=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
        + _LOOP
        + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.index0 > last.user %}<think>\n"
        + "{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
        + _PROMPT
        + "<|im_start|>assistant\n{% endif %}",
        "system user assistant tool",
    ),
    "tools": (
        _LOOP
        + "{% if m.role == 'tool' %}{% if messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
        + "\n<tool_response>\n{{ m.content }}\n</tool_response>"
        + "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}{% else %}"
        + "<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
        + _CALLS
        + "<|im_end|>\n{% endif %}"
        + _PROMPT
        + "<|im_start|>assistant\n{% endif %}",
        "system user assistant tool",
    ),
}
SPECIAL = (
    r"<\|(?!system|user|assistant)[\w\"]+\|?>|<\|(?:system|user|assistant)\|>|<\w+\|>|<｜[^｜<]+｜>|"
    r"<(?:start|end)_of_\w+>|\[gMASK\]|<sop>|</?s>|<bos>|\[/?INST\]|<</?SYS>>"
)


@dataclass(frozen=True, eq=False)
class Chat:
    """A template over a tokenizer, by transformers and by maskcli."""

    reference: Any
    tokenizer: Tokenizer


def chat(backbone: Any, template: str, special: bool = True) -> Chat:
    """The template over a copy of a tokenizer that knows its markers as special tokens, or only as text."""
    reference = copy.deepcopy(backbone)
    if special:
        reference.add_special_tokens(
            {"additional_special_tokens": sorted(set(re.findall(SPECIAL, template)))}
        )
        if "<|{{ m.role }}|>" in template:
            names = [f"<|{role}|>" for role in ("system", "user", "assistant")]
            reference.add_special_tokens(
                {"additional_special_tokens": names}, replace_extra_special_tokens=False
            )
    reference.chat_template = template
    return Chat(reference, from_transformers(reference, "chat"))


def shipped() -> Iterator[Path]:
    """Chat templates that trl ships; none where it is not installed."""
    found = importlib.util.find_spec("trl")
    if found is not None and found.origin is not None:
        yield from sorted((Path(found.origin).parent / "chat_templates").glob("*.jinja"))


_WORDS = ("the cat sat", "naïve café", "x = {1: 2}", "don't stop!", "你好，世界", "line one\nline two")
# What people write at the edges of messages; some of it looks like a part of a marker.
_EDGES = ("", "", "\n", " ", "(", ")", ".", "'", '"', "7", "\n\n", "user\n", "<|im", "[INST", "</")


def conversation(random: random.Random, roles: tuple[str, ...], parts: bool, written: bool) -> Messages:
    """A random conversation of these roles; each content holds a number of its own, as `core` finds it."""
    count = 0

    def content() -> Any:
        nonlocal count
        count += 1
        text = f"{random.choice(_EDGES)}{random.choice(_WORDS)} #{count}#{random.choice(_EDGES)}"
        return [{"type": "text", "text": text}] if parts else text

    messages: Messages = []
    if "system" in roles and random.random() < 0.5:
        messages.append({"role": "system", "content": content()})
    called = False
    for _ in range(random.randint(1, 3)):
        messages.append({"role": "user", "content": content()})
        if "tool" in roles and not called and random.random() < 0.4:
            called = True
            arguments = {"key": "v"}
            function = {"name": "lookup", "arguments": json.dumps(arguments) if written else arguments}
            calls = [{"id": "call00001", "type": "function", "function": function}]
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
            told = {"role": "tool", "name": "lookup", "tool_call_id": "call00001", "content": content()}
            messages.append(told)
        messages.append({"role": "assistant", "content": content()})
    return messages


def text_of(message: dict[str, Any]) -> str:
    """A message's content as text."""
    content = message["content"]
    return content[0]["text"] if isinstance(content, list) and content else str(content or "")
