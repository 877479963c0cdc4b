"""Links, anchors, images and the navigation of the site."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import PAGES, ROOT, SITE, anchors, links


def broken(page: Path) -> Iterator[str]:
    for line, target in links(page):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        place = f"{page.relative_to(ROOT).as_posix()}:{line}: {target}"
        if not path.exists() or not path.is_relative_to(ROOT):
            yield f"{place}: no such file"
        elif parts.fragment and parts.fragment not in anchors(path):
            yield f"{place}: no such heading"
        elif page in SITE and not path.is_relative_to(ROOT / "docs"):
            yield f"{place}: not part of the site"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert not (faults := list(broken(page))), "\n".join(faults)


def test_links_without_a_file_or_heading_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](page.md#one-two) [b](#one) [c](gone.md) ![d](gone.png) [e](https://x.example/y)\n")
    monkeypatch.setattr("tests.docs.test_links.ROOT", tmp_path)
    assert [fault.split(": ")[1] for fault in broken(page)] == ["#one", "gone.md", "gone.png"]


def entries(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for inner in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from entries(inner)


def test_the_navigation_has_each_page_once() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(entries(project["nav"])) == [page.relative_to(ROOT / "docs").as_posix() for page in SITE]
    assert project["theme"]["font"] is False  # fonts come from another server otherwise
