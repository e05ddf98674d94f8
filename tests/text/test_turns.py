"""Turns learnt from chat templates, and rows split by them."""

from __future__ import annotations

import random
import re
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskcli.errors import MaskcliError
from maskcli.text import load_tokenizer
from maskcli.text.markers import ROLES
from maskcli.text.splitting import BEHIND, CONTENT, END, HEADER, NONE, Split
from maskcli.text.turns import Turns, given, learn, parse_marker

from .chats import TEMPLATES, Chat, chat, conversation, shipped, text_of
from .conftest import deepseek, gpt2

USER, ASSISTANT = ROLES.index("user"), ROLES.index("assistant")


@pytest.fixture(scope="module")
def backbones(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from transformers import AutoTokenizer

    folders = {
        "deepseek": small_tokenizer,
        "whole": deepseek(Path()),
        "gpt2": gpt2(tmp_path_factory.mktemp("gpt2")),
    }
    return {name: AutoTokenizer.from_pretrained(folder) for name, folder in folders.items()}


def expected(made: Chat, messages: list[dict[str, Any]]) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Ids of a conversation, and by the places of the contents in its text: role, first and last token of each."""
    text = made.tokenizer.template.render(messages)
    encoded = made.reference(text, add_special_tokens=False, return_offsets_mapping=True)
    starts, stops = np.asarray(encoded["offset_mapping"]).T
    found, at = [], 0
    for message in messages:
        content = text_of(message).strip()
        if not content:
            continue
        core = re.search(r"#\d+#", content).group()
        place = text.index(core, at)
        at = place + len(core)
        # Templates that write content as JSON keep its number alone.
        whole = text.find(content, max(0, place - len(content)))
        first, last = (whole, whole + len(content)) if 0 <= whole <= place else (place, at)
        inside = np.flatnonzero((starts >= first) & (stops <= last) & (stops > starts))
        if len(inside):
            found.append((message["role"], int(inside[0]), int(inside[-1])))
    return np.asarray(encoded["input_ids"]), found


def turns_of(split: Split, row: int = 0) -> list[str]:
    """The roles of a row's turns, one after the other."""
    pairs = [(int(turn), int(role)) for turn, role in zip(split.turn[row], split.role[row], strict=True)]
    return [ROLES[role] for (turn, role), _ in groupby(pairs) if turn >= 0]


def check(made: Chat, turns: Turns, messages: list[dict[str, Any]]) -> None:
    """Each content's tokens are of its role and CONTENT; the turns are the messages."""
    ids, contents = expected(made, messages)
    split = turns.split(ids[None])
    for role, first, last in contents:
        shown = made.reference.decode(ids[max(0, first - 6) : last + 3])
        assert set(split.part[0, first : last + 1]) == {CONTENT}, (shown, split.part[0, first : last + 1])
        assert set(split.role[0, first : last + 1]) == {ROLES.index(role)}, shown
    told = [message["role"] for message in messages]
    found = turns_of(split)
    # A system's text of the template's own is a turn too; one inside the user's turn is none.
    if found[0] == "system" and told[0] != "system":
        found = found[1:]
    if "system" not in turns.roles:
        told = [role for role in told if role != "system"]
    assert [role for role, _ in groupby(found)] == [role for role, _ in groupby(told)]


def check_all(made: Chat, turns: Turns, seed: int, count: int) -> None:
    """Random conversations, as far as the template takes them."""
    from maskcli.text.sentinels import Prober
    from maskcli.text.turns import shaped

    shape = shaped(Prober(made.tokenizer, made.tokenizer.template)).shape
    rng, rendered = random.Random(seed), 0
    for _ in range(count):
        messages = conversation(rng, turns.roles, shape.parts, shape.written)
        if shape.absent:
            messages = [{**m, "content": None if "tool_calls" in m else m["content"]} for m in messages]
        try:
            made.tokenizer.template.render(messages)
        except MaskcliError:
            continue
        rendered += 1
        check(made, turns, messages)
    assert rendered > count // 4


@pytest.mark.combinations
@pytest.mark.parametrize("backbone", ["deepseek", "gpt2"])
@pytest.mark.parametrize("style", TEMPLATES)
def test_any_conversation_splits_into_its_messages(backbones, backbone: str, style: str) -> None:
    template, roles = TEMPLATES[style]
    made = chat(backbones[backbone], template)
    turns = learn(made.tokenizer)
    assert set(turns.roles) == set(roles.split())
    check_all(made, turns, seed=1, count=15)


@pytest.mark.combinations
@pytest.mark.parametrize("style", ["chatml", "llama3", "gemma", "zephyr", "phi", "thinking", "tools"])
def test_markers_that_no_token_stands_for_are_found_as_words(backbones, style: str) -> None:
    made = chat(backbones["deepseek"], TEMPLATES[style][0], special=False)
    check_all(made, learn(made.tokenizer), seed=2, count=15)


@pytest.mark.combinations
@pytest.mark.parametrize("path", list(shipped()), ids=lambda path: path.stem)
def test_templates_that_trl_ships(backbones, path: Path) -> None:
    made = chat(backbones["whole"], path.read_text(encoding="utf-8"))
    turns = learn(made.tokenizer)
    assert {"user", "assistant"} <= set(turns.roles)
    assert (turns.marks is not None) == (made.tokenizer.template.marked is not None)
    assert turns.marks is None or turns.marks.ends or path.stem == "glm4moe_training"
    check_all(made, turns, seed=3, count=10)


def ids_of(made: Chat, text: str) -> np.ndarray:
    return made.tokenizer.encode(text, special_tokens=False).ids


def test_parts_of_a_turn(backbones) -> None:
    made = chat(backbones["gpt2"], TEMPLATES["chatml"][0])
    turns = learn(made.tokenizer)
    end, start = (made.reference.convert_tokens_to_ids(f"<|im_{name}|>") for name in ("end", "start"))
    assert turns.end_ids() == {end}
    assert turns.prompt == tuple(ids_of(made, "<|im_start|>assistant\n"))
    ids = ids_of(made, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n")
    split = turns.split(ids[None])
    # GPT-2 writes "assistant" as two tokens.
    parts = [CONTENT, END, BEHIND]
    assert split.part[0].tolist() == [HEADER] * 3 + parts + [HEADER] * 4 + parts
    assert split.turn[0].tolist() == [0] * 6 + [1] * 7
    assert split.role[0].tolist() == [USER] * 6 + [ASSISTANT] * 7
    assert made.reference.decode(ids[split.answers()[0]]) == "Yes<|im_end|>"
    assert ids[0] == start


def test_rows_that_begin_and_end_in_the_middle(backbones) -> None:
    made = chat(backbones["gpt2"], TEMPLATES["chatml"][0])
    turns = learn(made.tokenizer)
    whole = ids_of(made, "of a turn<|im_end|>\n<|im_start|>assistant\nYes and")
    split = turns.split(whole[None])
    text = made.reference.decode
    assert split.turn[0].tolist()[:2] == [0, 0]
    # Whose turn it was is not known: any role ends so.
    assert split.role[0, 0] == -1
    assert split.part[0, 0] == CONTENT
    assert text(whole[split.part[0] == END]) == "<|im_end|>"
    assert text(whole[split.answers()[0]]) == "Yes and"
    # No marker, no turn.
    nothing = turns.split(ids_of(made, "just words")[None])
    assert set(nothing.turn[0]) == {-1}
    assert set(nothing.part[0]) == {NONE}


def test_an_end_of_one_role_alone_tells_whose_turn_a_row_begins_in(backbones) -> None:
    made = chat(backbones["deepseek"], TEMPLATES["deepseek"][0])
    split = learn(made.tokenizer).split(ids_of(made, "of it<｜end▁of▁sentence｜><｜User｜>Hi")[None])
    assert turns_of(split) == ["assistant", "user"]


def test_padding_is_no_turn(backbones) -> None:
    made = chat(backbones["gpt2"], TEMPLATES["zephyr"][0])
    turns = learn(made.tokenizer)
    ids = ids_of(made, "<|user|>\nHi<|endoftext|>\n<|assistant|>\nYes<|endoftext|>\n")
    eos = made.reference.eos_token_id
    plain = turns.split(ids[None])
    for padded in (np.r_[ids, [eos] * 5], np.r_[[eos] * 5, ids]):
        split = turns.split(padded[None])
        assert split.turn.max() == plain.turn.max() == 1
        assert split.answers().sum() == plain.answers().sum()


def test_ragged_rows_are_rows(backbones) -> None:
    made = chat(backbones["gpt2"], TEMPLATES["llama3"][0])
    turns = learn(made.tokenizer)
    rng = random.Random(4)
    texts = [made.tokenizer.template.render(conversation(rng, turns.roles, False, False)) for _ in range(20)]
    rows = [ids_of(made, text) for text in texts] + [np.zeros(0, np.int64)]
    offsets = np.cumsum([0, *map(len, rows)])
    together = turns.split(np.concatenate(rows), offsets)
    for row, start in zip(rows, offsets, strict=False):
        alone = turns.split(row[None])
        for name in ("turn", "role", "part"):
            got = getattr(together, name)[start : start + len(row)]
            assert got.tolist() == getattr(alone, name)[0].tolist(), name


def test_turns_that_lost_their_ends_are_told_apart(backbones) -> None:
    made = chat(backbones["gpt2"], TEMPLATES["chatml"][0], special=False)
    turns = learn(made.tokenizer)
    ids = ids_of(made, "<|im_start|>user\nHi\n<|im_start|>assistant\nYes\n<|im_start|>user\nWell\n")
    assert turns_of(turns.split(ids[None])) == ["user", "assistant", "user"]


def test_words_like_a_marker_inside_a_turn_are_content(backbones) -> None:
    made = chat(backbones["gpt2"], TEMPLATES["chatml"][0], special=False)
    turns = learn(made.tokenizer)
    messages = [
        {"role": "user", "content": "write <|im_start|>assistant\nlike this"},
        {"role": "assistant", "content": "as you say #1#"},
    ]
    split = turns.split(ids_of(made, made.tokenizer.template.render(messages))[None])
    assert turns_of(split) == ["user", "assistant"]


def test_an_unknown_role_is_another_turn(backbones) -> None:
    made = chat(backbones["gpt2"], TEMPLATES["chatml"][0])
    turns = learn(made.tokenizer)
    ids = ids_of(made, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>critic\nBad<|im_end|>\n")
    assert turns_of(turns.split(ids[None])) == ["user", "other"]


@pytest.mark.long
def test_thoughts_that_a_template_drops_from_past_answers(backbones) -> None:
    def learnt(style: str) -> Turns:
        return learn(chat(backbones["gpt2"], TEMPLATES[style][0]).tokenizer)

    assert (learnt("thinking").keeps_thinking, learnt("thinking").stable) == (False, False)
    assert (learnt("chatml").keeps_thinking, learnt("chatml").stable) == (None, True)
    # The end of the whole text is no part of its beginning.
    phi = learnt("phi")
    assert not phi.stable
    assert phi.tail[-1] == backbones["gpt2"].eos_token_id
    assert phi.end_ids() != set(phi.tail)


def test_a_tokenizer_that_adds_a_second_start(backbones, tmp_path: Path) -> None:
    from tokenizers import processors

    template = TEMPLATES["llama3"][0]
    made = chat(backbones["deepseek"], template)
    bos, number = made.reference.bos_token, made.reference.bos_token_id
    for adds in (False, True):
        single = f"{bos} $A" if adds else "$A"
        made.reference.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} $B", special_tokens=[(bos, number)]
        )
        made.reference.save_pretrained(tmp_path / str(adds))
        assert learn(load_tokenizer(str(tmp_path / str(adds)), chat=True)).doubled_start == adds


@pytest.mark.long
def test_generation_marks_are_seen(backbones) -> None:
    marked = TEMPLATES["chatml"][0].replace(
        "{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"
    )
    assert learn(chat(backbones["gpt2"], marked).tokenizer).marks == (False, False)
    assert learn(chat(backbones["gpt2"], TEMPLATES["chatml"][0]).tokenizer).marks is None


@pytest.mark.long
@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "nothing",
        "{{ messages[0].content }}",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    ],
)
def test_a_template_without_turns_is_refused(backbones, template: str) -> None:
    with pytest.raises(MaskcliError, match="whose turns can be told apart"):
        learn(chat(backbones["gpt2"], template).tokenizer)


def test_a_template_that_never_ends_is_stopped(backbones, monkeypatch: pytest.MonkeyPatch) -> None:
    from maskcli.text import templates

    monkeypatch.setattr(templates, "_SECONDS", 0.2)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    made = chat(backbones["gpt2"], endless)
    start = time.monotonic()
    with pytest.raises(MaskcliError, match="ran for more than"):
        learn(made.tokenizer)
    assert time.monotonic() - start < 5


def test_markers_of_ones_own() -> None:
    turns = given({"user": [5, 6], "assistant": [5, 7], "end": [8]}.items())
    split = turns.split(np.array([[5, 6, 1, 2, 8, 5, 7, 3, 8]]))
    assert turns_of(split) == ["user", "assistant"]
    assert split.answers()[0].tolist() == [False] * 7 + [True, True]


def test_markers_of_ones_own_as_text(backbones) -> None:
    made = chat(backbones["gpt2"], TEMPLATES["chatml"][0], special=False)
    turns = given({"user": "### Q:", "assistant": "### A:"}.items(), made.tokenizer)
    ids = ids_of(made, "### Q: Is it? (yes)\n### A: No.\n### Q: Well.### A:\nSo.")
    assert turns_of(turns.split(ids[None])) == ["user", "assistant"] * 2
    with pytest.raises(MaskcliError, match="pass --tokenizer too, or its ids"):
        given({"user": "### Q:"}.items())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (r"user=<|im_start|>user\n", ("user", "<|im_start|>user\n")),
        ("user=151644,872 198", ("user", [151644, 872, 198])),
        (r"end=\\n=", ("end", r"\n=")),
    ],
)
def test_markers_as_options_give_them(text: str, told: object) -> None:
    assert parse_marker(text) == told


@pytest.mark.parametrize("markers", [{}, {"end": [1]}, {"bot": [1]}, {"user": []}])
def test_markers_that_are_none(markers: dict[str, list[int]]) -> None:
    with pytest.raises(MaskcliError):
        given(markers.items())


@pytest.mark.parametrize("text", ["user", "user=", "=x"])
def test_options_that_are_no_markers(text: str) -> None:
    with pytest.raises(MaskcliError):
        given([parse_marker(text)])
