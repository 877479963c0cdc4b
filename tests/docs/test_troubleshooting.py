"""docs/troubleshooting.md: each message that it explains is one that the code prints."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from phi_runtime.report.verdict import RULES
from tests.docs.pages import ROOT, tokens

PAGE = ROOT / "docs" / "troubleshooting.md"
SOURCES = [*sorted((ROOT / "scaffolder").rglob("*.py")), *sorted((ROOT / "template" / "setup").iterdir())]
SHORTEST = 12  # letters of a message that are not `…`


def messages() -> list[str]:
    """Return the messages of the page: the first cells of its tables that are code."""
    parsed = tokens(PAGE)
    cells = [parsed[i + 2].children or [] for i, token in enumerate(parsed[:-2]) if token.type == "tr_open"]
    return [cell[0].content for cell in cells if cell and cell[0].type == "code_inline"]


@functools.cache
def texts() -> tuple[str, ...]:
    """Return the texts of the sources, with `…` for each value in them."""
    found: list[str] = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        found.extend(_texts(text) if path.suffix == ".py" else text.splitlines())
    return tuple(found)


def _texts(source: str) -> list[str]:
    nodes = list(ast.walk(ast.parse(source)))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            found.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            found.append(node.value)
    return found


def is_printed(message: str) -> bool:
    """Return True if the parts of `message` between `…` are in one text of the sources, in their order."""
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
    return any(pattern.search(text) for text in texts())


@pytest.mark.parametrize("message", messages())
def test_messages_are_those_of_the_code(message: str) -> None:
    assert len(message.replace("…", "")) >= SHORTEST
    assert is_printed(message)


def test_the_page_explains_the_commonest_messages_once() -> None:
    assert len(set(messages())) == len(messages()) >= 40
    assert not is_printed("this text is … in no source file")


def test_the_rules_of_the_verdict_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for light, rule in RULES.items():
        assert f"| {light} | {rule} |" in text
