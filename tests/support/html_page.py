"""Reading an HTML page: its tags and words without a browser, its layout and requests with one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Page", "look", "open_browser", "visible_text"]


class Page(HTMLParser):
    """Reads a page: its tags with attributes, its visible text by section, and whether every tag is closed in order."""

    VOID = frozenset({"meta", "link", "br", "wbr", "img", "hr", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag in ("th", "td", "code", "small"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(attribute)) is not None]


def visible_text(html: str) -> str:
    return " ".join(Page(html).text.split())


CHROMIUM = Path("/usr/bin/chromium")
OVERLAPS = """() => [...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width).flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 3
  ).map(([b, q]) => a + ' | ' + b));
})"""
OUTSIDE = """() => [...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width).flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1 || box.top < frame.top - 1;
  }).map(text => text.textContent);
})"""


@contextmanager
def open_browser() -> Iterator[Any]:
    """A headless Chromium; skips the test where there is none, and fails it where CI is set."""
    if not CHROMIUM.exists():
        missing = f"{CHROMIUM} is not there. Run `apt-get install --no-install-recommends chromium`."
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, so services may not be skipped: {missing}", pytrace=False)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=options)
        yield chromium
        chromium.close()


def look(browser: Any, file: Path, width: int, *, heading: str) -> None:
    """Open a page at a width in pixels: no error, no request, nothing too wide, no text on another or cut off."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    console: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.screenshot(full_page=True)
    assert console == []
    assert requests == [file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    overlapping, outside = page.evaluate(OVERLAPS), page.evaluate(OUTSIDE)
    assert overlapping == [], overlapping
    assert outside == [], outside
    assert page.locator("h1").inner_text().startswith(heading)
    page.close()
