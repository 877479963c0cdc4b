"""Hugging Face's datasets, the reader of Olive, reads the same rows with the keys that `new` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phi_runtime.config.file_formats import format_of
from phi_runtime.data.file_form import file_form
from phi_runtime.data.row import ReadOptions
from phi_runtime.data.rows import read_rows

TABLE = "text,label\nit rains é,cold\nthe sun,warm\nfrost,cold\nbeach all,warm\nice,cold\n"
FILES = {
    "semicolon.csv": TABLE.replace(",", ";"),
    "tab.tsv": TABLE.replace(",", "\t"),
    "sep.csv": f"sep=;\r\n{TABLE}".replace(",", ";"),
    "utf16.csv": TABLE.encode("utf-16"),
    "utf16-without-mark.csv": TABLE.encode("utf-16-le"),
    "western.csv": TABLE.encode("cp1252"),
    "no-header.csv": TABLE.partition("\n")[2],
    "title.csv": f"Survey of May,\n,\n{TABLE}",
    "index.csv": "\n".join(f"{i or ''},{line}" for i, line in enumerate(TABLE.splitlines())),
    "twice.csv": "q,a,q,q.1\n1,2,3,4\n5,6,7,8\n",
    "trailing.csv": "a,b,,\nx,y,,\nz,w,,\n",
    "mark-in-name.csv": TABLE.replace("label", "\ufefflabel"),
    "spaces.csv": 'a, b\n"1, 2", "x"\n"3", "y"\n',
    "field.json": json.dumps({"v": 1, "rows": [{"text": "a", "n": 1}, {"text": "b", "n": 2}]}),
    "pretty.jsonl": '{\n"a": 1\n}\n{\n"a": 2\n}\n',
    "array.jsonl": '[{"a": 1}, {"a": 2}]',
    "utf16.jsonl": '{"a": "é"}\n{"a": "b"}\n'.encode("utf-16"),
    "western.txt": "Größe\nnaïve\n".encode("cp1252"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_keys_read_the_same_rows_there(tmp_path: Path, name: str) -> None:
    datasets = pytest.importorskip("datasets")
    path, content = tmp_path / name, FILES[name]
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    form = file_form(path, ReadOptions(format_of(path)), find_names=True)
    ours = [{key: str(value) for key, value in row.values.items()} for row in read_rows(path, form.options)]
    assert form.is_read_by_olive
    cache = str(tmp_path / "cache")
    found = datasets.load_dataset(
        form.options.format, data_files=str(path), split="train", cache_dir=cache, **form.keys
    )
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in found] == ours
