"""Conversations in forms that have to be converted are refused with the form to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import DataError
from phi_runtime.data.columns import find_columns


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("User: Hi\nAssistant: Ho\n\nUser: Bye\nAssistant: Ciao\n", "transcript"),
        ("### Human: Hi\nand more\n### Assistant: Ho\n", "transcript"),
        ("Q: 1?\nA: one\n", "transcript"),
        ("12/03/24, 10:15 - Ana: Hi\n12/03/24, 10:16 - Ben: Ho\nand more\n", "messenger"),
        ("[12.03.24, 10:15:02] Ana: Hi\n[12.03.24, 10:16:11] Ben: Ho\n", "messenger"),
        ("3/12/24, 10:15\u202fPM - Ana: Hi\n3/12/24, 10:16\u202fPM - Ben: Ho\n", "messenger"),
    ],
)
def test_a_transcript_is_refused_and_free_text_on_request(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "chat.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        find_columns(path)
    assert '{"messages": [{"role": "user"' in caught.value.fix
    assert find_columns(path, ["text"]).kind == "text"


def test_prose_with_a_colon_or_a_time_is_free_text(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_text(
        "He said: go.\nOn 12/03/24, 10:15 it began.\nAnswer: none.\nUser: see below.\nMore.\nMore.\nMore.\n" * 2
    )
    assert find_columns(path).kind == "text"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"message_id": "1", "parent_id": None, "message_tree_id": "1", "role": "prompter", "text": "Hi"},
            "OpenAssistant",
        ),
        ({"message_tree_id": "1", "prompt": {"text": "Hi", "replies": []}}, "OpenAssistant"),
        ({"title": "x", "mapping": {"a": {"message": None}}}, "without the `current_node`"),
    ],
)
def test_a_tree_of_messages_is_refused(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        find_columns(path)
    assert "messages" in caught.value.fix
