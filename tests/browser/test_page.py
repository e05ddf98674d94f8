"""Pages in a real browser: what is seen, what keys do, and that nothing else is asked for."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from maskcli.masks.mask import Mask
from maskcli.report.audited import FORMS
from maskcli.report.colours import PAINTS
from maskcli.report.forms import choose
from maskcli.report.page.data import Drawn, Room, page_data
from maskcli.report.page.html import html
from maskcli.tensors import from_array
from tests.browser.opened import Page
from tests.cli.running import run
from tests.report.test_audited import audits, example, told

HOSTILE = "</script><script>window.bad=1</script><img src=x onerror=window.bad=1>\"'&\u202e\x1b[31m"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def leaking(folder):
    """Two layers of left-padded causal attention; the second ignores the padding."""
    rng = np.random.default_rng(0)
    batch, heads, length, left = 2, 3, 12, 4
    real = np.ones((batch, length), np.int64)
    real[1, :left] = 0
    ids = np.where(real, rng.integers(5, 900, (batch, length)), 0)
    causal = np.tril(np.ones((length, length), bool))
    allowed = causal & (real[:, None, None, :] > 0)
    saved = {"input_ids": ids, "attention_mask": real}
    for layer, mask in enumerate([allowed, np.broadcast_to(causal, allowed.shape)]):
        scores = np.where(mask, rng.normal(size=(batch, heads, length, length)), -1e9)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        saved[f"attentions.{layer}"] = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    save_file(saved, folder / "leaking.safetensors")
    out = folder / "leaking.html"
    run("diagnose", folder / "leaking.safetensors", "--expect", "causal", "--pad-id", 0, "-o", out, check=1)
    return out, saved


@pytest.fixture(scope="module")
def shown(folder):
    run(
        "show",
        "The cat sat on",
        "Hello",
        "-m",
        "causal & padding & sliding:2",
        "-o",
        folder / "s.html",
        check=0,
    )
    return folder / "s.html"


def test_a_page_asks_for_nothing_and_complains_of_nothing(browser, leaking, shown):
    for path in (leaking[0], shown):
        page = Page(browser, path)
        page.press("5", "3", "4", "n", "?")
        assert {url.partition("#")[0] for url in page.asked_for()} == {path.as_uri()}
        assert browser.get_log("browser") == []


def test_keys_and_hover_tell_the_cell(browser, leaking):
    path, saved = leaking
    page = Page(browser, path, "#map=1&sample=1&head=2&q=6&k=3&mode=1")
    weight = saved["attentions.1"][1, 2, 6, 3]
    told = page.cell("query 6")
    assert "key 3 '0'" in told
    assert "forbidden: padding" in told
    assert "MSK202" in told
    assert float(told.split(": ")[1].split(",")[0]) == pytest.approx(weight, rel=0.06)
    page.press("\ue014")
    assert "allowed" in page.cell(f"key 4 '{saved['input_ids'][1, 4]}'")
    page.press("\ue015")
    page.cell("query 7")

    from selenium.webdriver import ActionChains

    canvas = browser.find_element("css selector", ".map canvas")
    ActionChains(browser, duration=0).move_to_element_with_offset(
        canvas, -canvas.size["width"] // 2 + 108, -canvas.size["height"] // 2 + 88
    ).perform()
    page.cell("query 0")


def test_all_by_keyboard(browser, leaking):
    page = Page(browser, leaking[0], "#map=0&sample=0&head=0&mode=1&q=0&k=0")
    page.press("\ue00f", "]", ".")
    page.until("return location.hash", "#map=1&sample=1&head=1")
    page.press("[", ",", "\ue00e", "2")
    page.until("return location.hash", "#map=0&sample=0&head=0&mode=2")
    page.press("x")
    page.until("return location.hash", "head=max")
    page.press("n")
    page.until("return location.hash", "#map=1&sample=1")
    assert "MSK202" in page("return document.querySelector('article[aria-current=true]').textContent")
    page.press("?")
    assert page("return document.querySelector('dialog').open")
    page.press("\ue00c")
    assert not page("return document.querySelector('dialog').open")
    page.press("/", "MSK202")
    assert "MSK202" in page.until("return document.querySelector('.results').textContent", "MSK202")


def test_modes_have_the_colours_of_the_one_table(browser, shown):
    page = Page(browser, shown, "#mode=5&sample=1&q=3&k=3")
    assert {PAINTS[kind].fill for kind in ("attends", "padding")} <= page.colours()
    page = Page(browser, shown, "#mode=5&sample=0&q=3&k=3")
    assert {PAINTS[kind].fill for kind in ("attends", "window", "future")} <= page.colours()
    assert PAINTS["padding"].fill not in page.colours()
    page.press("2")
    page.until("return location.hash", "mode=2")
    assert page.mode == "2 mask"


def test_flagged_cells_are_red_and_others_not(browser, leaking):
    def red(page):
        return [each for each in page.colours() if int(each[1:3], 16) > 150 and int(each[3:5], 16) < 70]

    assert red(Page(browser, leaking[0], "#map=1&sample=1&head=0&mode=1"))
    assert not red(Page(browser, leaking[0], "#map=1&sample=0&head=0&mode=1"))


def test_dark_and_light(browser, shown):
    page = Page(browser, shown)
    background = "return getComputedStyle(document.body).backgroundColor"
    assert page(background) == "rgb(255, 255, 255)"
    page.press("t")
    assert page(background) == "rgb(18, 23, 29)"
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    try:
        assert Page(browser, shown)(background) == "rgb(18, 23, 29)"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_hostile_text_is_text(browser, folder):
    save_file(
        {f"{HOSTILE}.attentions.0": np.eye(4, dtype=np.float32)[None, None]}, folder / "hostile.safetensors"
    )
    run("inspect", folder / "hostile.safetensors", "-o", folder / "h1.html", check=0)
    run("show", HOSTILE, "--max-length", 40, "-o", folder / "h2.html", check=0)
    rows = audits(told(example([1, 2], flagged=(0, 1))), name=HOSTILE, token=lambda _: HOSTILE)
    choose(FORMS, None, "h3.html").write(rows, str(folder / "h3.html"))
    for name in ("h1.html", "h2.html", "h3.html"):
        page = Page(browser, folder / name)
        assert page("return window.bad === undefined && document.images.length === 0")
        assert page("return document.querySelectorAll('script').length") == 2
        assert browser.get_log("browser") == []
        text = page("return document.body.innerText")
        assert not {"\u202e", "\x1b"} & set(text)
    assert "</script>" in Page(browser, folder / "h1.html")(
        "return document.querySelector('.name').textContent"
    )


def test_4096_tokens_are_usable(browser, folder):
    run("show", "--lengths", 4096, "-m", "causal & sliding:512", "-o", folder / "long.html", check=0)
    assert (folder / "long.html").stat().st_size < 400_000
    page = Page(browser, folder / "long.html", "#q=4095&k=10")
    assert "forbidden: outside the window, sliding:512" in page.cell("query 4095")
    page.press("+", "+", "+", "\ue014")
    page.cell("key 11")


def test_long_masks_are_drawn_from_their_runs(browser, folder):
    out = folder / "longer.html"
    run("diff", "causal & sliding:512", "causal & sliding:511", "--lengths", 20_000, "-o", out, check=1)
    page = Page(browser, out, "#q=19999&k=19488&mode=4")
    page.cell("A lets it be seen, B hides it")
    page.until("return document.querySelector('.legend').textContent", "each pixel is several cells")
    grid = page(
        "return gridOf(0, 0, 0, 3).then(({ tall, wide, codes }) => [tall, wide, [...new Set(codes)].sort()])"
    )
    assert grid == [4096, 4096, [0, 1, 3]]
    assert browser.get_log("browser") == []


def test_a_difference_side_by_side(browser, folder):
    run("diff", "causal", "sliding:3", "--lengths", 9, "-o", folder / "d.html", check=1)
    page = Page(browser, folder / "d.html", "#q=8&k=0&mode=4")
    assert "A lets it be seen, B hides it" in page.cell("query 8")
    before = page.colours()
    page.press("v")
    page.until("return document.querySelector('.legend').textContent", "attends")
    assert page.colours() != before
    assert "A lets queries" in page("return document.querySelector('.report').textContent")


def test_a_head_without_room_shows_its_mask_and_says_so(browser, folder):
    causal = Mask.from_dense(np.tril(np.ones((1, 1, 12, 12), bool)))
    weights = from_array("w", np.random.default_rng(0).random((1, 2, 12, 12)))
    drawn = Drawn("", "w", "weights", (1, 2, 12, 12), tensor=weights, mask=causal)
    (folder / "small.html").write_text("".join(html(page_data("", [drawn], Room(300)))))
    page = Page(browser, folder / "small.html", "#head=1&mode=1&q=9&k=3")
    page.until("return document.querySelector('.legend').textContent", "no room on the page; its mask alone")
    assert PAINTS["attends"].fill in page.colours()
    page.cell("weight not on the page, allowed")


def test_it_prints_in_light_colours(browser, leaking):
    page = Page(browser, leaking[0])
    page.press("t")
    page.until("return getComputedStyle(document.body).backgroundColor", "rgb(18, 23, 29)")
    page("""
        window.printed = [];
        addEventListener("beforeprint", () => {
            const [red, green, blue] = ui.canvas.getContext("2d").getImageData(0, 0, 1, 1).data;
            printed.push(getComputedStyle(document.body).backgroundColor, `rgb(${red}, ${green}, ${blue})`);
        });""")
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pdf) > 10_000
    assert page("return printed") == ["rgb(255, 255, 255)"] * 2
    page.until("return document.documentElement.dataset.theme", "dark")


def test_weights_come_first_and_names_are_brief(browser, folder):
    weights = np.full((1, 1, 3, 3), 1 / 3, np.float32)
    saved = {f"model.layers.{layer}.attn.weights": weights for layer in range(2)}
    save_file({"attention_mask": np.ones((1, 3), np.int64), **saved}, folder / "named.safetensors")
    run("inspect", folder / "named.safetensors", "-o", folder / "n.html", check=0)
    page = Page(browser, folder / "n.html")
    names = page("return [...document.querySelectorAll('.name')].map((each) => each.textContent)")
    assert names == ["attention_mask", "layers.0", "layers.1"]
    page.until("return location.hash", "#map=1")
