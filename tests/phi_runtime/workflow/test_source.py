"""JSON with places."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.errors import ConfigError
from phi_runtime.workflow.source import read_source


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_comments_and_trailing_commas_are_taken(tmp_path: Path) -> None:
    source = read_source(write(tmp_path, '{ // one\n "a": [1, 2,], /* two\n lines */ "b": {"c": "// text",},\n}'))
    assert source.value == {"a": [1, 2], "b": {"c": "// text"}}


def test_each_key_knows_its_line_and_column(tmp_path: Path) -> None:
    source = read_source(write(tmp_path, '{\n  "a": [1,\n    {"b": 2}],\n  "c": 3\n}'))
    places = {
        p: (source.locate(p).line, source.locate(p).column)
        for p in [("a",), ("a", 1), ("a", 1, "b"), ("c",), ("c", "no")]
    }
    assert places == {("a",): (2, 3), ("a", 1): (3, 5), ("a", 1, "b"): (3, 6), ("c",): (4, 3), ("c", "no"): (4, 3)}


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ('{\n  "a": 1\n  "b": 2\n}', ":3:3", "`,` or `}`"),
        ('{"a": 1, "a": 2}', ":1:10", "second time"),
        ('{"a": [1, 2}', ":1:12", "`,` or `]`"),
        ('{"a": tru}', ":1:7", "not a JSON value"),
        ('{"a": "x\n"}', ":1:7", "does not end"),
        ('{"a": "\\x"}', ":1:7", "escape"),
        ('{"a"', ":1:5", "`:`"),
        ('{"a": 1', ":1:1", "never closed"),
        ("", ":1:1", "ends in the middle"),
        ("{} {}", ":1:4", "follows the end"),
        ("[" * 200, ":1:", "levels deep"),
    ],
)
def test_a_syntax_error_is_shown_where_it_stands(tmp_path: Path, text: str, place: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_source(write(tmp_path, text))
    assert place in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.exit_code == 3


def random_value(chooser: random.Random, depth: int = 0) -> Any:
    kind = chooser.choice(["atom", "text", "list", "dict"] if depth < 4 else ["atom", "text"])
    if kind == "atom":
        return chooser.choice([None, True, False, 0, -3, 1.5, 2e-7, 10**20])
    if kind == "text":
        return "".join(chooser.choice('ab"\\/{}[],:é\n\t\u2028😀') for _ in range(chooser.randint(0, 8)))
    if kind == "list":
        return [random_value(chooser, depth + 1) for _ in range(chooser.randint(0, 4))]
    return {f"k{i}": random_value(chooser, depth + 1) for i in range(chooser.randint(0, 4))}


def test_it_reads_whatever_json_itself_writes(tmp_path: Path) -> None:
    chooser = random.Random(0)
    for _ in range(300):
        value = random_value(chooser)
        text = json.dumps(value, indent=chooser.choice([None, 2]), ensure_ascii=chooser.random() < 0.5)
        assert read_source(write(tmp_path, text)).value == value
