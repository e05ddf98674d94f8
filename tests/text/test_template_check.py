"""What a chat template does to training, over templates that are written here and those that trl ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskcli.text import load_tokenizer
from maskcli.text.template_check import check

from .chats import TEMPLATES, chat, shipped
from .conftest import gpt2

MARKED = TEMPLATES["chatml"][0].replace(
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n",
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n",
)
UNENDED = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")


@pytest.fixture(scope="module")
def backbones(small_tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from transformers import AutoTokenizer

    folders = {"deepseek": small_tokenizer, "gpt2": gpt2(tmp_path_factory.mktemp("gpt2"))}
    return {name: AutoTokenizer.from_pretrained(folder) for name, folder in folders.items()}


def told(checked: Any) -> str:
    return "\n".join(f"{severity}: {sentence}" for severity, sentence in checked.remarks)


@pytest.mark.combinations
@pytest.mark.parametrize("style", TEMPLATES)
def test_templates_as_people_write_them(backbones, style: str) -> None:
    checked = check(chat(backbones["gpt2"], TEMPLATES[style][0]).tokenizer)
    roles = TEMPLATES[style][1].split()
    assert checked.marks is None
    assert "no generation marks" in told(checked)
    assert ("system" in checked.refused) == ("system" not in roles)
    assert ("tool" in checked.refused) == ("tool" not in roles)
    assert checked.ends
    assert checked.stable_text == (style not in ("phi", "thinking"))
    assert checked.keeps_thinking == {"thinking": False}.get(style)


@pytest.mark.long
def test_marks_with_and_without_the_end(backbones) -> None:
    right, wrong = (check(chat(backbones["gpt2"], template).tokenizer) for template in (MARKED, UNENDED))
    assert right.marks == (False, True)
    assert not any(remark.severity != "note" for remark in right.remarks)
    assert wrong.marks == (False, False)
    assert told(wrong).startswith("error: the generation marks leave out '<|im_end|>'")


@pytest.mark.long
def test_a_prompt_that_is_no_header(backbones) -> None:
    assert check(chat(backbones["gpt2"], TEMPLATES["chatml"][0]).tokenizer).prompt_begins_answers
    # The prompt opens a thought that a rendered answer has not.
    deep = check(chat(backbones["deepseek"], TEMPLATES["deepseek"][0]).tokenizer)
    assert deep.prompt_begins_answers is False
    assert "generation prompt is not what an answer is trained behind" in told(deep)
    assert check(chat(backbones["gpt2"], TEMPLATES["mistral"][0]).tokenizer).prompt_begins_answers is None


@pytest.mark.long
def test_an_end_that_is_not_the_tokenizers(backbones) -> None:
    assert "answers end in '<|im_end|>', and the tokenizer's end is '<|endoftext|>'" in told(
        check(chat(backbones["gpt2"], TEMPLATES["chatml"][0]).tokenizer)
    )
    assert "a generation has to stop" not in told(
        check(chat(backbones["gpt2"], TEMPLATES["zephyr"][0]).tokenizer)
    )


def test_a_tokenizer_that_adds_a_second_start(backbones, tmp_path: Path) -> None:
    from tokenizers import processors

    made = chat(backbones["deepseek"], TEMPLATES["llama3"][0])
    bos, number = made.reference.bos_token, made.reference.bos_token_id
    made.reference.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, number)]
    )
    made.reference.save_pretrained(tmp_path)
    assert "warning: template and tokenizer both write" in told(
        check(load_tokenizer(str(tmp_path), chat=True))
    )


@pytest.mark.combinations
@pytest.mark.parametrize("path", list(shipped()), ids=lambda path: path.stem)
def test_templates_that_trl_ships(backbones, path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    made = chat(backbones["deepseek"], source)
    checked = check(made.tokenizer)
    assert (checked.marks is not None) == (made.tokenizer.template.marked is not None)
    # All that have marks mark the ends of answers.
    assert not any(remark.severity == "error" for remark in checked.remarks), told(checked)
