"""What mouse and keys do on pages: wheel, drag, go to, save, blink; pages of two files and of what was found."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import maskcli
from maskcli.report.page.probed import save_probed
from tests.browser.opened import Page
from tests.cli.running import run
from tests.probing.test_judged import Attention, Decoder
from tests.report.test_found_pages import audited, trace_of, traced

UNDER = "const box = ui.canvas.getBoundingClientRect(); return cellAt({ clientX: box.left + 160, clientY: box.top + 150 });"
VIEW = "return state.view"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("using")


@pytest.fixture(scope="module")
def wide(folder):
    """A mask of 200 tokens."""
    run("show", "--lengths", 200, "-m", "causal", "-o", folder / "wide.html", check=0)
    return folder / "wide.html"


@pytest.fixture(scope="module")
def two(folder):
    """Two files of one layer; in the second two queries see other keys, one of them a later one."""
    weights = np.tril(np.random.default_rng(0).random((1, 1, 6, 6), np.float32))
    weights /= weights.sum(-1, keepdims=True)
    other = weights.copy()
    other[0, 0, 5] = [0.1, 0.1, 0.1, 0.1, 0.1, 0.5]
    other[0, 0, 1] = [0.2, 0.2, 0.6, 0, 0, 0]
    for name, each in (("a", weights), ("b", other)):
        save_file({"attentions.0": each}, folder / f"{name}.safetensors")
    return folder / "a.safetensors", folder / "b.safetensors"


def wheel(page, across, down, turn):
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    width, height = page.canvas.size["width"], page.canvas.size["height"]
    origin = ScrollOrigin.from_element(page.canvas, across - width // 2, down - height // 2)
    page.acting().scroll_from_origin(origin, 0, turn).perform()


def test_the_wheel_zooms_to_the_pointer_and_dragging_moves(browser, wide):
    page = Page(browser, wide)
    page.until("return ui.text.textContent && state.view")
    before, under = page(VIEW), page(UNDER)
    wheel(page, 160, 150, -1200)
    page.until(f"return state.view.cell > {before['cell']} * 3")
    assert page(UNDER) == pytest.approx(under, abs=1)

    start = page(VIEW)
    canvas = page.canvas
    page.acting().move_to_element(canvas).click_and_hold().move_by_offset(-60, -40).release().perform()
    moved = page(VIEW)
    assert moved["k"] - start["k"] == pytest.approx(60 / start["cell"], abs=0.01)
    assert moved["q"] - start["q"] == pytest.approx(40 / start["cell"], abs=0.01)
    page.press("0")
    assert page(VIEW)["cell"] == pytest.approx(before["cell"])


def test_g_goes_to_a_cell(browser, wide):
    page = Page(browser, wide)
    page.press("g")
    asked = browser.switch_to.alert
    asked.send_keys("150, 17")
    asked.accept()
    page.cell("query 150 '150' → key 17")


def test_s_saves_the_map_as_png(browser, wide):
    page = Page(browser, wide)
    page(
        "window.saved = []; URL.createObjectURL = (blob) => { saved.push(blob.type, blob.size); return 'blob:x'; };"
        "HTMLAnchorElement.prototype.click = function () { saved.push(this.download); };"
    )
    page.press("s")
    kind, size, name = page.until("return saved.length === 3 && saved")
    assert (kind, name) == ("image/png", "map.png")
    assert size > 1000


def test_b_blinks_between_both_sides(browser, folder):
    run("diff", "causal", "sliding:3", "--lengths", 9, "-o", folder / "d.html", check=1)
    page = Page(browser, folder / "d.html", "#mode=2")
    page.press("b")
    page.until("return document.querySelector('[aria-pressed=true]').textContent", "3 B")
    page.until("return document.querySelector('[aria-pressed=true]').textContent", "2 A")
    page.press("b")
    assert page("return state.blinking") == 0


def test_a_difference_of_weights(browser, two, folder):
    run("diff", *two, "-o", folder / "w.html", check=1)
    page = Page(browser, folder / "w.html", "#q=5&k=5&mode=4")
    assert ", B 0.5" in page.cell("query 5")
    apart = page(
        "return gridOf(0, 0, 0, 3).then((grid) => [...grid.codes].flatMap((code, at) => (code > 1 ? [at] : [])))"
    )
    assert apart == [6, 7, 8, 30, 31, 32, 33, 34, 35]
    page.press("v")
    page.until("return state.split")
    assert page("return panes().length") == 2


def test_bars_add_up_what_attends_in_every_mode(browser, folder):
    run("show", "The cat sat", "Hello", "-m", "causal & padding", "-o", folder / "bars.html", check=0)
    page = Page(browser, folder / "bars.html")
    for mode in (1, 4):
        columns = page(f"return gridOf(0, 1, 0, {mode}).then((grid) => [...sumsOf(grid).columns])")
        assert columns == [3, 0, 0]
    run("diff", "causal", "sliding:2", "--lengths", 4, "-o", folder / "bars.html", check=1)
    page = Page(browser, folder / "bars.html")
    sums = "return Promise.all([1, 2, 3].map((mode) => gridOf(0, 0, 0, mode).then((grid) => [...sumsOf(grid).rows])))"
    assert page(sums) == [[1, 2, 3, 4], [1, 2, 2, 2], [1, 2, 3, 4]]


def test_files_stand_side_by_side_and_dots_where_something_was_found(browser, two, folder):
    run("diagnose", *two, "--expect", "causal", "-o", folder / "t.html", check=1)
    page = Page(browser, folder / "t.html")
    names = page("return [...document.querySelectorAll('summary')].map((each) => each.textContent)")
    assert names[:2] == [str(path) for path in two]
    dots = (
        "return [...document.querySelectorAll('.layer')].map((each) => each.querySelector('.dot') !== null)"
    )
    assert page(dots) == [False, True]
    assert page("return state.map") == 1
    browser.find_element("css selector", ".layer").click()
    page.until("return location.hash", "#map=0")
    page.press("n")
    page.until("return location.hash", "#map=1")


def test_what_was_found_is_flown_to_in_rows_layers_and_calls(browser, tmp_path):
    page = Page(browser, audited(tmp_path))
    page.press("n")
    page.cell("row 4, token 43")
    assert "counted by the loss, MSK504" in page.cell("'What'")

    torch.manual_seed(0)
    report = maskcli.probe(
        Decoder(Attention(None)), 40, expect=["causal"], length=8, only="masks", pad="none"
    )
    save_probed(report, str(tmp_path / "p.html"))
    page = Page(browser, tmp_path / "p.html")
    page.press("n")
    page.cell("measured lets it be seen, it should be hidden, forbidden: future, causal, MSK601")

    (tmp_path / "t.html").write_text("".join(traced(trace_of(draws=True), None)))
    page = Page(browser, tmp_path / "t.html")
    page.press("n")
    page.cell("MSK20")
    assert browser.get_log("browser") == []
