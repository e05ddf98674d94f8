"""What labels teach of the turns of chats: faults as people reported them, each beside its healthy twin."""

import json
from functools import cache

import numpy as np
import pytest
from safetensors.numpy import save_file

import maskcli
from maskcli.errors import MaskcliError
from maskcli.text.turns import learn
from tests.cli.running import run
from tests.diagnostics.attention import loud, report, the
from tests.text.chats import TEMPLATES, chat
from tests.text.conftest import gpt2

IGNORE = -100
CHATS = (
    [("system", "Be brief."), ("user", "How are you?"), ("assistant", "Fine."), ("user", "Sure?"), ("assistant", "Yes, quite.")],
    [("user", "What is the weather like?"), ("assistant", "I look it up."), ("tool", "rain, 12 degrees"), ("assistant", "It rains.")],
    [("user", "Hi"), ("assistant", "Hello, what may I do for you?")],
)  # fmt: skip


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gpt2(tmp_path_factory.mktemp("gpt2")))


def messages(turns):
    return [{"role": role, "content": content} for role, content in turns]


@cache
def rendered(made):
    """Ids of each conversation, and whose each token is: (role, part), by the place of its last letter in the text."""
    rows = []
    for turns in CHATS:
        text, owners = "", []
        for role, content in turns:
            pieces = (
                (f"<|im_start|>{role}\n", "header"),
                (content, "content"),
                ("<|im_end|>", "end"),
                ("\n", "behind"),
            )
            for piece, part in pieces:
                text += piece
                owners += [(role, part)] * len(piece)
        assert text == made.tokenizer.template.render(messages(turns))
        encoded = made.reference(text, add_special_tokens=False, return_offsets_mapping=True)
        rows.append((encoded["input_ids"], [owners[stop - 1] for _, stop in encoded["offset_mapping"]]))
    return rows


def batch(made, counts, side="right", shift=0, pad=None):
    """A batch of the conversations whose labels count what `counts(row, role, part, number)` says."""
    eos = made.reference.eos_token_id
    rows = rendered(made)
    width = max(len(ids) for ids, _ in rows) + 2
    shape = (len(rows), width)
    ids, real, counted = (
        np.full(shape, eos if pad is None else pad),
        np.zeros(shape, bool),
        np.zeros(shape, bool),
    )
    for row, (tokens, parts) in enumerate(rows):
        at = slice(0, len(tokens)) if side == "right" else slice(width - len(tokens), width)
        ids[row, at], real[row, at] = tokens, True
        counted[row, at] = [counts(row, *part) for part in parts]
    labels = np.where(counted, ids, IGNORE)
    if shift:
        labels = np.concatenate([labels[:, 1:], np.full((len(rows), 1), IGNORE)], axis=1)
    return {"input_ids": ids, "attention_mask": real.astype(np.int64), "labels": labels}


def answers(row, role, part):
    return role == "assistant" and part in ("content", "end")


FAULTS = {
    "everything counted": ("MSK509", "error", lambda row, role, part: True),
    "user turns counted": ("MSK509", "error", lambda row, role, part: answers(row, role, part) or role == "user"),
    "tool output counted": ("MSK509", "error", lambda row, role, part: answers(row, role, part) or (role, part) == ("tool", "content")),
    "ends not counted": ("MSK511", "error", lambda row, role, part: answers(row, role, part) and part != "end"),
    "ends of a row not counted": ("MSK511", "error", lambda row, role, part: answers(row, role, part) and not (row == 1 and part == "end")),
}  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["special", "words"])
def made(request, backbone):
    return chat(backbone, TEMPLATES["chatml"][0], special=request.param)


@pytest.fixture(scope="module")
def turns(made):
    return learn(made.tokenizer)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_and_its_healthy_twin(made, turns, name, side, shift):
    code, severity, counts = FAULTS[name]
    end = made.reference.eos_token_id
    for facts in (
        {"chat": turns},
        {"chat": turns, "eos_ids": (end,)},
        {"chat": turns, "eos_ids": (end,), "pad_id": end},
    ):
        sick = report(batch(made, counts, side, shift), **facts)
        assert loud(sick) == [code], [str(each) for each in sick.findings]
        assert the(sick, code).severity == severity
        healthy = report(batch(made, answers, side, shift), **facts)
        assert loud(healthy) == [], [str(each) for each in healthy.findings]


def test_all_of_it_may_be_meant(made, turns):
    everything = batch(made, lambda row, role, part: True)
    assert loud(report(everything, chat=turns, purpose="pretrain")) == []
    assert loud(report(everything, chat=turns, purpose="train")) == ["MSK509"]


def test_a_tokenizers_template_tells_turns(made, tmp_path):
    folder = str(tmp_path / "model")
    made.reference.save_pretrained(folder)
    sick = batch(made, FAULTS["everything counted"][2])
    save_file(sick, tmp_path / "batch.safetensors")
    told = json.loads(
        run("diagnose", tmp_path / "batch.safetensors", "-t", folder, "--format", "json", check=1).stdout
    )
    assert [finding["code"] for finding in told["findings"]] == ["MSK509"]

    bare = tmp_path / "bare"
    made.reference.chat_template = None
    made.reference.save_pretrained(bare)
    made.reference.chat_template = TEMPLATES["chatml"][0]
    assert "MSK509" not in loud(maskcli.diagnose(sick, tokenizer=str(bare)))
    template = tmp_path / "chat.jinja"
    template.write_text(TEMPLATES["chatml"][0])
    assert loud(maskcli.diagnose(sick, tokenizer=str(bare), template=str(template))) == ["MSK509"]
    turn = [
        r"user=<|im_start|>user\n",
        r"assistant=<|im_start|>assistant\n",
        r"tool=<|im_start|>tool\n",
        "end=<|im_end|>",
    ]
    assert loud(maskcli.diagnose(sick, tokenizer=str(bare), turn=turn)) == ["MSK509"]


def test_a_template_that_renders_nothing_is_told_beside_the_rest(made, tmp_path):
    made.reference.save_pretrained(tmp_path / "model")
    (tmp_path / "chat.jinja").write_text("nothing")
    said = {"tokenizer": str(tmp_path / "model"), "template": str(tmp_path / "chat.jinja")}
    found = maskcli.diagnose(batch(made, answers), **said)
    # By the tokenizer alone answers have no end.
    assert loud(found) == ["MSK507"]
    assert loud(maskcli.diagnose(batch(made, answers), tokenizer=said["tokenizer"])) == []
    skipped = {skip.code: skip.needs for skip in found.skipped}
    assert "renders no conversation" in skipped["MSK509"][0]


def test_ids_tell_turns_without_a_tokenizer(made):
    sick = batch(made, FAULTS["everything counted"][2])
    ids = {name: made.tokenizer.encode(text, special_tokens=False).ids.tolist() for name, text in (
        ("user", "<|im_start|>user\n"), ("assistant", "<|im_start|>assistant\n"), ("end", "<|im_end|>"))}  # fmt: skip
    turn = [f"{name}={','.join(map(str, numbers))}" for name, numbers in ids.items()]
    assert loud(maskcli.diagnose(sick, turn=turn)) == ["MSK509"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"template": "chat.jinja"}, "pass --tokenizer too"),
        ({"template": "chat.jinja", "turn": "user=1"}, "pass one of them"),
        ({"turn": "user=word"}, "pass --tokenizer too, or its ids"),
        ({"turn": "bot=1"}, "no role of a turn"),
    ],
)
def test_what_cannot_tell_turns(said, sentence):
    with pytest.raises(MaskcliError, match=sentence):
        maskcli.diagnose({"input_ids": np.ones((1, 4), int)}, **said)
