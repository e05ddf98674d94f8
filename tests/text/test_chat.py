"""Chat messages and templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcli.errors import MaskcliError
from maskcli.text import (
    batch_from_texts,
    chat_texts,
    counted_by,
    doubled_warnings,
    load_tokenizer,
    parse_messages,
    parse_tools,
)

from .conftest import write_json
from .test_load import word_level

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {{ eos_token }} {% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)


def folder(tmp_path: Path, template: str | None = TEMPLATE) -> str:
    vocab = {"<unk>": 0, "a": 1, "b": 2, "</s>": 3}
    post = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [3], "tokens": ["</s>"]}},
    }
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    write_json(tmp_path / "tokenizer.json", word_level(model=model, post_processor=post))
    config = {"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(tmp_path / "tokenizer_config.json", config | ({"chat_template": template} if template else {}))
    return str(tmp_path)


def test_one_conversation_or_a_list_of_them() -> None:
    message = '{"role": "user", "content": "a"}'
    parsed = {"role": "user", "content": "a"}
    assert parse_messages(f"[{message}]") == ([parsed],)
    assert parse_messages(f"[[{message}], [{message}, {message}]]") == ([parsed], [parsed, parsed])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "not a list of messages"),
        ("[]", "not a list of messages"),
        ("[[]]", "not a message"),
        ('[{"content": "x"}]', "not a message with a role"),
        ('[{"role": "user", "content": 3}]', "is not text"),
        ('[[{"role": "user", "content": "x"}], 3]', "not a message"),
    ],
)
def test_what_is_no_conversation_is_an_error(text: str, message: str) -> None:
    with pytest.raises(MaskcliError, match=message):
        parse_messages(text)


def test_messages_are_rendered_and_their_special_tokens_come_once(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    name = folder(tmp_path)
    tokenizer = load_tokenizer(name, chat=True)
    conversations = parse_messages('[{"role": "a", "content": "b"}, {"role": "b", "content": "a"}]')
    texts = chat_texts(conversations, tokenizer)
    assert texts == ("a b </s> b a </s> ",)
    assert chat_texts(conversations, tokenizer, generation_prompt=True) == ("a b </s> b a </s> a",)
    batch = batch_from_texts(texts, tokenizer, special_tokens=False)
    reference = AutoTokenizer.from_pretrained(name).apply_chat_template(conversations[0], tokenize=True)
    assert batch.ids is not None
    assert batch.ids.tolist() == [list(reference["input_ids"])]
    assert load_tokenizer(f"{name}/tokenizer.json", chat=True).template is not None


def test_a_tokenizer_without_a_template_is_an_error(tmp_path: Path) -> None:
    conversations = parse_messages('[{"role": "user", "content": "a"}]')
    for tokenizer in (load_tokenizer(), load_tokenizer(folder(tmp_path, None), chat=True)):
        with pytest.raises(MaskcliError, match="has no chat template"):
            chat_texts(conversations, tokenizer)


def test_a_template_that_refuses_is_an_error(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder(tmp_path, "{{ raise_exception('system first') }}"), chat=True)
    with pytest.raises(MaskcliError, match=r"refused the messages \(system first\)"):
        chat_texts(parse_messages('[{"role": "user", "content": "a"}]'), tokenizer)


TURNS = (
    "{% for m in messages %}{% if m.role == 'user' %}a {{ m.content }} b {% else %}{{ m.content }} </s> {% endif %}"
    "{% endfor %}"
)
MARKED = TURNS.replace("{{ m.content }} </s>", "{% generation %}{{ m.content }}{% endgeneration %} </s>")


@pytest.mark.parametrize("max_length", [None, 9, 5, 3])
def test_labels_are_what_the_template_marks(tmp_path: Path, max_length: int | None) -> None:
    tokenizer = load_tokenizer(folder(tmp_path, MARKED), chat=True)
    (conversation,) = parse_messages(
        '[{"role": "user", "content": "x"}, {"role": "assistant", "content": "a b"},'
        ' {"role": "user", "content": "x"}, {"role": "assistant", "content": "b"}]'
    )
    texts = chat_texts((conversation,), tokenizer)
    assert texts == ("a x b a b </s> a x b b </s> ",)
    counted = counted_by((conversation,), tokenizer)
    batch = batch_from_texts(
        texts, tokenizer, special_tokens=False, labels=True, counted=counted, max_length=max_length
    )
    assert batch.labels is not None
    # The end is outside of the marks.
    told = [-100, -100, -100, 1, 2, -100, -100, -100, -100, 2, -100]
    assert batch.labels[0].tolist() == told[:max_length]


def test_another_template_and_tools(tmp_path: Path) -> None:
    name = folder(tmp_path)
    tools = parse_tools('[{"function": {"name": "b"}}]')
    other = "{% for tool in tools %}{{ tool.function.name }} {% endfor %}a{% if add_generation_prompt %} b{% endif %}"
    tokenizer = load_tokenizer(name, chat=True, template=other)
    conversations = parse_messages('[{"role": "user", "content": "x"}]')
    assert chat_texts(conversations, tokenizer, tools=tools) == ("b a",)
    assert chat_texts(conversations, tokenizer, tools=tools, generation_prompt=True) == ("b a b",)
    assert load_tokenizer(name, chat=True).template.source == TEMPLATE
    with pytest.raises(MaskcliError, match="renders no chat templates"):
        load_tokenizer(template=other)
    with pytest.raises(MaskcliError, match="template is empty"):
        load_tokenizer(name, chat=True, template="")


@pytest.mark.parametrize("text", ["[", "{}", "[3]", "[" * 100_000])
def test_what_is_no_list_of_tools(text: str) -> None:
    with pytest.raises(MaskcliError, match="the tools"):
        parse_tools(text)


def test_a_start_that_stands_twice_is_said(tmp_path: Path) -> None:
    from tokenizers import processors
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folder(tmp_path / "plain"))
    reference.add_special_tokens({"bos_token": "<s>"})
    number = reference.bos_token_id
    reference.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", number)]
    )
    reference.save_pretrained(tmp_path / "adds")
    tokenizer = load_tokenizer(str(tmp_path / "adds"))
    assert doubled_warnings(("<s> a",), tokenizer)[0].startswith("template and tokenizer both add <s>")
    assert doubled_warnings(("a b",), tokenizer) == ()
    (said,) = batch_from_texts(["<s> a", "<s> b"], tokenizer).warnings
    assert "stands twice (texts 0, 1)" in said
    assert batch_from_texts(["a", "b"], tokenizer).warnings == ()
    assert batch_from_texts(["<s> a"], tokenizer, special_tokens=False).warnings == ()
