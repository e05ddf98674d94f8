"""Rows of messages and texts as ids and loss masks, beside what transformers makes of each row alone."""

import copy
import json
import random
import time

import numpy as np
import pytest

from maskcli.auditing.rendering import LOOSE, REFUSED, Odd, notes, rendered, rendering_of, together
from maskcli.errors import MaskcliError
from maskcli.tables.columns import Chunk
from tests.text.chats import TEMPLATES, chat, conversation

MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def backbone(small_tokenizer):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_tokenizer)


@pytest.fixture(scope="module")
def saved(backbone, tmp_path_factory):
    """A function that saves the tokenizer with a template: its folder and itself."""

    def save(name, template):
        made = chat(backbone, template).reference
        folder = str(tmp_path_factory.mktemp(name))
        made.save_pretrained(folder)
        return folder, made

    return save


@pytest.fixture(scope="module")
def marked(saved):
    return saved("marked", MARKED)


@pytest.fixture(scope="module")
def chatml(saved):
    return saved("chatml", TEMPLATES["chatml"][0])


def chunk(first=0, **objects):
    return Chunk(first, len(next(iter(objects.values()))), {}, objects)


def rows_of(made, side=""):
    ids, counted = made.chunk.columns[f"{side}input_ids"], made.chunk.columns[f"{side}assistant_masks"]
    assert ids.offsets.tolist() == counted.offsets.tolist()
    places = list(zip(ids.offsets[:-1], ids.offsets[1:], strict=True))
    return [ids.values[a:b].tolist() for a, b in places], [counted.values[a:b].tolist() for a, b in places]


def asked(*contents):
    roles = ("user", "assistant") * len(contents)
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]


def test_rows_are_what_transformers_makes_of_each(marked):
    folder, reference = marked
    source = random.Random(7)
    chats = [conversation(source, ("system", "user", "assistant"), False, False) for _ in range(40)]
    made = rendered(chunk(messages=chats), rendering_of(["messages"], folder))
    told = [reference.apply_chat_template(each, tokenize=True, return_dict=True, return_assistant_tokens_mask=True) for each in chats]  # fmt: skip
    ids, counted = rows_of(made)
    assert ids == [each["input_ids"] for each in told]
    assert counted == [[bool(mark) for mark in each["assistant_masks"]] for each in told]
    assert made.odd == ()


@pytest.mark.long
def test_without_marks_the_answers_and_their_ends_count(chatml):
    folder, reference = chatml
    made = rendered(
        chunk(messages=[asked("a", "An answer."), asked("b", "x", "c", "y z")]),
        rendering_of(["messages"], folder),
    )
    for ids, counted, answers in zip(*rows_of(made), (["An answer."], ["x", "y z"]), strict=True):
        text = reference.decode(np.asarray(ids)[counted])
        assert text == "".join(f"{answer}<|im_end|>" for answer in answers)
    told = " ".join(notes(rendering_of(["messages"], folder), made.odd))
    assert "no {% generation %} marks" in told
    assert "counts every token" in told


def test_sharegpt_json_and_empty_columns_are_the_same_messages(marked):
    folder, _ = marked
    plain = asked("hello", "hi")
    sharegpt = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    filled = [{**message, "tool_calls": None, "name": None} for message in plain]
    several = [plain, sharegpt, json.dumps(plain), filled]
    ids, counted = rows_of(rendered(chunk(conversations=several), rendering_of(["conversations"], folder)))
    assert ids == [ids[0]] * 4
    assert counted == [counted[0]] * 4


def test_bad_rows_are_empty_counted_and_the_first_is_told(saved):
    folder, reference = saved("strict", TEMPLATES["gemma"][0])
    good = asked("hello", "hi")
    odd = [{"role": "assistant", "content": "first"}]
    chats = [good] * 700 + [odd, good, [{"role": "user", "content": 3}], None, "[", [], [3]] + [good] * 9
    made = rendered(chunk(first=1000, messages=chats), rendering_of(["messages"], folder))
    (refused,) = made.odd
    assert (refused.what, refused.rows, refused.first) == (REFUSED, 6, 1700)
    assert "roles alternate" in refused.why
    ids, _ = rows_of(made)
    whole = reference.apply_chat_template(good, tokenize=True, return_dict=True)["input_ids"]
    assert [at for at, row in enumerate(ids) if not row] == [700, 702, 703, 704, 705, 706]
    assert [row for row in ids if row] == [whole] * 710


def test_a_prompt_and_its_completion(chatml, marked):
    folder, reference = chatml
    prompts = [asked("hello"), [{"role": "system", "content": "s"}, *asked("b")]]
    answers = [[{"role": "assistant", "content": text}] for text in ("hi there", "c")]
    rendering = rendering_of(["prompt", "completion"], folder)
    ids, counted = rows_of(rendered(chunk(prompt=prompts, completion=answers), rendering))
    for row, mask, prompt, answer in zip(ids, counted, prompts, answers, strict=True):
        begun = reference.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]  # fmt: skip
        assert (
            row
            == reference.apply_chat_template(prompt + answer, tokenize=True, return_dict=True)["input_ids"]
        )
        assert mask == [False] * len(begun) + [True] * (len(row) - len(begun))


def test_texts_end_as_trainers_end_them(chatml):
    folder, reference = chatml
    end = reference.eos_token
    made = rendered(chunk(prompt=["One two", "a"], completion=[" three", f" b{end}"]), rendering_of(["prompt", "completion"], folder))  # fmt: skip
    ids, counted = rows_of(made)
    assert ids == [reference(text)["input_ids"] for text in (f"One two three{end}", f"a b{end}")]
    begun = [len(reference(text)["input_ids"]) for text in ("One two", "a")]
    assert [mask.index(True) for mask in counted] == begun

    # All of a text counts, and no mask says so: its labels are its ids.
    made = rendered(chunk(text=["One two", None]), rendering_of(["text"], folder))
    ids, labels = (made.chunk.columns[name] for name in ("input_ids", "labels"))
    assert ids.values.tolist() == labels.values.tolist() == reference(f"One two{end}{end}")["input_ids"]
    assert ids.offsets.tolist()[1] == len(reference(f"One two{end}")["input_ids"])


def test_a_prompt_that_the_whole_leaves_is_told(chatml):
    folder, _ = chatml
    # "the" is one token.
    made = rendered(chunk(prompt=["one", "th"], completion=[" two", "e end"]), rendering_of(["prompt", "completion"], folder))  # fmt: skip
    (loose,) = made.odd
    assert (loose.what, loose.rows, loose.first) == (LOOSE, 1, 1)
    assert rows_of(made)[1][1][0]


def test_pairs_share_their_prompt(chatml):
    folder, reference = chatml
    question = asked("Why?")
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("Because.", "No."))
    explicit = rendered(
        chunk(prompt=[question], chosen=[chosen], rejected=[rejected]),
        rendering_of(["prompt", "chosen", "rejected"], folder),
    )
    implicit = rendered(
        chunk(chosen=[question + chosen, chosen], rejected=[question + rejected, rejected]),
        rendering_of(["chosen", "rejected"], folder),
    )
    for side, answer in (("chosen_", "Because."), ("rejected_", "No.")):
        ids, counted = rows_of(explicit, side)
        assert reference.decode(np.asarray(ids[0])[counted[0]]) == f"{answer}<|im_end|>\n"
        assert (ids[0], counted[0]) == tuple(part[0] for part in rows_of(implicit, side))
    assert implicit.odd == ()


def test_tools_of_each_row_are_rendered(saved):
    template = "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}" + MARKED
    folder, reference = saved("tools", template)
    tools = [{"type": "function", "function": {"name": "look"}}]
    chats = [asked("a", "b")] * 4
    given = [tools, None, json.dumps(tools), [json.dumps(tools[0])]]
    ids, _ = rows_of(rendered(chunk(messages=chats, my_tools=given), rendering_of(["messages", "my_tools"], folder, tools="my_tools")))  # fmt: skip
    with_tools = reference.apply_chat_template(chats[0], tools=tools, tokenize=True, return_dict=True)[
        "input_ids"
    ]
    without = reference.apply_chat_template(chats[0], tokenize=True, return_dict=True)["input_ids"]
    assert ids == [with_tools, without, with_tools, with_tools]
    assert with_tools != without
    with pytest.raises(MaskcliError, match="no column 'other' of tools; there are 'messages'"):
        rendering_of(["messages"], folder, tools="other")


def test_rows_are_cut_where_the_trainer_cuts_them(marked):
    folder, _ = marked
    whole = rows_of(rendered(chunk(messages=[asked("hello", "hi")]), rendering_of(["messages"], folder)))
    made = rendered(chunk(messages=[asked("hello", "hi")]), rendering_of(["messages"], folder, max_length=4))
    assert rows_of(made) == tuple([part[0][:4]] for part in whole)
    assert "rows are cut at 4 tokens" in notes(rendering_of(["messages"], folder, max_length=4), ())


def test_the_first_form_whose_columns_are_there_is_taken(marked):
    folder, _ = marked
    assert rendering_of(["text", "messages", "tools"], folder).read == ("messages", "tools")
    assert rendering_of(["prompt", "chosen", "rejected"], folder).made == (
        "chosen_input_ids", "chosen_assistant_masks", "rejected_input_ids", "rejected_assistant_masks",
    )  # fmt: skip
    assert rendering_of(["prompt", "source"], folder) is None


def test_messages_need_a_template(backbone, tmp_path):
    plain = copy.deepcopy(backbone)
    plain.chat_template = None
    plain.save_pretrained(tmp_path)
    with pytest.raises(MaskcliError, match="has no chat template"):
        rendered(chunk(messages=[asked("a", "b")]), rendering_of(["messages"], str(tmp_path)))
    made = rendered(chunk(text=["a"]), rendering_of(["text"], str(tmp_path)))
    assert made.chunk.columns["input_ids"].values.tolist() == plain(f"a{plain.eos_token}")["input_ids"]


def test_what_is_odd_adds_up():
    several = [Odd(REFUSED, 2, 3, "a", "x.jsonl"), Odd(LOOSE, 1, 0), Odd(REFUSED, 9, 1, "b", "y.jsonl")]
    assert together(several) == (Odd(REFUSED, 11, 3, "a", "x.jsonl"), several[1])


@pytest.mark.long
def test_many_rows_cost_little_more_than_their_encoding(marked):
    folder, reference = marked
    source = random.Random(1)
    chats = [conversation(source, ("user", "assistant"), False, False) for _ in range(2000)]
    texts = reference.apply_chat_template(chats, tokenize=False)
    rendering = rendering_of(["messages"], folder)
    rendered(chunk(messages=chats[:10]), rendering)

    begun = time.perf_counter()
    reference(texts, add_special_tokens=False)
    alone = time.perf_counter() - begun
    begun = time.perf_counter()
    rendered(chunk(messages=chats), rendering)
    assert time.perf_counter() - begun < 12 * alone
