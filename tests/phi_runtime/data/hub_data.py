"""Two data sets of the hub stand-in, and how their files are made."""

from __future__ import annotations

import io
import json
from typing import Any


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(columns: dict[str, Any]) -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    table = columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns)
    written = io.BytesIO()
    write_table(table, written, row_group_size=2)
    return written.getvalue()


def card(text: str) -> bytes:
    return f"---\n{text}\n---\n".encode()


PHRASES = {
    "README.md": card("license: mit"),
    "data/train-00000-of-00002.parquet": parquet({"phrase": ["I won", "I lost", "Oh"], "tone": [1, 0, 1]}),
    "data/train-00001-of-00002.parquet": parquet({"phrase": ["Ah"], "tone": [0]}),
    "data/test-00000-of-00001.parquet": parquet({"phrase": ["So"], "tone": [1]}),
}
TALKS = {
    "README.md": card(
        """configs:
- config_name: english
  data_files: [{split: train, path: en/train.jsonl}, {split: validation, path: en/validation.jsonl}]
- config_name: german
  data_files: [{split: train, path: de/train.jsonl}, {split: validation, path: de/validation.jsonl}]"""
    ),
    "en/train.jsonl": lines({"text": "good morning"}, {"text": "good night"}),
    "en/validation.jsonl": lines({"text": "hello"}),
    "de/train.jsonl": lines({"text": "schönen Tag"}),
    "de/validation.jsonl": lines({"text": "hallo"}),
}
