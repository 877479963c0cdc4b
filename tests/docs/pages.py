"""The Markdown files of the repository: their links, headings, code blocks and command lines."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*SITE, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "SECURITY.md", "STYLE.md"))]
OPERATORS = re.compile(r"[;<>|&]+")


@dataclass(frozen=True)
class Code:
    """A code block, or code in a line of text (`language` is None)."""

    page: Path
    line: int
    text: str
    language: str | None = None
    title: str = ""

    @property
    def place(self) -> str:
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page.as_posix()}:{self.line}"


@dataclass(frozen=True)
class CommandLine:
    """The arguments of a `phi-scaffold` command, and where it is quoted."""

    place: str
    arguments: tuple[str, ...]
    in_block: bool


@functools.cache
def tokens(page: Path) -> list[Token]:
    text = page.read_text(encoding="utf-8")
    return MarkdownIt("commonmark").enable("table").parse(text)


def inlines(page: Path) -> Iterator[tuple[int, Token]]:
    """Yield the inline tokens of a page with their lines."""
    for token in tokens(page):
        for child in token.children or []:
            yield (token.map or [0])[0] + 1, child


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and target of each link and image."""
    for line, token in inlines(page):
        if target := token.attrGet("href") or token.attrGet("src"):
            yield line, str(target)


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings that GitHub and the site have in common."""
    names: list[str] = []
    parsed = tokens(page)
    for opening, inline in pairwise(parsed):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or [])
            name = re.sub(r"[^\w\s-]", "", text.strip().lower())
            if re.sub(r"\s", "-", name) == re.sub(r"[\s-]+", "-", name):
                names.append(re.sub(r"\s", "-", name))
    return frozenset(names)


def code(page: Path) -> Iterator[Code]:
    """Yield the code of a page, blocks and inline."""
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            language, _, rest = token.info.strip().partition(" ")
            title = re.search(r'title="([^"]*)"', rest)
            yield Code(page, (token.map or [0])[0] + 1, token.content, language, title[1] if title else "")
    for line, token in inlines(page):
        if token.type == "code_inline":
            yield Code(page, line, token.content)


def words(line: str) -> list[str]:
    """Return the words of a shell line up to a comment; operators are words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";<>|&")
    lexer.whitespace_split = True
    return list(lexer)


def command_lines(page: Path) -> Iterator[CommandLine]:
    """Yield the command lines of phi-scaffold on a page, without pipes, redirections and `…`."""
    for block in code(page):
        if block.language not in (None, "", "console", "sh", "bash", "text"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            if arguments := _arguments(line.removeprefix("$ ")):
                yield CommandLine(block.place, arguments, block.language is not None)


def _arguments(line: str) -> tuple[str, ...]:
    if not re.match(r"\s*(?:[A-Z_]+=\S+ )*(?:uvx |pipx run )?[\w./\\]*phi-scaffold(?:\.exe)? \S", line):
        return ()
    found = words(line)
    start = next(i for i, word in enumerate(found) if re.fullmatch(r"[\w./\\]*phi-scaffold(\.exe)?", word))
    end = next((i for i, word in enumerate(found) if OPERATORS.fullmatch(word)), len(found))
    return tuple(word for word in found[start + 1 : end] if word != "…")
