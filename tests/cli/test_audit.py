"""maskcli audit, as its users run it."""

import json

import pytest

from tests.cli.running import read, refused, run
from tests.text.chats import TEMPLATES

# Rows of 8 tokens, of which 2 ends the text; in every third one the labels stop before it.
IDS = [5, 6, 7, 8, 9, 10, 11, 2]
GOOD = {"input_ids": IDS, "labels": [-100] * 3 + IDS[3:]}
BAD = {"input_ids": IDS, "labels": [*[-100] * 3, *IDS[3:-1], -100]}


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sets") / "train.jsonl", [BAD, GOOD, GOOD] * 20)


OPTIONS = ("--pad-id", "0", "--eos-id", "2")


def test_a_report_and_its_exit_code(train):
    done = run("audit", train, *OPTIONS, check=1)
    table = [line.split() for line in done.stdout.splitlines()]
    assert ["rows", "60"] in table
    assert "counted by the loss 280 58.3 % of the rest".split() in table
    assert "warning  20 of 60 rows (33.3 %)" in done.stdout
    assert "    5 6 7 [[8 9 10 11]] {{2}}\n" in done.stdout
    assert done.stderr == ""
    run("audit", train, *OPTIONS, "--exit-zero", check=0)
    run("audit", train, *OPTIONS, "--fail-on", "never", check=0)
    run("audit", train, *OPTIONS, "--ignore", "MSK5", check=0)


def test_a_healthy_set_is_silent(tmp_path):
    done = run("audit", write(tmp_path / "a.jsonl", [GOOD] * 9), *OPTIONS, check=0)
    assert "nothing found in 9 rows, by" in done.stdout


def test_every_form_says_the_same(train, tmp_path):
    whole = read("audit", train, *OPTIONS, check=1)
    (finding,) = whole["sets"][0]["findings"]
    assert (finding["code"], finding["rows"], finding["of"]) == ("MSK506", 20, 60)
    assert [row["row"] for row in finding["first"]] == [0, 3, 6, 9, 12]
    for form in ("concise", "jsonl", "csv"):
        assert "MSK506" in run("audit", train, *OPTIONS, "--format", form, check=1).stdout
    for name in ("a.json", "a.jsonl", "a.csv", "a.txt"):
        assert run("audit", train, *OPTIONS, "-o", tmp_path / name, check=1).stdout == ""
        assert "MSK506" in (tmp_path / name).read_text()


def test_row_numbers_of_a_rule(train, tmp_path):
    numbers = "".join(f"{number}\n" for number in range(0, 60, 3))
    assert run("audit", train, *OPTIONS, "--rows", "MSK506", check=1).stdout == numbers
    assert run("audit", train, *OPTIONS, "--rows", "label-border", check=1).stdout == numbers
    assert run("audit", train, *OPTIONS, "--rows", "MSK503", check=0).stdout == ""
    run("audit", train, *OPTIONS, "--rows", "MSK506", "-o", tmp_path / "rows.txt", check=1)
    assert (tmp_path / "rows.txt").read_text() == numbers
    other = write(tmp_path / "b.jsonl", [GOOD, BAD])
    several = run("audit", train, other, *OPTIONS, "--rows", "MSK506", check=1).stdout.splitlines()
    assert several == [*(f"{train}\t{number}" for number in range(0, 60, 3)), f"{other}\t1"]
    assert "--rows 'MSK9': no rule has this code" in refused("audit", train, "--rows", "MSK9")
    assert "leave --format and --show out" in refused("audit", train, "--rows", "MSK506", "--format", "json")


def test_columns_are_said(tmp_path):
    rows = [{"input_ids": IDS, "my_mask": [0, 0, 0, 1, 1, 1, 1, 1], "extra": IDS}] * 3
    path = write(tmp_path / "a.jsonl", rows)
    assert "not read: my_mask:" in run("audit", path, *OPTIONS, check=0).stdout
    whole = read("audit", path, *OPTIONS, "--column", "loss_mask=my_mask")
    assert whole["sets"][0]["glance"]["counted"] == 15
    assert list(whole["sets"][0]["unread"]) == ["extra"]
    assert "there is no column 'other'" in refused("audit", path, "--column", "loss_mask=other")
    assert "expected ROLE=NAME" in refused("audit", path, "--column", "what=my_mask")


def test_several_processes_say_what_one_says(train):
    one, two = (run("audit", train, *OPTIONS, "--jobs", jobs, check=1).stdout for jobs in (1, 2))
    assert one == two
    assert "pass one of them" in refused("audit", train, "--jobs", "2", "--dask", "tcp://127.0.0.1:1")


def test_what_cannot_be_audited(tmp_path):
    assert "holds no rows" in refused("audit", write(tmp_path / "a.jsonl", []))
    assert "nothing to audit among 'score'" in refused("audit", write(tmp_path / "b.jsonl", [{"score": 1}]))
    chat = [{"role": "user", "content": "a"}]
    assert "pass a tokenizer (-t)" in refused("audit", write(tmp_path / "c.jsonl", [{"messages": chat}]))
    assert "a.parquet" in refused("audit", tmp_path / "a.parquet")


def test_one_bad_set_stops_none_of_the_others(train, tmp_path):
    (tmp_path / "bad").mkdir()
    write(tmp_path / "bad" / "a.jsonl", [{"score": 1}])
    done = run("audit", tmp_path / "bad", train, *OPTIONS, check=2)
    assert "MSK506" in done.stdout
    assert "nothing to audit among 'score'" in done.stderr
    whole = read("audit", tmp_path / "bad", train, *OPTIONS, check=2)
    assert [each["name"] for each in whole["errors"]] == [str(tmp_path / "bad")]


def test_a_row_is_shown_token_by_token(train, tmp_path):
    done = run("audit", train, *OPTIONS, "--show", 3, check=0)
    title, heading, _, *lines = done.stdout.splitlines()
    assert title == f"{train}, row 3: 8 tokens"
    assert heading.split() == ["index", "id", "counted", "label"]
    assert lines[3].split() == ["3", "8", "yes", "8"]
    assert lines[7].split() == ["7", "2", "-100"]
    whole = read("audit", train, *OPTIONS, "--show", 3, "--show", 4)
    assert [each["row"] for each in whole["rows"]] == [3, 4]
    token = {"index": 7, "id": 2, "counted": True, "label": 2}
    assert whole["rows"][1]["sides"][0]["tokens"][7] == token
    assert "there is no row 60" in refused("audit", train, "--show", 60)
    assert "leave --format and --show out" in refused("audit", train, "--show", 1, "--rows", "MSK506")


@pytest.mark.parametrize("columns", [40, 60, 120])
def test_a_long_row_fits_the_terminal_without_its_middle(tmp_path, columns):
    ids = [*range(10_000, 10_199), 2]
    write(tmp_path / "a.jsonl", [{"input_ids": ids, "labels": ids}] * 2)
    text = run("audit", "a.jsonl", *OPTIONS, "--show", 1, check=0, cwd=tmp_path, COLUMNS=str(columns)).stdout
    assert "152 more lines in between; --full shows them" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= columns
    assert len(text.splitlines()) < 60
    full = run(
        "audit", "a.jsonl", *OPTIONS, "--show", 1, "--full", check=0, cwd=tmp_path, COLUMNS=str(columns)
    ).stdout
    piped = run("audit", "a.jsonl", *OPTIONS, "--show", 1, check=0, cwd=tmp_path).stdout
    assert len(full.splitlines()) == len(piped.splitlines()) == 203


MARKED = TEMPLATES["chatml"][0].replace(
    "{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"
)


def test_a_chat_template_alone_is_checked(tmp_path, small_tokenizer):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATES["chatml"][0]
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "marked.jinja").write_text(MARKED)

    def checked(*arguments, **options):
        return run("audit", *arguments, cwd=tmp_path, **options)

    done = checked("--template", "model", check=0)
    assert done.stdout.startswith("chat template of model\n")
    assert "generation marks hold         there are none\n" in done.stdout
    assert done.stdout == checked("-t", "model", check=0).stdout
    # The end stands behind the marks.
    done = checked("--template", "marked.jinja", "-t", "model", check=1, COLUMNS="60")
    assert "error\n  the generation marks leave out '<|im_end|>'" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60
    whole = read("audit", "--template", "marked.jinja", "-t", "model", check=1, cwd=tmp_path)
    assert whole["ends"][0]["token"] == "<|im_end|>"
    assert whole["marks"]["ends"] is False
    assert whole["summary"]["error"] == 1
    checked("--template", "marked.jinja", "-t", "model", "--exit-zero", check=0)

    assert "there is nothing to audit; name training sets" in refused("audit", cwd=tmp_path)
    assert "nothing to audit" in refused("audit", "--template", "marked.jinja", cwd=tmp_path)
    assert "--format csv is not written here" in refused(
        "audit", "-t", "model", "--format", "csv", cwd=tmp_path
    )


def test_no_share_is_more_than_all(tmp_path):
    rows = [
        {"input_ids": [5, 6, 2, *[0] * 5], "labels": [5, 6, 2, *[0] * 5], "attention_mask": [1] * 3 + [0] * 5}
    ]
    done = run("audit", write(tmp_path / "padded.jsonl", rows * 3), check=1)
    (told,) = [line.split() for line in done.stdout.splitlines() if "counted by the loss  " in line]
    assert told[-5:] == ["21", "87.5", "%", "of", "all"]


def test_padding_is_one_line(tmp_path):
    padded = {"input_ids": [5, 6, 7, 2, *[0] * 20], "labels": [-100, 6, 7, 2, *[-100] * 20]}
    path = write(tmp_path / "a.jsonl", [{**padded, "attention_mask": [1] * 4 + [0] * 20}] * 2)
    *_, last = run("audit", path, *OPTIONS, "--show", 0, check=0).stdout.splitlines()
    assert last.split() == ["4..24", "0", "0", "-100"]
    assert len(run("audit", path, *OPTIONS, "--show", 0, "--full", check=0).stdout.splitlines()) == 27


def test_plain_texts_that_count_whole_are_healthy(tmp_path, small_tokenizer):
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(small_tokenizer).save_pretrained(tmp_path / "model")
    rows = [{"text": f"The {at} cats sat on {at} mats, and so on."} for at in range(30)]
    write(tmp_path / "texts.jsonl", rows)
    done = run("audit", "texts.jsonl", "-t", "model", cwd=tmp_path, check=0)
    assert ["rows", "counted", "whole", "30", "100", "%"] in [
        line.split() for line in done.stdout.splitlines()
    ]
    assert "note: text: rendered by model; counted here: every token\n" in done.stdout
