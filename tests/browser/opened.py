"""A page that is open in the browser."""

import json
import time

SECONDS = 20


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

    @property
    def canvas(self):
        """The map."""
        return self.driver.find_element("css selector", ".map canvas")

    def acting(self):
        """A chain of what a mouse does, without waiting."""
        from selenium.webdriver import ActionChains

        return ActionChains(self.driver, duration=0)
