"""How large pages are, how long they take to write, and when a browser shows them: headless Chromium, a page at a time."""

import json
import statistics
import tempfile
import time

import numpy as np
from safetensors.numpy import save_file

from tests.benchmarks.measure import MASKCLI, run
from tests.browser.conftest import started

# Runs before the page's own script: when the map is first drawn.
WATCH = """addEventListener("DOMContentLoaded", () => {
    const note = () => { if (document.body.dataset.painted) window.drawn ??= performance.now(); };
    new MutationObserver(note).observe(document.body, { attributes: true });
    note();
});"""
# How long it takes from a key to the words on the next cell.
NEXT = """const done = arguments[0], start = performance.now(), cell = document.querySelector(".cell");
new MutationObserver((_, watching) => { watching.disconnect(); done(performance.now() - start); }).observe(cell, { childList: true });
ui.canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));"""


def table(folder, runs):
    """Lines of Markdown, as they are measured: medians of `runs` times that a page is opened."""
    yield "| page | size | written in | first paint | map drawn | next cell |\n|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = started(profile)
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        for at, (name, command) in enumerate(jobs(folder)):
            page = folder / f"{at}.html"
            seconds = run([*MASKCLI, *command, "-o", page]).seconds
            shown = [opened(driver, page) for _ in range(runs)]
            first, drawn, following = (statistics.median(times) for times in zip(*shown, strict=True))
            size = page.stat().st_size / 2**20
            yield (
                f"| {name} | {size:,.2f} MiB | {seconds:.1f} s | {first:.0f} ms | {drawn:.0f} ms | {following:.0f} ms |"
            )
        driver.quit()


def opened(driver, page):
    """Milliseconds until something is seen, until the map is, and from a key to the next cell."""
    driver.get("about:blank")
    driver.get(page.as_uri())
    while not driver.execute_script("return window.drawn"):
        time.sleep(0.02)
    first = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    while driver.execute_script(first) is None:
        time.sleep(0.02)
    drawn = driver.execute_script("return window.drawn")
    return driver.execute_script(first), drawn, driver.execute_async_script(NEXT)


def jobs(folder):
    """What pages are of, and the commands that write them."""
    window = ("-m", "causal & sliding:512")
    yield "`show` 4,096 tokens, window 512", ["show", "--lengths", 4096, *window]
    yield "`show` 65,536 tokens, window 512", ["show", "--lengths", 65_536, *window]
    layers = {f"attentions.{layer}": softmax(12, 128, layer) for layer in range(12)}
    yield "`inspect` 12 layers of 12 heads, 128 tokens", ["inspect", saved(folder / "layers", layers)]
    large = {"attentions.0": softmax(4, 4096, 0, leaks=1)}
    leaking = saved(folder / "large", large)
    yield (
        "`diagnose` 4 heads, 4,096 tokens, one sees the future",
        ["diagnose", leaking, "--expect", "causal"],
    )
    pair = [saved(folder / name, {"attentions.0": softmax(2, 2048, seed)}) for seed, name in enumerate("ab")]
    yield "`diff` weights of 2 heads, 2,048 tokens", ["diff", *pair]
    rows = folder / "rows.jsonl"
    ids = [*range(5, 185), *[0] * 20]
    rows.write_text("".join(json.dumps({"input_ids": ids, "labels": ids}) + "\n" for _ in range(2000)))
    yield "`audit` 2,000 rows of 200 tokens, padding labelled", ["audit", rows, "--pad-id", 0]


def softmax(heads, length, seed, leaks=0):
    """Causal weights [1, H, L, L] of random scores; the last `leaks` heads see everything."""
    rng = np.random.default_rng(seed)
    weights = np.exp(2 * rng.standard_normal((1, heads, length, length), np.float32))
    weights[:, : heads - leaks] *= np.tri(length, dtype=np.float32)
    weights /= weights.sum(-1, keepdims=True)
    return weights


def saved(path, tensors):
    """The file of some tensors."""
    path = path.with_suffix(".safetensors")
    save_file(tensors, path)
    return path
