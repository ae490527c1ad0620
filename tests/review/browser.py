"""A real browser without a screen: Debian's Chromium, driven by Selenium."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
WAIT_SECONDS = 30.0
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


@contextmanager
def open_browser(width: int = 1280, height: int = 900, *, downloads: str | None = None) -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for one in (*FLAGS, f"--window-size={width},{height}"):
        options.add_argument(one)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": downloads})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    resize(browser, width, height)
    try:
        yield browser
    finally:
        browser.quit()


def resize(browser: Any, width: int, height: int, *, is_dark: bool = False) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def wait(ask: Callable[[], T], says: str = "") -> T:
    """What is asked, once it is something; a busy machine may take its time."""
    until = time.monotonic() + WAIT_SECONDS
    while not (found := ask()):
        assert time.monotonic() < until, says or "it did not come"
        time.sleep(0.05)
    return found


def press(browser: Any, *keys: str) -> None:
    """Press keys, one after the other, wherever the focus is."""
    actions = pytest.importorskip("selenium.webdriver").ActionChains(browser)
    for key in keys:
        actions.send_keys(key)
    actions.perform()


def list_texts(browser: Any, selector: str) -> list[str]:
    """The texts of all elements, in the order of the page."""
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
    return list(browser.execute_script(script, selector))


def list_troubles(browser: Any, expected: Sequence[str] = ("favicon.ico", "/pictures/")) -> list[str]:
    """What the browser complained about, apart from images that are not there."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if not any(part in entry["message"] for part in expected)
    ]
