"""One browser for all tests; they skip where there is none."""

import os
import shutil
import tempfile

import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1280,800",
]  # fmt: skip
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def started(profile):
    """A browser, which keeps what it keeps in this folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(DRIVER, log_output=os.devnull)
    return webdriver.Chrome(options=options, service=service)


@pytest.fixture(scope="session")
def browser():
    """The browser."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    pytest.importorskip("selenium.webdriver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = started(profile)
        yield driver
        driver.quit()
