"""STYLE.md, as far as a program can check it: docstrings and names. codespell checks the prose, with the same list of words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "scaffolder").rglob("*.py"))
QUESTION_WORDS = ("What", "Whether", "Which", "How", "Where", "When", "Who", "The same")
OLD_WORDS = {
    line.partition("->")[0] for line in (ROOT / ".codespell-words.txt").read_text(encoding="utf-8").splitlines()
}
PARTICIPLES = {"given", "said"}  # as the whole name of a variable, they name nothing


def definitions(tree: ast.Module) -> Iterator[ast.AST]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return (node for node in ast.walk(tree) if isinstance(node, kinds))


def names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def words(name: str) -> set[str]:
    """Return the lower-case words of a snake_case or CamelCase name."""
    return {word.lower() for part in name.split("_") for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part)}


def faults(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    place = path.relative_to(ROOT).as_posix()
    for node in definitions(tree):
        text = (ast.get_docstring(node) or "").lstrip()  # type: ignore[arg-type]
        if re.match(rf"({'|'.join(QUESTION_WORDS)})\b", text):
            yield f"{place}:{getattr(node, 'lineno', 1)}: docstring: {text.splitlines()[0]}"
    for name, line in names(tree):
        if name in PARTICIPLES or words(name) & OLD_WORDS:
            yield f"{place}:{line}: name: {name}"


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_docstrings_define_and_names_are_nouns_of_the_domain() -> None:
    assert not (all_faults := [fault for path in SOURCES for fault in faults(path)]), "\n".join(all_faults)
