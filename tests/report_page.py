"""A report in a real browser: on a screen, on a phone, dark and printed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tests.web_chat import SCREENSHOTS, chromium, violations

Media = Literal["screen", "dark", "print"]
SCREEN, PHONE = (1280, 720), (360, 740)


class ReportPage:
    """The report in the file `path`."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser, self.url = browser, path.as_uri()
        browser.get("about:blank")
        self.requests()  # those of the first tab
        self.show()

    def show(self, size: tuple[int, int] = SCREEN, media: Media = "screen") -> None:
        """Load the page in a window of this size in pixels."""
        width, height = size
        device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if media == "dark" else "light"}
        medium = {"media": "print" if media == "print" else "screen", "features": [scheme]}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", medium)
        self.browser.get(self.url)

    def messages(self) -> list[str]:
        """Messages of the console since the last call: errors, violations of the content security policy."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def requests(self) -> set[str]:
        """Addresses that were requested since the last call."""
        log = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        return {entry["params"]["request"]["url"] for entry in log if entry["method"] == "Network.requestWillBeSent"}

    def overflow(self) -> int:
        """Pixels that the page is wider than its window."""
        root = "document.documentElement"
        return int(self.browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth"))

    def open_all(self) -> None:
        self.browser.execute_script("document.querySelectorAll('details').forEach(e => { e.open = true })")

    def bottom(self, selector: str) -> float:
        """Pixels from the top of the page to the lower edge of an element."""
        script = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom + scrollY"
        return float(self.browser.execute_script(script, selector))

    def visible(self, selector: str) -> int:
        script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.getClientRects().length).length"
        return int(self.browser.execute_script(script, selector))

    def background(self) -> list[int]:
        """Red, green and blue of the page."""
        color = self.browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return [int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")]

    def violations(self) -> list[str]:
        """What axe-core calls serious or critical, with the first element of each."""
        return violations(self.browser)

    def keep(self, name: str) -> None:
        """Save a screenshot of the whole page."""
        size = self.browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
        shot = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def report_page(html: str, folder: Path) -> Iterator[ReportPage]:
    """Open the report in Chromium. Skips the test where it is not installed, unless it must be."""
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    with chromium(folder / "profile") as browser:
        yield ReportPage(browser, path)
