"""Data, configs and guides from anyone: they end with rows or a located error, in bounded memory, and nothing in them acts."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from phi_runtime.core.errors import DataError, PhiError
from phi_runtime.data.rows import BadRow, read_rows
from phi_runtime.inference.generator import InvalidGuide
from phi_runtime.inference.guides import require_bounded, require_short
from phi_scaffold.show.inert import inert
from phi_scaffold.show.terminal import SafeText
from tests.conftest import Cli

posix = pytest.mark.skipif(os.name == "nt", reason="no such files there")


@posix
@pytest.mark.parametrize("kind", ["fifo", "zero", "tty", "loop", "folder", "link to zero"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt", "xlsx", "parquet", "jsonl.gz"])
def test_a_data_file_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str, suffix: str) -> None:
    file = tmp_path / f"rows.{suffix}"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(file if kind == "loop" else "/dev/tty" if kind == "tty" else "/dev/zero")
    with pytest.raises(PhiError) as refused:
        list(read_rows(file))
    assert refused.value.exit_code == 4


@posix
def test_a_circle_of_links_among_the_data_ends(tmp_path: Path) -> None:
    from phi_runtime.config.paths import data_paths
    from phi_runtime.config.schema import DataConfig

    folder = tmp_path / "rows"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b").symlink_to(folder, target_is_directory=True)
    (folder / "a" / "train.jsonl").write_text("{}\n", encoding="utf-8")
    load = {"data_name": "json", "data_files": str(folder / "**/*.jsonl"), "split": "train"}
    data = DataConfig.model_validate(
        {"name": "d", "type": "HuggingfaceContainer", "load_dataset_config": load, "pre_process_data_config": {}}
    )
    assert 1 <= len(data_paths(data, tmp_path / "c.json")) < 100


def test_a_compressed_line_of_gigabytes_is_one_bad_row(tmp_path: Path) -> None:
    file = tmp_path / "bomb.jsonl.gz"
    with gzip.open(file, "wb", compresslevel=1) as stream:
        for _ in range(40):
            stream.write(b" " * 2**20)
        stream.write(b'\n{"a": "b"}\n')
    rows = list(read_rows(file))
    assert file.stat().st_size < 2**20
    assert [isinstance(row, BadRow) for row in rows] in ([True, False], [False])


def test_a_workbook_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phi_runtime.data.workbook.LIMIT_BYTES", 2**24)
    bomb = tmp_path / "bomb.xlsx"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", b"A" * 2**25)
    assert bomb.stat().st_size < 2**20
    with pytest.raises(DataError, match="unpacks to"):
        list(read_rows(bomb))


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, "[1," * 100_000])
def test_rows_and_configs_that_nest_too_deeply_are_errors(tmp_path: Path, cli: Cli, text: str) -> None:
    (tmp_path / "olive-config.json").write_text(text, encoding="utf-8")
    refused = cli("validate", tmp_path / "olive-config.json")
    assert (refused.code, "this is a bug" in refused.err) == (3, False)
    (tmp_path / "rows.jsonl").write_text(text + "\n", encoding="utf-8")
    with suppress(DataError):
        assert all(isinstance(row, BadRow) for row in read_rows(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch {0}']", "!!python/name:os.system", "!evil {{}}"]
)
def test_tags_of_a_yaml_config_construct_nothing(tmp_path: Path, cli: Cli, tag: str) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "config.yaml").write_text(f"input_model: {tag.format(marker)}\n", encoding="utf-8")
    assert cli("validate", tmp_path / "config.yaml").code == 3
    assert not marker.exists()


NAMES = ("\x1b]0;owned\x07", "\x1b]52;c;ZXZpbA==\x07", "\x1b]8;;https://evil.example\x07text\x1b]8;;\x07", "\x9b2J")
HIDDEN = ("\u202eevil", "\u2066a\u2069", "lr\u200b", "\ufefflr", "a\u2060b", "a\u061cb", "a\u200eb", "a\u2028b")


@pytest.mark.parametrize("name", [*NAMES, *HIDDEN])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_names_that_a_terminal_obeys_or_hides_are_shown(
    tmp_path: Path, cli: Cli, name: str, flags: tuple[str, ...]
) -> None:
    config = tmp_path / "olive-config.json"
    config.write_text(json.dumps({"input_model": {"type": "HfModel", "model_path": "a/b", name: 1}, "passes": {}}))
    result = cli("validate", config, *flags)
    assert result.code == 3
    printed = result.out + result.err
    assert not [character for character in printed if inert(character) != character]
    codes = [f"{ord(character):02x}" for character in name if inert(character) != character]
    assert any(code in printed for code in codes)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_of_a_model_cannot_act_on_a_terminal(name: str) -> None:
    for size in (1, 3, 100):
        safe = SafeText()
        parts = [safe.push(name[i : i + size]) for i in range(0, len(name), size)]
        assert not set("".join(parts) + safe.flush()) & {"\x1b", "\x07", "\x9b"}


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\t=", "\r=", " =", "\n=", "\x00=", "\ufeff=", "\u200b=", "＝", "\xa0="]
)
def test_no_cell_that_is_written_is_a_formula(start: str) -> None:
    from phi_runtime.report.rating_sheet import Sheet, SheetRow, as_csv

    text = f"{start}cmd|' /C calc'!A0"
    sheet = Sheet(("a", "b"), (SheetRow(text, text, text, (text, text), "A", 1.0),), 1, 1)
    cells = [cell for row in csv.reader(io.StringIO(as_csv(sheet))) for cell in row]
    assert not [
        c for c in cells if c.lstrip("\ufeff\u200b \xa0\t\r\n\0")[:1] in ("=", "+", "-", "@", "＝") and c[:1] != "'"
    ]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "maxItems": 20_000_000},
        {"type": "array", "minItems": 10**9},
        {"type": "array", "items": {"type": "array", "maxItems": 10**7}},
        {"$defs": {"a": {"type": "array", "maxItems": 10**8}}, "$ref": "#/$defs/a"},
    ],
)
def test_a_small_schema_that_takes_all_memory_is_refused(schema: object) -> None:
    with pytest.raises(InvalidGuide):
        require_bounded(schema)


def test_a_long_guide_is_refused() -> None:
    with pytest.raises(InvalidGuide):
        require_short(json.dumps({"enum": ["a" * 100] * 100_000}))
