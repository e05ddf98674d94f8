"""What a page holds: masks and weights are read back as they were, text is no markup, and sizes are kept to."""

import base64
import hashlib
import json
import re
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from maskcli.masks.mask import Mask
from maskcli.report.page.data import Drawn, Room, page_data
from maskcli.report.page.encoded import plane, runs_of_mask
from maskcli.report.page.html import ESCAPED, html
from maskcli.tensors import open_tensors
from tests.cli.running import DATA, run

MOST = 60_000


def page_of(path):
    text = path.read_text()
    return text, json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


def inflated(entry, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(entry["data"])), dtype)


def dense(entry, shape):
    """A mask as the viewer reads it, cell by cell."""
    parts = np.cumsum(inflated(entry, "<i4"))
    rows = int(np.prod(entry["stored"]))
    counts, starts, stops = np.split(parts, [rows, rows + entry["runs"]])
    cells, run_ = np.zeros((rows, shape[3]), bool), 0
    for row, count in enumerate(counts):
        for _ in range(count):
            cells[row, starts[run_] : stops[run_]] = True
            run_ += 1
    return np.broadcast_to(cells.reshape(*entry["stored"], shape[3]), shape)


@given(arrays(bool, st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 7)] * 2)))
def test_masks_are_read_back(cells):
    assert (dense(runs_of_mask(Mask.from_dense(cells)), cells.shape) == cells).all()


@given(arrays(np.float64, (4, 5), elements=st.sampled_from([0.0, 1.0, 0.5, 1e-3, 1e-7, np.nan, np.inf])))
def test_weights_are_read_back_within_a_twentieth(pixels):
    entry = plane(pixels)
    levels = inflated(entry, np.uint8).reshape(4, 5)
    assert ((levels == 255) == ~np.isfinite(pixels)).all()
    assert ((levels == 0) == (pixels == 0)).all()
    ratio = entry["high"] / entry["low"] if entry["low"] else 1.0
    told = entry["low"] * ratio ** ((levels - 1.0) / 253)
    shown = np.isfinite(pixels) & (pixels > 0)
    np.testing.assert_allclose(told[shown], pixels[shown], rtol=0.05)


def test_text_is_no_markup_and_the_policy_names_what_runs():
    name = "</script><b>\u2028\u2029&\u202e"
    text = "".join(html({"title": name, "maps": [{"name": name}]}))
    assert not {"\u2028", "\u2029", "\u202e"} & set(text)
    assert text.count("</script>") == 2
    policy = re.search(r'content="(default-src[^"]+)"', text)[1]
    for kind in ("script", "style"):
        (inside,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not {chr(each) for each in ESCAPED} & set(re.search(r'id="data">(.*?)</script>', text)[1])


def test_script_and_style_stay_small_and_set_text_only():
    text = "".join(html({"title": "", "maps": []}))
    assert len(text.encode()) < MOST
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?:", text)


def test_a_long_causal_mask_takes_little(tmp_path):
    run("show", "--lengths", 4096, "-m", "causal", "-o", tmp_path / "a.html", check=0)
    _, data = page_of(tmp_path / "a.html")
    (only,) = data["maps"]
    assert len(only["mask"]["data"]) < 42 * 1024
    assert (dense(only["mask"], (1, 1, 4096, 4096))[0, 0] == np.tril(np.ones((4096, 4096), bool))).all()


def test_show_tells_tokens_padding_and_reasons(tmp_path):
    run(
        "show",
        "The cat sat",
        "Hello",
        "-m",
        "causal & padding",
        "--past",
        1,
        "-o",
        tmp_path / "a.html",
        check=0,
    )
    _, data = page_of(tmp_path / "a.html")
    (only,) = data["maps"]
    assert only["keys"]["tokens"] == [["past", "The", "cat", "sat"], ["past", "Hello", "<pad>", "<pad>"]]
    assert only["keys"]["real"][1] == [[0, 2, 1], [2, 4, 0]]
    assert only["past"] == 1
    allowed = dense(only["mask"], only["shape"])
    told = [dense(each["forbids"], only["shape"]) for each in only["reasons"]]
    assert {each["kind"] for each in only["reasons"]} == {"padding", "future"}
    assert (sum(each.astype(int) for each in told) == ~allowed).all()


def test_a_real_capture_has_every_head(tmp_path):
    run("inspect", DATA / "minilm_attn.safetensors", "-o", tmp_path / "a.html", check=0)
    _, data = page_of(tmp_path / "a.html")
    weights = [each for each in data["maps"] if each["role"] == "weights"]
    assert weights
    for each in weights:
        batch, heads, queries, keys = each["shape"]
        assert len(each["planes"]) == batch * heads
        assert all((one["view"]["tall"], one["view"]["wide"]) == (queries, keys) for one in each["planes"])


def test_inspected_weights_have_the_tokens_and_the_mask_of_their_file(tmp_path):
    run("inspect", DATA / "minilm_attn.safetensors", "-o", tmp_path / "a.html", check=0)
    _, data = page_of(tmp_path / "a.html")
    weights = next(each for each in data["maps"] if each["role"] == "weights")
    assert weights["keys"]["tokens"][0][:2] == ["101", "1996"]
    assert weights["queries"]["tokens"] == weights["keys"]["tokens"]
    real = load_file(DATA / "minilm_attn.safetensors")["attention_mask"] > 0
    assert (dense(weights["mask"], weights["shape"])[:, 0, 0] == real).all()
    assert (
        "of a picture or a page"
        in run("inspect", DATA / "minilm_attn.safetensors", "--tokenizer", "x", check=2).stderr
    )


@pytest.fixture
def large(tmp_path):
    rng = np.random.default_rng(0)
    save_file({"attentions.0": rng.random((1, 6, 600, 600), np.float32)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_what_has_no_room_is_said(large, tmp_path):
    done = run("inspect", large, "-o", tmp_path / "a.html", "--max-size", 1, check=0)
    text, data = page_of(tmp_path / "a.html")
    assert len(text) < 1_000_000 + MOST
    (only,) = data["maps"]
    missing = 6 - len(only["planes"])
    assert 0 < missing < 6
    assert data["left_out"][0] == f"{missing} heads"
    assert f"not on the page: {', '.join(data['left_out'])};" in done.stderr


def test_one_tensor_that_is_named_has_every_cell(large, tmp_path):
    run("inspect", f"{large}:attentions.0", "-o", tmp_path / "a.html", check=0)
    _, data = page_of(tmp_path / "a.html")
    for one in data["maps"][0]["planes"]:
        assert (one["view"]["tall"], one["whole"]["tall"]) == (512, 600)


@pytest.fixture
def two(tmp_path):
    """Two files of weights, larger than an overview."""
    rng = np.random.default_rng(0)
    for name in "ab":
        save_file({"attentions.0": rng.random((1, 2, 520, 40), np.float32)}, tmp_path / f"{name}.safetensors")
    return tmp_path / "a.safetensors", tmp_path / "b.safetensors"


def test_a_difference_of_weights_has_every_cell_of_both(two, tmp_path):
    run("diff", *two, "-o", tmp_path / "d.html", check=1)
    _, data = page_of(tmp_path / "d.html")
    (only,) = data["maps"]
    for one in (*only["planes"], *only["other"]):
        assert (one["view"]["tall"], one["whole"]["tall"]) == (512, 520)


def test_equal_weights_of_two_files_have_one_level(tmp_path):
    a = np.random.default_rng(0).random((1, 1, 9, 9), np.float32)
    b = a.copy()
    b[..., 0] = 1e-6
    for name, each in (("a", a), ("b", b)):
        save_file({"attentions.0": each}, tmp_path / f"{name}.safetensors")
    run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-o", tmp_path / "d.html", check=1)
    (only,) = page_of(tmp_path / "d.html")[1]["maps"]
    first, second = (inflated(only[name][0]["view"], np.uint8).reshape(9, 9) for name in ("planes", "other"))
    assert ((first == second) == (a == b)[0, 0]).all()


def test_both_sides_of_a_difference_have_room_or_neither(two):
    a, b = (open_tensors(str(path)).tensors[0] for path in two)
    drawn = Drawn("", "a", "weights", (1, 2, 520, 40), tensor=a, other=b, asked=None)
    whole = Room(10**9)
    page_data("", [drawn], whole)
    one_side = 520 * 40 * 4 // 3
    room = Room(10**9 - whole.bytes - one_side)
    (only,) = page_data("", [drawn], room)["maps"]
    for planes in (only["planes"], only["other"]):
        assert [bool(one["whole"]) for one in planes] == [True, False]
    assert room.sentences == ["1 head in full resolution"]


def test_cards_have_sentences(tmp_path):
    weights = np.full((1, 1, 6, 6), 1 / 6, np.float32)
    save_file({"attentions.0": weights}, tmp_path / "a.safetensors")
    run("diagnose", tmp_path / "a.safetensors", "--expect", "causal", "-o", tmp_path / "a.html", check=1)
    _, data = page_of(tmp_path / "a.html")
    told = [finding[name] for finding in data["findings"] for name in ("message", "fix", "why")]
    assert told
    assert all(text[0].isupper() or not text.split()[0].isalpha() for text in told)


def test_a_size_without_a_page_is_refused(tmp_path):
    done = run("show", "Hello", "--max-size", 5, check=2)
    assert "no page is written" in done.stderr
    assert run("diagnose", DATA / "minilm_attn.safetensors", "--max-size", 5, check=2).stdout == ""
