"""Recognize conversations in forms that have to be converted: transcripts in text files, and trees of messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from phi_runtime.config.file_formats import format_of
from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.messages import ROLES, SHAPE
from phi_runtime.data.rows import ReadOptions, read_rows

_SAMPLED = 200  # rows that decide it
_FIX = f'write each conversation as one line of a .jsonl file: {{"messages": {SHAPE}}}'
# A time, and the sender before a colon, as messengers export them: "[01.02.24, 10:15:00] Ana: …", "1/2/24, 10:15 PM - Ana: …".
_MESSENGER = re.compile(r"^\W*\d{1,4}[./-]\d{1,2}[./-]\d{2,4},? \d{1,2}:\d\d[^:]{0,8}(:\d\d)?[^:]{0,8}[\]-]\s*[^:]+:")
_NAMES = {**ROLES, "q": "user", "question": "user", "a": "assistant", "answer": "assistant"}
_SPEAKER = re.compile(rf"^\W*({'|'.join(sorted(_NAMES, key=len, reverse=True))})\b[\W_]*:", re.IGNORECASE)


def refuse_transcript(path: Path, reading: ReadOptions | None) -> None:
    """Raise DataError if a text file is a transcript: trained as free text, its lines are no questions and answers."""
    if (reading.format if reading else format_of(path)) != "text":
        return
    texts = (str(row.values["text"]) for row in islice(read_rows(path, reading), _SAMPLED))
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    speakers = [_NAMES[match[1].casefold()] for match in map(_SPEAKER.match, lines) if match]
    if {"user", "assistant"} <= set(speakers) and len(speakers) >= len(lines) / 3:
        what = "this is a transcript, whose lines are no rows"
    elif sum(1 for line in lines if _MESSENGER.match(line)) >= max(2, len(lines) / 2):
        what = "this is the export of a messenger, whose lines are no rows"
    else:
        return
    raise DataError(what, where=Location(path), fix=f"{_FIX}, or add --columns text to train on it as free text")


def refuse_message_tree(values: Mapping[str, Any], where: Location) -> None:
    """Raise DataError for a row of OpenAssistant, which is a message or a tree of messages."""
    if "message_tree_id" in values and {"parent_id", "prompt"} & {*values}:
        what = "the rows are messages of trees (OpenAssistant), not conversations"
        raise DataError(what, where=where, fix=f"follow parent_id from a last answer to its root; {_FIX}")
    if isinstance(values.get("mapping"), dict):
        what = "`mapping` is a tree of messages without the `current_node` of a ChatGPT export"
        raise DataError(what, where=where, fix=_FIX)
