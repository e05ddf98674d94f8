import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.cli.running import read, refused, run

BOOK = ("--ids", "5 3 2 0 0; 7 4 8 6 0", "--pad-id", "0")


def dense(shown):
    """The mask of the JSON as a boolean array."""
    batch, heads, queries, keys = shown["shape"]
    out = np.zeros((batch, heads, queries, keys), bool)
    for b, h, q in np.ndindex(batch, heads, queries):
        for start, stop in shown["runs"][b][h][q]:
            out[b, h, q, start:stop] = True
    return out


@pytest.mark.parametrize(
    ("spec", "broadcast", "first"),
    [
        ("padding", [2, 1, 5], [[1, 1, 1, 0, 0]] * 5),
        ("causal", [5, 5], np.tril(np.ones((5, 5), int)).tolist()),
        ("combined", [2, 5, 5], (np.tril(np.ones((5, 5), int)) * [1, 1, 1, 0, 0]).tolist()),
        ("causal & padding", [2, 5, 5], (np.tril(np.ones((5, 5), int)) * [1, 1, 1, 0, 0]).tolist()),
    ],
)
def test_the_textbook_example(spec, broadcast, first):
    shown = read("show", *BOOK, "-m", spec)
    mask = shown["mask"]
    assert (mask["spec"], mask["shape"], mask["broadcast_shape"]) == (spec, [2, 1, 5, 5], broadcast)
    assert dense(mask)[0, 0].astype(int).tolist() == first
    assert mask["attended"] == dense(mask).sum()
    assert mask["density"] == pytest.approx(dense(mask).mean())
    assert mask["empty_rows"] == 0
    assert [[t["id"] for t in s["tokens"]] for s in shown["sequences"]] == [[5, 3, 2, 0, 0], [7, 4, 8, 6, 0]]
    assert shown["source"] is None


def test_the_default_mask_and_the_token_rows():
    shown = read("show", "The cat sat.", "Hello")
    assert shown["mask"]["spec"] == "combined"
    tokens = shown["sequences"][0]["tokens"]
    assert [t["token"] for t in tokens] == ["The", "cat", "sat", "."]
    assert set(tokens[0]) == {
        "index",
        "id",
        "token",
        "special",
        "attention_mask",
        "position_id",
        "segment",
        "label",
    }
    assert [t["attention_mask"] for t in shown["sequences"][1]["tokens"]] == [1, 0, 0, 0]


def test_all_the_ways_to_give_tokens(tmp_path):
    (tmp_path / "lines.txt").write_text("one two\nthree\n")
    assert read("show", "--file", tmp_path / "lines.txt")["mask"]["shape"] == [2, 1, 2, 2]
    assert read("show", "-", stdin="one two\nthree\n")["mask"]["shape"] == [2, 1, 2, 2]
    assert read("show", "--lengths", "5,3,7")["mask"]["shape"] == [3, 1, 7, 7]
    assert read("show", "a b", "c", "--packed")["mask"]["spec"] == "causal & documents"
    assert dense(read("show", "a b", "c", "--packed", "-m", "documents")["mask"])[0, 0].astype(int).tolist() == [
        [1, 1, 0], [1, 1, 0], [0, 0, 1],
    ]  # fmt: skip
    cross = read("show", "guten Tag", "--source", "good day to you", "-m", "cross")
    assert (cross["mask"]["shape"], cross["mask"]["broadcast_shape"]) == ([1, 1, 2, 4], [1, 1, 4])
    assert len(cross["source"][0]["tokens"]) == 4
    pair = read("show", "a b", "--pair", "c", "--special-tokens")
    assert len(pair["sequences"][0]["tokens"]) >= 3


def test_past_keys_and_a_static_cache():
    shown = read("show", "--lengths", "2", "--past", "3", "-m", "causal")
    assert shown["mask"]["runs"] == [[[[[0, 4]], [[0, 5]]]]]
    cache = read("show", "--lengths", "2", "--past", "3", "--cache-length", "9", "-m", "padding")
    assert cache["mask"]["runs"] == [[[[[0, 5]], [[0, 5]]]]]
    assert "no room" in refused("show", "--lengths", "4", "--cache-length", "3")


def test_every_form_says_the_same():
    whole = read("show", *BOOK)["mask"]
    lines = [line.split("\t") for line in run("show", *BOOK, "--format", "text").stdout.splitlines()]
    assert len(lines) == 10
    for b, q, _, attended, spans in lines:
        runs = [[int(x) for x in span.split(":")] for span in spans.split(",")]
        assert runs == whole["runs"][int(b)][0][int(q)]
        assert int(attended) == sum(stop - start for start, stop in runs)
    csv = run("show", *BOOK, "--format", "csv").stdout.splitlines()
    assert csv[0] == "sequence,query,token,attended,keys"
    assert len(csv) == 11
    objects = [json.loads(line) for line in run("show", *BOOK, "--format", "jsonl").stdout.splitlines()]
    assert [each["runs"] for each in objects] == [whole["runs"][0][0], whole["runs"][1][0]]


def test_tables_fit_sixty_columns_and_are_whole_in_a_pipe():
    narrow = run("show", "The quick brown fox jumps over the lazy dog", "-m", "causal", COLUMNS="60").stdout
    assert max(map(len, narrow.splitlines())) <= 60
    piped = run("show", "The quick brown fox jumps over the lazy dog", "-m", "causal").stdout
    assert "…" not in piped
    assert "\x1b" not in piped
    assert all(word in piped for word in ("quick", "jumps", "lazy"))
    assert (
        piped
        == run(
            "show", "The quick brown fox jumps over the lazy dog", "-m", "causal", GITHUB_ACTIONS="true"
        ).stdout
    )
    assert "\x1b" in run("show", "Hi", FORCE_COLOR="1").stdout
    assert "\x1b" not in run("show", "Hi", FORCE_COLOR="0").stdout
    assert "\x1b" not in run("show", "Hi", FORCE_COLOR="1", NO_COLOR="1").stdout
    assert max(map(len, run("show", "--lengths", "5000", COLUMNS="60").stdout.splitlines())) <= 60
    assert (
        max(map(len, run("show", "--lengths", "90", COLUMNS="100", TERM="dumb").stdout.splitlines())) <= 100
    )


@pytest.mark.combinations
@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120])
@pytest.mark.parametrize("to", ["sdpa", "additive"])
@pytest.mark.parametrize("length", [6, 9, 13, 14, 17, 20, 24, 28, 33, 40])
def test_a_mask_table_is_whole_or_becomes_a_map(columns, to, length):
    """In a process of its own for each would take minutes: the table itself is asked."""
    import io

    from maskcli.inputs.texts import Shown
    from maskcli.masks.layout import Layout
    from maskcli.masks.spec import build, parse
    from maskcli.report.tables import print_shown
    from maskcli.report.terminal import console
    from maskcli.text import batch_from_lengths

    stream = io.StringIO()
    screen = console(stream)
    screen.width = columns
    shown = Shown(
        "causal",
        build(parse("causal"), Layout(1, length, length)),
        "q",
        batch_from_lengths([length]),
        None,
        0,
        to,
        "bool",
    )
    print_shown(shown, screen)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    body = text[text.index("queries down") :].splitlines()
    if "each character" not in text:
        attend, ignore = shown.values() if to == "additive" else ("■", "·")
        rows = [line.split() for line in body[3 : 3 + length]]
        assert [row[2:] for row in rows] == [
            [attend] * (q + 1) + [ignore] * (length - 1 - q) for q in range(length)
        ]


def test_blanks_at_line_ends_are_trimmed_in_linear_time():
    """Of blanks inside a line, as many as a long word makes, each is looked at once."""
    import io
    import time

    from maskcli.report.terminal import _Trimmed

    stream = io.StringIO()
    _Trimmed(stream).write("a  b \n\n   \n c   ")
    assert stream.getvalue() == "a  b\n\n\n c"

    def seconds(blanks):
        text = f"a{' ' * blanks}b"
        taken = []
        for _ in range(5):
            start = time.process_time_ns()
            _Trimmed(io.StringIO()).write(text)
            taken.append(time.process_time_ns() - start)
        return min(taken)

    # 32 times the blanks: about 32 times the time if it is linear, 1,024 times if each blank looks at all that follow.
    assert seconds(2**15) < 200 * max(seconds(2**10), 20_000)


def test_text_reaches_the_terminal_clean():
    nasty = "\x1b[31mred [bold] :smile: [/INST] \u202eevil \x9b"
    out = run("show", nasty).stdout
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\x9b" not in out
    assert "smile" in out
    assert "INST" in out


def test_wide_characters_keep_columns_straight():
    lines = [
        line
        for line in run("show", "猫 が 好き hello", "-m", "full").stdout.splitlines()
        if line[:1].isdigit()
    ]
    from rich.cells import cell_len

    columns = {
        tuple(cell_len(line[:at]) for at, character in enumerate(line) if character == "■") for line in lines
    }
    assert len(columns) == 1


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("to", "spec", "shape", "attend", "ignore"),
    [
        ("sdpa", "combined", (2, 1, 5, 5), True, False),
        ("sdpa", "padding", (2, 1, 1, 5), True, False),
        ("sdpa", "causal", (5, 5), True, False),
        ("mha", "padding", (2, 5), False, True),
        ("mha", "causal", (5, 5), False, True),
        ("mha", "combined", (2, 5, 5), False, True),
        ("megatron", "combined", (2, 1, 5, 5), False, True),
        ("hf", "padding", (2, 5), 1, 0),
        ("additive", "combined", (2, 1, 5, 5), 0.0, -np.inf),
        ("binary", "combined", (2, 1, 5, 5), 1.0, 0.0),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".npz", ".pt"])
def test_saved_masks_are_what_the_library_wants(tmp_path, to, spec, shape, attend, ignore, suffix):
    path = tmp_path / f"mask{suffix}"
    done = run("show", *BOOK, "-m", spec, "--to", to, "-o", path, check=0)
    assert done.stdout == ""
    if suffix == ".safetensors":
        saved = load_file(path)["mask"].numpy()
    elif suffix == ".pt":
        saved = torch.load(path, weights_only=True)["mask"].numpy()
    else:
        saved = np.load(path) if suffix == ".npy" else np.load(path)["mask"]
    keep = dense(read("show", *BOOK, "-m", spec)["mask"])
    wide = saved[:, None, None] if (to, spec) in (("hf", "padding"), ("mha", "padding")) else saved
    wide = wide[:, None] if wide.ndim == 3 else wide
    assert saved.shape == shape
    assert np.array_equal(np.broadcast_to(wide, keep.shape), np.where(keep, attend, ignore))


def test_dtypes_of_saved_masks(tmp_path):
    run("show", *BOOK, "--to", "additive", "--dtype", "bfloat16", "-o", tmp_path / "m.safetensors", check=0)
    assert load_file(tmp_path / "m.safetensors")["mask"].dtype == torch.bfloat16
    assert "float32, float16 or bfloat16" in refused(
        "show", *BOOK, "--to", "additive", "--dtype", "int8", "-o", tmp_path / "n.npy"
    )
    assert "one row of keys for each sample" in refused("show", *BOOK, "--to", "hf")
    assert not (tmp_path / "n.npy").exists()


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_pictures(tmp_path, suffix):
    path = tmp_path / f"mask{suffix}"
    run("show", "The cat $at$ 猫", "Hello", "-o", path, check=0)
    head = path.read_bytes()[:200]
    assert head.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    if suffix == ".svg":
        run("show", "--lengths", "100000", "-m", "causal & sliding:9000", "-o", path, check=0)
        assert path.stat().st_size < 2_000_000


def test_user_mask_mods_and_saved_masks_are_operands(tmp_path):
    (tmp_path / "mods.py").write_text(
        "import numpy as np\n"
        "def even(b, h, q, k):\n    return (q >= k) & ((q - k) % 2 == 0)\n"
        "def broken(b, h, q, k):\n    return undefined + q\n"
        "def numbers(b, h, q, k):\n    return q - k\n"
        "def shape(b, h, q, k):\n    return np.ones((3, 7), bool)\n"
    )
    (tmp_path / "torch_mods.py").write_text(
        "import torch\nowner = torch.tensor([0, 0, 1, 1, 1])\ndef documents(b, h, q, k):\n    return (owner[q] == owner[k]) & (q >= k)\n"
    )
    got = dense(read("show", "--lengths", "6", "-m", f"{tmp_path}/mods.py:even & ~sliding:2")["mask"])[0, 0]
    q, k = np.indices((6, 6))
    assert np.array_equal(got, (q >= k) & ((q - k) % 2 == 0) & ~((q - k < 2) & (q >= k)))
    got = dense(read("show", "--lengths", "5", "-m", f"{tmp_path}/torch_mods.py:documents")["mask"])
    assert np.array_equal(got, dense(read("show", "--lengths", "5", "-m", "causal & documents:2,3")["mask"]))
    assert "NameError" in refused("show", "--lengths", "6", "-m", f"{tmp_path}/mods.py:broken")
    assert "returns int64, expected bool" in refused(
        "show", "--lengths", "6", "-m", f"{tmp_path}/mods.py:numbers"
    )
    assert "does not broadcast to [6, 6]" in refused(
        "show", "--lengths", "6", "-m", f"{tmp_path}/mods.py:shape"
    )
    assert "has no function 'nope'; it has even, broken" in refused(
        "show", "--lengths", "6", "-m", f"{tmp_path}/mods.py:nope"
    )
    assert "more than the limit" in refused("show", "--lengths", "1000000", "-m", f"{tmp_path}/mods.py:even")
    run("show", "--lengths", "5,3", "--to", "additive", "-o", tmp_path / "m.safetensors", check=0)
    again = read("show", "--lengths", "5,3", "-m", f"{tmp_path}/m.safetensors:mask & sliding:3")
    assert (
        again["mask"]["runs"]
        == read("show", "--lengths", "5,3", "-m", "combined & sliding:3")["mask"]["runs"]
    )


def test_a_function_of_the_length_is_an_operand(tmp_path):
    (tmp_path / "course.py").write_text(
        "import torch\n"
        "def create_causal_mask(size, device=None):\n    return torch.triu(torch.ones(size, size), diagonal=1).bool()\n"
        "def added(size):\n    return torch.full((1, 1, size, size), float('-inf')).triu(1)\n"
        "def grid(size):\n    return torch.ones(size, size + 1)\n"
    )
    for options in (["--lengths", "5"], ["--lengths", "3", "--past", "2"]):
        meant = read("show", *options, "-m", "causal & sliding:3")["mask"]
        for name in ("create_causal_mask", "added"):
            shown = read("show", *options, "-m", f"{tmp_path}/course.py:{name} & sliding:3")["mask"]
            assert shown["runs"] == meant["runs"]
    run("diff", f"{tmp_path}/course.py:create_causal_mask", "causal", "--lengths", "5", check=0)
    assert "returns the shape [5, 6] for the length 5, expected [5, 5]" in refused(
        "show", "--lengths", "5", "-m", f"{tmp_path}/course.py:grid"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing was given where one of texts"),
        (["a", "--lengths", "3"], "texts and --lengths were given"),
        (["a", "-m", "window"], "window needs a size: window:4"),
        (["a", "-m", "cross"], "pass it with --source"),
        (["a", "-m", "documents"], "--packed"),
        (["--ids", "1 x", "--pad-id", "0"], "'x'"),
        (["--lengths", "0"], "must all be 1 or more"),
        (["a", "--to", "flash"], "is not a convention"),
        (["a", "-o", "x.gif"], "names no form"),
        (["a", "-t", "no/such-model"], "save_pretrained"),
        (["a", "-m", "dilated:100000000,3", "--lengths", "3"], "texts and --lengths"),
        (["--lengths", "1000000", "-m", "dilated:100000000,3"], "more than the limit"),
        (["--lengths", "3", "--past", "-1"], "--past"),
        (["--file", "/"], "is a directory"),
        (["a", "--pad-id", "7"], "--pad-id means nothing beside texts"),
        (["--ids", "1 2", "--packed"], "--packed means nothing beside --ids"),
        (["--lengths", "3", "--labels"], "--labels means nothing beside --lengths"),
        (["a", "--from", "bogus"], "is not a convention"),
        (["a", "--format", "json", "-o", "x.png"], "does not fit"),
        (["a", "--past", "99999999999999999999"], "--past"),
        (["--lengths", "1000000", "-m", "causal", "-o", "x.npy"], "are free there"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path):
    assert sentence in refused("show", *arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_maskcli_alone_prints_its_help():
    alone = run(check=0)
    assert alone.stdout == run("--help", check=0).stdout
    assert alone.stdout.startswith("Usage: ")
    assert alone.stderr == ""


def test_warnings_go_to_standard_error(tmp_path):
    done = run("show", "one two three four", "--max-length", "2", "--format", "json", check=0)
    assert "lost 2 of its 4 tokens" in done.stderr
    json.loads(done.stdout)


def test_a_closed_pipe_and_an_interrupt():
    import os
    import signal
    import subprocess
    import sys
    import time

    command = [
        sys.executable,
        "-m",
        "maskcli",
        "show",
        "--lengths",
        "300000",
        "-m",
        "causal",
        "--format",
        "json",
    ]
    for arguments in (command, [sys.executable, "-m", "maskcli", "rule", "--all"]):
        running = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        running.stdout.close()
        error = running.stderr.read()
        running.stderr.close()
        assert (running.wait(), error) == (141, b"")
    running = subprocess.Popen(
        [*command[:-2], "--format", "text"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    running.stdout.read(1)
    time.sleep(0.1)
    os.kill(running.pid, signal.SIGINT)
    _, error = running.communicate()
    assert running.returncode in (0, 130)
    assert b"Traceback" not in error


CHAT = (
    "{% for m in messages %}{{ '<u> ' if m.role == 'user' else '<a> ' }}{{ m.content }}"
    "{{ ' <e> ' if m.role == 'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}<a> {% endif %}"
)


@pytest.fixture
def chat_model(tmp_path):
    """A folder with a tokenizer of words and a chat template without generation marks."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<unk>",
        "<u>",
        "<a>",
        "<e>",
        "Hi",
        "there",
        "Walnut",
        "Copper",
        "Violin",
        "Harbor",
        "Meadow",
        "Pepper",
    ]
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<u>", "<a>", "<e>"]})
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


TALK = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi there"}]'


def test_labels_of_a_chat_are_its_answers_and_their_ends(chat_model):
    shown = read("show", "--chat", TALK, "-t", chat_model, "--labels")
    tokens = shown["sequences"][0]["tokens"]
    assert [t["token"] for t in tokens] == ["<u>", "Hi", "<a>", "Hi", "there", "<e>"]
    assert [t["label"] for t in tokens] == [-100, -100, -100, 4, 5, 3]


def test_a_template_and_tools_from_files(chat_model, tmp_path):
    template, tools = tmp_path / "t.jinja", tmp_path / "tools.json"
    template.write_text("{% for t in tools %}{{ t.name }} {% endfor %}" + CHAT)
    tools.write_text('[{"name": "Walnut"}]')
    shown = read(
        *("show", "--chat", TALK, "-t", chat_model, "--template", str(template), "--tools", str(tools)),
        "--generation-prompt",
    )
    assert [
        t["token"] for t in shown["sequences"][0]["tokens"]
    ] == "Walnut <u> Hi <a> Hi there <e> <a>".split()


@pytest.mark.parametrize("options", [("--tools", "x"), ("--template", "x"), ("--generation-prompt",)])
def test_options_of_chats_without_a_chat(options):
    done = run("show", "Hi", *options)
    assert done.returncode == 2
    assert f"{options[0]} means nothing without --chat" in done.stderr


def rows_of(text):
    return [line.split()[2:] for line in text.splitlines() if line[:1].isdigit()]


def test_each_forbidden_cell_shows_its_reason_and_the_legend_those_that_occur():
    out = run("show", "a b c d", "e f", "-m", "causal & padding & sliding:2").stdout
    assert rows_of(out[out.index("of sample 0") : out.index("of sample 1")]) == [
        list("■···"), list("■■··"), list("~■■·"), list("~~■■")
    ]  # fmt: skip
    assert rows_of(out[out.index("of sample 1") :]) == [
        list("■·--"),
        list("■■--"),
        list("~■--"),
        list("~~--"),
    ]
    assert "\n■ attends  - padding  · future  ~ outside the window\n" in out
    alone = run("show", "a b c", "-m", "causal").stdout
    assert "■ attend, · ignore; True = attend" in alone


def test_reasons_have_colours_and_long_maps_their_characters():
    painted = run("show", "a b c", "-m", "causal & sliding:2", FORCE_COLOR="1", COLORTERM="truecolor").stdout
    assert "\x1b[38;2;157;106;214m~" in painted
    assert "\x1b[38;2;59;125;216m■" in painted
    long = run("show", "--lengths", "3000", "-m", "causal & sliding:500", COLUMNS="60").stdout
    lines = [line for line in long.splitlines() if line[:5].strip().isdigit()]
    assert lines[0].endswith("·")
    assert set(lines[-1].split()[1]) <= set("~░▒▓█▝▙")
    assert max(map(len, long.splitlines())) <= 60


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("The cat sat on the mat", "-m", "causal & sliding:2", "--why", "4,2"),
            "query 4 (the) may not see key 2 (sat): outside sliding:2 (4 - 2 >= 2)",
        ),
        (
            ("The cat sat", "Hi", "-m", "combined", "--why", "2,1", "--sample", "1"),
            "query 2 (<pad>) may not see key 1 (<pad>): key 1 is padding",
        ),
        (("The cat", "-m", "causal", "--why", "1,0"), "query 1 (cat) may see key 0 (The): causal allows it"),
        (
            ("The cat", "--past", "4", "-m", "causal", "--why", "0,5"),
            "query 0 (The) may not see key 5 (cat): key 5 stands after query 0 (positions 5 and 4)",
        ),
        (
            ("The cat", "--source", "Le chat noir", "-m", "cross", "--why", "0,2"),
            "query 0 (The) may see key 2 (noir): cross allows it",
        ),
        (
            ("The cat", "My dog", "--packed", "-m", "causal & documents", "--why", "3,1"),
            "query 3 (dog) may not see key 1 (cat): query 3 is in document 1, key 1 in document 0",
        ),
        (
            ("--lengths", "1000000", "-m", "causal & sliding:4096", "--why", "900000,3"),
            "query 900000 may not see key 3: outside sliding:4096 (900000 - 3 >= 4096)",
        ),
    ],
)
def test_why_a_cell_is_forbidden(arguments, sentence):
    assert run("show", *arguments).stdout == sentence + "\n"


def test_why_for_scripts():
    told = read("show", "The cat sat", "Hi", "-m", "combined", "--why", "2,1", "--sample", "1")
    assert told == {
        "schema_version": 1, "spec": "combined", "sample": 1, "head": 0, "query": 2, "key": 1,
        "query_token": "<pad>", "key_token": "<pad>", "attends": False, "kind": "padding", "operand": "padding",
        "why": "key 1 is padding",
    }  # fmt: skip
    assert read("show", "The cat", "-m", "causal", "--why", "1,0")["kind"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--why", "4"), "--why '4' is no cell; write a query and a key, such as --why 4,2"),
        (("--why", "0,9"), "key 9 is not in this mask: there are 0 to 1; pass one of these"),
        (
            ("--why", "0,1", "--sample", "2"),
            "--sample 2 is not in this mask: there is only 0; pass one of these",
        ),
        (("--head", "0"), "--head means nothing without --why QUERY,KEY; pass that too, or leave it out"),
        (("--why", "0,1", "--format", "csv"), "--format csv is not written here; choose one of text, json"),
    ],
)
def test_what_is_no_cell_is_one_sentence(arguments, sentence):
    done = run("show", "The cat", "-m", "causal", *arguments, check=2)
    assert done.stderr == f"maskcli: {sentence}.\n"


def test_a_file_without_a_function_is_told_which_it_has(tmp_path):
    (tmp_path / "m.py").write_text("def one(n):\n    pass\n\n\ndef two(n):\n    pass\n\n\nassert False\n")
    told = refused("show", "a", "-m", "m.py", cwd=tmp_path)
    assert told == "maskcli: 'm.py' names no function; write m.py:one or m.py:two."
    assert refused("show", "a", "-m", "n.py", cwd=tmp_path).endswith("write FILE.py:NAME.")
