"""Chat messages and templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcli.errors import MaskcliError
from maskcli.text import batch_from_texts, chat_texts, load_tokenizer, parse_messages

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
