"""Pages in a real browser: what is seen, what keys do, and that nothing else is asked for."""

import json
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.running import run

SECONDS = 20
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


class Page:
    """A page that is open: what it shows, and how it is used."""

    def __init__(self, driver, path, hash_=""):
        self.driver = driver
        driver.get("about:blank")
        driver.get_log("performance")
        driver.get_log("browser")
        driver.get(f"{path.as_uri()}{hash_}")
        self.until("return document.body.dataset.painted")

    def __call__(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, script, wanted=None):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            got = self(script)
            if got and (wanted is None or wanted in got):
                return got
            time.sleep(0.01)
        raise AssertionError(f"{script} gave {got!r}, and not {wanted!r}")

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def cell(self, wanted):
        return self.until("return document.querySelector('.cell').textContent", wanted)

    @property
    def mode(self):
        return self("return document.querySelector('[aria-pressed=true]').textContent")

    def colours(self):
        """The colours of the canvas, those of at least a thousandth of it."""
        script = """
            const canvas = document.querySelector(".map canvas"), seen = new Map();
            const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
            for (const pixel of pixels) seen.set(pixel, (seen.get(pixel) || 0) + 1);
            return [...seen].filter(([, count]) => count > pixels.length / 1000).map(([pixel]) =>
                "#" + [0, 8, 16].map((at) => ((pixel >> at) & 255).toString(16).padStart(2, "0")).join(""));"""
        return set(self(script))

    def asked_for(self):
        """Addresses that were asked for."""
        logged = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        asked = (each["params"] for each in logged if each["method"] == "Network.requestWillBeSent")
        return [each["request"]["url"] for each in asked if not each["request"]["url"].startswith("about:")]


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
    from maskcli.report.colours import PAINTS

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
    for name in ("h1.html", "h2.html"):
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


def test_a_difference_side_by_side(browser, folder):
    run("diff", "causal", "sliding:3", "--lengths", 9, "-o", folder / "d.html", check=1)
    page = Page(browser, folder / "d.html", "#q=8&k=0&mode=4")
    assert "A lets it be seen, B hides it" in page.cell("query 8")
    before = page.colours()
    page.press("v")
    page.until("return document.querySelector('.legend').textContent", "attends")
    assert page.colours() != before
    assert "A lets queries" in page("return document.querySelector('.report').textContent")


def test_it_prints(browser, leaking):
    Page(browser, leaking[0])
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(printed) > 10_000
