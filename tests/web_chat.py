"""The web chat of a project in a real browser, as somebody who sits before it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

SCREENSHOTS = Path(__file__).resolve().parents[1] / "build" / "screenshots"
MUST = "PHI_SCAFFOLD_BROWSER"  # environment variable: a test that finds no browser fails
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,900"
)
AXE = "const done = arguments[0]; axe.run({resultTypes: ['violations']}).then(r => done(r.violations))"
# Each state of the last answer is kept: a test need not be quick to see it grow.
WATCH = """
window.seen = [];
new MutationObserver(() => {
    const all = document.querySelectorAll('[data-testid=bot]');
    if (all.length) window.seen.push(all[all.length - 1].innerText.length);
}).observe(document.body, {childList: true, subtree: true, characterData: true});
"""


class WebChat:
    """The page at `url`."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.one("#chat")
        browser.execute_script(WATCH)

    def one(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def wait(self, until: Callable[[], Any]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 60, 0.1).until(lambda _: until())

    def click(self, selector: str) -> None:
        self.one(selector).click()

    def type(self, text: str) -> None:
        self.one(".ask textarea").send_keys(text)

    def send(self) -> None:
        """Click the button once the question enables it."""
        self.wait(lambda: self.one("#send").is_enabled())
        self.click("#send")

    def choose(self, box: str, name: str) -> None:
        """Takes `name` of the list that opens below `box`."""
        from selenium.common.exceptions import StaleElementReferenceException

        def taken() -> bool:
            try:
                options = self.browser.find_elements("css selector", "[role=option]")
                next(option for option in options if option.text.split()[:1] == [name]).click()
            except StaleElementReferenceException:  # the list was drawn again
                return False
            return True

        self.click(f"{box} input")
        self.wait(taken)
        self.wait(lambda: str(self.one(f"{box} input").get_attribute("value")).split()[:1] == [name])

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        return list(self.browser.execute_script(script, selector))

    def answers(self) -> list[str]:
        """The answers on the page, without the line below each."""
        return [text.rpartition("\n\n")[0] for text in self.texts("[data-testid=bot]")]

    def notes(self) -> list[str]:
        """The line below each answer."""
        return self.texts("[data-testid=bot] small")

    def resize(self, width: int, height: int, scheme: Literal["light", "dark"] = "light") -> None:
        device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.browser.refresh()
        self.one("#chat")

    def sidebar_is_open(self) -> bool:
        return bool(self.browser.find_elements("css selector", ".sidebar.open"))

    def overflow(self) -> int:
        """Pixels that the page is wider than its window."""
        root = "document.documentElement"
        return int(self.browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth"))

    def lengths(self) -> list[int]:
        """The different lengths that the answers had on their way."""
        return sorted(set(self.browser.execute_script("return window.seen")))

    def asked_for(self) -> set[str]:
        """Hosts that the page sent requests to."""
        log = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        sent = [entry["params"]["request"]["url"] for entry in log if entry["method"] == "Network.requestWillBeSent"]
        return {str(urlsplit(url).hostname) for url in sent if url.startswith(("http", "ws"))}

    def keep(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        assert self.browser.save_screenshot(str(SCREENSHOTS / f"{name}.png"))


def violations(browser: Any) -> list[str]:
    """What axe-core calls serious or critical in the page, with the first element of each."""
    browser.execute_script((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    return [
        f"{violation['id']}: {violation['nodes'][0]['html']}"
        for violation in browser.execute_async_script(AXE)
        if violation["impact"] in ("serious", "critical")
    ]


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Chromium without a window, with a profile of its own. Skips the test where it is not installed, unless it must be."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        say = pytest.fail if os.environ.get(MUST) else pytest.skip
        say("chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = Chrome(options=options, service=Service(driver))
    try:
        browser.implicitly_wait(20)
        yield browser
    finally:
        browser.quit()
