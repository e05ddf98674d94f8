"""What labels teach of the turns of chats: faults as people reported them, each beside its healthy twin."""

import json
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

import maskcli
from maskcli.errors import MaskcliError
from maskcli.meant.shown import Shown
from maskcli.text.turns import learn
from tests.cli.running import run
from tests.diagnostics.attention import loud, report, the
from tests.text.chats import TEMPLATES, chat

IGNORE = -100
CHATS = (
    [("system", "Be brief."), ("user", "How are you?"), ("assistant", "Fine."), ("user", "Sure?"), ("assistant", "Yes, quite.")],
    [("user", "What is the weather like?"), ("assistant", "I look it up."), ("tool", "rain, 12 degrees"), ("assistant", "It rains.")],
    [("user", "Hi"), ("assistant", "Hello, what may I do for you?")],
)  # fmt: skip


@pytest.fixture(scope="module")
def backbone(small_gpt2):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_gpt2)


def messages(turns):
    return [{"role": role, "content": content} for role, content in turns]


class Piece(NamedTuple):
    """What a token is: of which conversation and turn, whose, which part of it, and how many of that part come before and after."""

    row: int
    turn: int
    role: str
    part: str
    before: int = 0
    after: int = 0


@cache
def rendered(made):
    """Ids of each conversation, and what each token is, by the place of its last letter in the text."""
    rows = []
    for row, turns in enumerate(CHATS):
        text, owners = "", []
        for turn, (role, content) in enumerate(turns):
            pieces = (
                (f"<|im_start|>{role}\n", "header"),
                (content, "content"),
                ("<|im_end|>", "end"),
                ("\n", "behind"),
            )
            for piece, part in pieces:
                text += piece
                owners += [Piece(row, turn, role, part)] * len(piece)
        assert text == made.tokenizer.template.render(messages(turns))
        encoded = made.reference(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = [owners[stop - 1] for _, stop in encoded["offset_mapping"]]
        counted = [
            piece._replace(before=tokens[:at].count(piece), after=tokens[at + 1 :].count(piece))
            for at, piece in enumerate(tokens)
        ]
        rows.append((encoded["input_ids"], counted))
    return rows


def batch(made, counts, side="right", shift=0):
    """A batch of the conversations whose labels count the tokens that `counts` says."""
    eos = made.reference.eos_token_id
    rows = rendered(made)
    width = max(len(ids) for ids, _ in rows) + 2
    shape = (len(rows), width)
    ids, real, counted = np.full(shape, eos), np.zeros(shape, bool), np.zeros(shape, bool)
    for row, (tokens, pieces) in enumerate(rows):
        at = slice(0, len(tokens)) if side == "right" else slice(width - len(tokens), width)
        ids[row, at], real[row, at], counted[row, at] = tokens, True, [counts(piece) for piece in pieces]
    labels = np.where(counted, ids, IGNORE)
    if shift:
        labels = np.concatenate([labels[:, 1:], np.full((len(rows), 1), IGNORE)], axis=1)
    return {"input_ids": ids, "attention_mask": real.astype(np.int64), "labels": labels}


def answers(piece):
    return piece.role == "assistant" and piece.part in ("content", "end")


def everything(piece):
    return True


FAULTS = {
    "everything counted": ("MSK509", "error", everything),
    "user turns counted": ("MSK509", "error", lambda piece: answers(piece) or piece.role == "user"),
    "later user turns counted": ("MSK509", "error", lambda piece: answers(piece) or (piece.role == "user" and piece.turn > 1)),
    "tool output counted": ("MSK509", "error", lambda piece: answers(piece) or (piece.role, piece.part) == ("tool", "content")),
    "ends not counted": ("MSK511", "error", lambda piece: answers(piece) and piece.part != "end"),
    "ends of a row not counted": ("MSK511", "error", lambda piece: answers(piece) and not (piece.row == 1 and piece.part == "end")),
    "inner ends not counted": ("MSK511", "error", lambda piece: answers(piece) and not (piece.part == "end" and (piece.row, piece.turn) in ((0, 2), (1, 1)))),
    "an answer from its third token on": ("MSK510", "warning", lambda piece: answers(piece) and not (piece.row == 2 and piece.part == "content" and piece.before < 2)),
    "the first answers alone": ("MSK510", "warning", lambda piece: answers(piece) and (piece.row, piece.turn) not in ((0, 4), (1, 3))),
    "answers from the second token on": ("MSK506", "warning", lambda piece: answers(piece) and (piece.part == "end" or piece.before > 0 or piece.after < 1)),
    "headers counted": ("MSK512", "warning", lambda piece: piece.role == "assistant" and piece.part != "behind"),
}  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["special", "words"])
def made(request, backbone):
    return chat(backbone, TEMPLATES["chatml"][0], special=request.param)


@pytest.fixture(scope="module")
def turns(made):
    return learn(made.tokenizer)


@pytest.mark.combinations
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
    whole = batch(made, everything)
    assert loud(report(whole, chat=turns, purpose="pretrain")) == []
    assert loud(report(whole, chat=turns, purpose="train")) == ["MSK509"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_answers_alone_may_be_meant(made, turns, side):
    """In the first conversation the first answer, in the second both before the last are not counted."""
    last = {(0, 4), (1, 3), (2, 1)}
    found = report(
        batch(made, lambda piece: answers(piece) and (piece.row, piece.turn) in last, side), chat=turns
    )
    assert loud(found) == []
    (note,) = found.findings
    assert (note.code, note.severity, note.evidence) == ("MSK510", "note", {"answers": 2})


def test_what_stands_behind_an_end_is_the_templates_own(made, turns):
    behind = batch(made, lambda piece: answers(piece) or (piece.role, piece.part) == ("assistant", "behind"))
    end = made.reference.eos_token_id
    assert loud(report(behind, chat=turns, eos_ids=(end,), pad_id=end)) == []


def encoded(made, text):
    return made.tokenizer.encode(text, special_tokens=False).ids[None]


@pytest.mark.parametrize("appended", ["<|im_end|>", "<|im_end|>\n"])
def test_an_end_that_stands_twice(made, turns, appended):
    """The template has written it, and a trainer writes it again."""
    whole = made.tokenizer.template.render(messages(CHATS[0]))
    once, twice = encoded(made, whole), encoded(made, whole + appended)
    counted = turns.split(once).answers()
    healthy = report({"input_ids": once, "labels": np.where(counted, once, IGNORE)}, chat=turns)
    assert loud(healthy) == []
    more = np.pad(counted, [(0, 0), (0, twice.shape[1] - once.shape[1])], constant_values=True)
    found = report({"input_ids": twice, "labels": np.where(more, twice, IGNORE)}, chat=turns)
    # Ends of plain words are not looked for behind the first.
    assert loud(found) == (["MSK513"] if turns.end_ids() <= turns.special else [])


@pytest.mark.parametrize("counted", [True, False])
def test_a_generation_prompt_that_nobody_answers(made, turns, counted):
    plain = encoded(made, made.tokenizer.template.render(messages(CHATS[2])))
    prompted = encoded(made, made.tokenizer.template.render(messages(CHATS[2]), generation_prompt=True))

    def padded(ids, beyond):
        labels = np.where(turns.split(ids).answers() | beyond, ids, IGNORE)
        arrays = {"input_ids": ids, "labels": labels, "attention_mask": np.ones_like(ids)}
        return {
            name: np.pad(array, [(0, 0), (2, 0)], constant_values=-100 * (name == "labels"))
            for name, array in arrays.items()
        }

    sick = padded(prompted, counted & (np.arange(prompted.shape[1]) >= plain.shape[1]))
    assert loud(report(sick, chat=turns)) == ["MSK512"]
    assert loud(report(sick, chat=turns, purpose="generate")) == []
    assert loud(report(padded(plain, False), chat=turns)) == []


def test_answers_that_are_cut(made, turns):
    whole = batch(made, answers)
    lengths = whole["attention_mask"].sum(axis=1)
    width = int(lengths.max())
    cut = {name: array[:, : width - 4] for name, array in whole.items()}
    rows = int((lengths > width - 4).sum())
    found = report(cut, chat=turns)
    assert loud(found) == ["MSK518"]
    assert the(found, "MSK518").evidence == {"cut_samples": rows, "full_samples": rows, "length": width - 4}
    assert loud(report({name: array[:, :width] for name, array in whole.items()}, chat=turns)) == []
    # A set says how long its longest row is.
    assert loud(report(cut, chat=turns, shown=Shown({}, ends=False, starts=(), longest=width))) == []


def test_rows_out_of_a_stream_are_not_cut(made, turns):
    """Long rows of conversations behind one another, cut into pieces of a length, as trl's `wrapped` does it."""
    ids = np.concatenate([row for row, _ in rendered(made)] * 3)
    rows = ids[: len(ids) // 60 * 60].reshape(-1, 60)
    assert (
        loud(
            report(
                {"input_ids": rows, "labels": np.where(turns.split(rows).answers(), rows, IGNORE)}, chat=turns
            )
        )
        == []
    )


@pytest.mark.long
def test_a_tokenizers_template_tells_turns(made, tmp_path):
    folder = str(tmp_path / "model")
    made.reference.save_pretrained(folder)
    sick = batch(made, everything)
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


@pytest.mark.long
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
    sick = batch(made, everything)
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


@pytest.mark.parametrize("side", ["left", "right"])
def test_chosen_and_rejected_texts_that_are_the_same(made, side):
    whole = batch(made, answers, side)
    ids, real = whole["input_ids"], whole["attention_mask"]
    other = np.where(real.cumsum(axis=1) == 3, ids + 1, ids)

    def pairs(rejected):
        texts = {"chosen_input_ids": ids, "chosen_attention_mask": real}
        return texts | {"rejected_input_ids": rejected, "rejected_attention_mask": real}

    same = the(report(pairs(np.concatenate([ids[:1], other[1:]]))), "MSK519")
    assert same.where.batch == (0,)
    assert loud(report(pairs(other))) == []
