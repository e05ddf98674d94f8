"""Sets of chats by a tokenizer's template: what is told of them, and what is not."""

import pytest

import maskcli
from tests.text.chats import chat

IGNORE = -100
TALKS = [
    [
        ("user", f"How many are {n} and {n}?"),
        ("assistant", f"They are {2 * n}."),
        ("user", "Sure?" * n),
        ("assistant", "Yes."),
    ]
    for n in range(1, 9)
]
TOOLS = [
    [("user", "Rain?"), ("assistant", "I look."), ("tool", "rain"), ("assistant", "It rains." * n)]
    for n in range(1, 5)
]

# Answers are marked with what ends them; `{end}` stands behind each, `{last}` behind the last one.
_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}END{% endgeneration %}{% else %}{{ m.content }}END{% endif %}LINE{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\nTHOUGHT{% endif %}"
)
PLAIN = _TEMPLATE.replace("END", "<|end|>").replace("LINE", "\n").replace("THOUGHT", "")
THINKS = _TEMPLATE.replace("END", "<|end|>").replace("LINE", "\n").replace("THOUGHT", "<|think|>\n")
# The header of a next turn ends an answer: nothing does behind the last one.
OPEN = (
    _TEMPLATE.replace("END", "")
    .replace("LINE", "")
    .replace("THOUGHT", "")
    .replace("<|start|>{{ m.role }}", "<|{{ m.role }}|>")
)
# As a training template does it: the header that ends an answer stands behind the last one too, and counts.
CLOSED = OPEN.replace(
    "{{ m.content }}{% endgeneration %}",
    "{{ m.content }}{% if loop.last %}<|user|>{% endif %}{% endgeneration %}",
)


@pytest.fixture(scope="module")
def backbone(small_gpt2):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_gpt2)


@pytest.fixture
def saved(backbone, tmp_path):
    """A tokenizer with a template, whose padding is the end of texts, and its folder."""

    def save(template):
        made = chat(backbone, template).reference
        made.add_special_tokens({"bos_token": "<|begin|>"})
        made.pad_token = made.eos_token
        made.save_pretrained(tmp_path / "model")
        return made, str(tmp_path / "model")

    return save


def messages(turns):
    return [{"role": role, "content": content} for role, content in turns]


def row(made, turns):
    told = made.apply_chat_template(messages(turns), return_dict=True, return_assistant_tokens_mask=True)
    marks = zip(told["input_ids"], told["assistant_masks"], strict=True)
    return {"input_ids": told["input_ids"], "labels": [number if mark else IGNORE for number, mark in marks]}


def longer(row, ids, *, counted=True):
    """A row with more ids behind it."""
    labels = ids if counted else [IGNORE] * len(ids)
    return {"input_ids": row["input_ids"] + ids, "labels": row["labels"] + labels}


def found(rows, folder, **said):
    """Code and rows of what is found."""
    report = maskcli.audit(rows, tokenizer=folder, **said)
    return {told.code: [row.row for row in told.first] for told in report.findings}


@pytest.mark.long
@pytest.mark.parametrize("masked", [False, True])
def test_rows_that_hold_no_padding_hide_no_ends(saved, masked):
    """Padding that is the end of texts is put behind them to make a batch: nothing has masked an end there."""
    made, folder = saved(OPEN)
    rows = [row(made, turns) for turns in TALKS]
    for each in rows if masked else ():
        each["attention_mask"] = [1] * len(each["input_ids"])
    report = maskcli.audit(rows, tokenizer=folder)
    assert [told.code for told in report.findings if told.code == "MSK501"] == []
    # Where a set was padded by a collator, and the mask made by the id, ends are hidden indeed.
    width = max(len(each["input_ids"]) for each in rows) + 1
    padded = []
    for each in rows:
        more = width - len(each["input_ids"])
        ids = longer(each, [made.eos_token_id] * more, counted=False)
        padded.append({**ids, "attention_mask": [1] * (width - more) + [0] * more})
    assert "MSK501" in found(padded, folder)


def test_a_header_that_ends_answers_is_an_end(saved):
    made, folder = saved(CLOSED)
    assert found([row(made, turns) for turns in TALKS], folder) == {}


def test_a_tokenizer_tells_what_begins_texts(saved):
    made, folder = saved(PLAIN)
    begin = {"input_ids": [made.bos_token_id], "labels": [IGNORE]}
    rows = [
        longer(begin, each["input_ids"]) | {"labels": [IGNORE, *each["labels"]]}
        for each in (row(made, t) for t in TALKS)
    ]
    assert found(rows, folder) == {}
    rows[3] = {
        "input_ids": rows[3]["input_ids"][:1] + rows[3]["input_ids"],
        "labels": [IGNORE, *rows[3]["labels"]],
    }
    assert found(rows, folder) == {"MSK409": [3]}


@pytest.mark.long
@pytest.mark.parametrize("counted", [False, True])
def test_a_prompt_that_begins_a_thought_is_unanswered(saved, counted):
    made, folder = saved(THINKS)
    rows = [row(made, turns) for turns in TALKS]
    assert found(rows, folder) == {}
    prompt = made.apply_chat_template(messages(TALKS[2]), add_generation_prompt=True, return_dict=True)
    rows[2] = longer(rows[2], prompt["input_ids"][len(rows[2]["input_ids"]) :], counted=counted)
    # The longest row is not a cut one.
    rows.append(row(made, TALKS[0] * 4))
    assert found(rows, folder) == {"MSK512": [2]}


@pytest.mark.long
@pytest.mark.parametrize(
    "words", ["More", "More words, and some more of them, behind the end of a whole talk."]
)
def test_any_number_of_words_behind_the_last_end(saved, words):
    made, folder = saved(PLAIN)
    rows = [row(made, turns) for turns in TALKS]
    more = made(words, add_special_tokens=False)["input_ids"]
    rows[5] = longer(rows[5], more)
    rows.append(row(made, TALKS[0] * 4))
    assert found(rows, folder) == {"MSK513": [5]}
    rows[5] = longer(row(made, TALKS[5]), more, counted=False)
    assert found(rows, folder) == {}


def test_only_roles_that_are_there_are_named(saved):
    made, folder = saved(PLAIN)
    rows = [row(made, turns) for turns in TALKS + TOOLS]
    for each in rows[:6]:
        each["labels"] = each["input_ids"]
    (told,) = maskcli.audit(rows, tokenizer=folder).findings
    assert told.message.startswith("turns that the model is to read (12 of a user) have labels")
    rows[-1]["labels"] = rows[-1]["input_ids"]
    (told,) = maskcli.audit(rows, tokenizer=folder).findings
    assert told.message.startswith("turns that the model is to read (13 of a user and 1 of a tool) have")


def test_a_line_break_behind_an_end_is_no_missing_end(saved):
    made, folder = saved(PLAIN)
    rows = [row(made, turns) for turns in TALKS]
    assert maskcli.audit(rows, tokenizer=folder).glance.rows_longest_without_end == 0
    cut = [{name: values[:20] for name, values in each.items()} for each in rows]
    whole = sum(made.decode(each["input_ids"][-1]) == "<|end|>" for each in cut)
    glance = maskcli.audit(cut, tokenizer=folder).glance
    assert (glance.rows_longest, glance.rows_longest_without_end) == (len(TALKS), len(TALKS) - whole)


def test_an_end_that_a_mask_hides_is_not_cut_off(saved):
    """Labels and mask made by the id of padding, which ends turns: the longest row stops before its end, too."""
    made, folder = saved(PLAIN.replace("{% endif %}\n{% endfor %}", "{% endif %}{% endfor %}"))
    end = made.convert_tokens_to_ids("<|end|>")
    rows = [row(made, turns) for turns in TALKS]
    width = max(len(each["input_ids"]) for each in rows) + 2
    padded = []
    for each in rows:
        ids, labels = (
            longer(each, [end] * (width - len(each["input_ids"])), counted=False)[name] for name in each
        )
        hidden = [number == end for number in ids]
        padded.append(
            {
                "input_ids": ids,
                "labels": [IGNORE if no else label for no, label in zip(hidden, labels, strict=True)],
                "attention_mask": [int(not no) for no in hidden],
            }
        )
    assert "MSK518" not in found(padded, folder, pad_id=end, eos_id=end)
    assert {"MSK402"} <= set(found(padded, folder, pad_id=end, eos_id=end))


def test_prompts_and_answers_of_no_template_are_no_late_answers(saved):
    """An end that only answers have tells whose text it ends, and not where that began."""
    made, folder = saved(
        PLAIN.replace("{{ m.content }}<|end|>{% endif %}", "{{ m.content }}<|stop|>{% endif %}")
    )
    end = made.convert_tokens_to_ids("<|end|>")
    rows = []
    for turns in TALKS:
        prompt, answer = (made(turns[at][1], add_special_tokens=False)["input_ids"] for at in (0, 1))
        rows.append(longer({"input_ids": prompt, "labels": [IGNORE] * len(prompt)}, [*answer, end]))
    assert found(rows, folder, eos_id=end) == {}


@pytest.mark.long
def test_a_text_that_begins_as_all_do_is_no_turn_of_a_system(saved):
    """Where a template writes the system's text right behind the beginning, as DeepSeek's does."""
    made, folder = saved(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% else %}"
        "<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endif %}{% endfor %}"
    )
    begin, end = made.bos_token_id, made.convert_tokens_to_ids("<|end|>")
    talks = [[("system", "Be brief."), *turns] for turns in TALKS]
    chats = [made.apply_chat_template(messages(turns), return_dict=True)["input_ids"] for turns in talks]
    sick = [{"input_ids": ids, "labels": ids} for ids in chats]
    assert list(found(sick, folder, eos_id=end)) == ["MSK509"]
    (told,) = maskcli.audit(sick, tokenizer=folder, eos_id=end).findings
    assert told.evidence["system_turns"] == len(TALKS)
    texts = [[begin, *made(turns[1][1], add_special_tokens=False)["input_ids"], end] for turns in TALKS]
    assert found([{"input_ids": ids, "labels": ids} for ids in texts], folder, eos_id=end) == {}
