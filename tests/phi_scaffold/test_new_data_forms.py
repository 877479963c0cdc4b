"""`phi-scaffold new` over files as spreadsheets write them: the config names their form, so that Olive reads the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.conftest import Cli

TABLE = "text,label\nit rains a lot,cold\nthe sun is out,warm\nfrost on the roof,cold\nbeach all day,warm\nice and snow,cold\n"
BARE = TABLE.partition("\n")[2]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def created(cli: Cli, inside: Path, *flags: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    result = cli("new", "one", "--yes", "--no-git", "--json", *flags)
    assert result.code == 0, result.err
    text = (inside / "one" / "fine-tuning" / "olive-config.json").read_text(encoding="utf-8")
    assert cli("validate", inside / "one" / "fine-tuning" / "olive-config.json").code == 0
    data = json.loads(text)["data_configs"][0]
    load = data["load_dataset_config"]
    assert load.pop("data_files").startswith("../datasets/")
    assert load.pop("split") == "train"
    return load, data["pre_process_data_config"], result.json["notes"]


@pytest.mark.parametrize(
    ("name", "content", "flags", "load"),
    [
        ("a.csv", TABLE, (), {"data_name": "csv"}),
        ("a.tsv", TABLE.replace(",", "\t"), (), {"data_name": "csv", "sep": "\t"}),
        ("a.csv", ("sep=;\n" + TABLE).replace(",", ";"), (), {"data_name": "csv", "sep": ";", "header": 1}),
        ("a.csv", TABLE.replace("roof", "Dächer").encode("cp1252"), (), {"data_name": "csv", "encoding": "cp1252"}),
        ("a.csv", BARE, (), {"data_name": "csv", "names": ["text", "label"]}),
        ("a.csv", "rainy,cold\nsunny,warm\nwindy,cold\n", ("--no-header",), {"data_name": "csv", "names": ["text", "label"]}),
        ("a.csv", BARE, ("--header", "--columns", "it rains a lot,cold"), {"data_name": "csv"}),
        ("a.csv", TABLE.replace(",", "^"), ("--sep", "^"), {"data_name": "csv", "sep": "^"}),
        ("a.csv", TABLE.replace("sun", "солнце").encode("cp1251"), ("--encoding", "cp1251"),
         {"data_name": "csv", "encoding": "cp1251"}),
        ("a.json", json.dumps({"v": 1, "rows": [{"text": "a", "label": "b"}]}), (), {"data_name": "json", "field": "rows"}),
        ("a.json", json.dumps({"x": [{"text": "a", "label": "b"}], "y": [{"text": "c", "label": "d"}]}), ("--field", "y"),
         {"data_name": "json", "field": "y"}),
    ],
)  # fmt: skip
def test_the_form_of_the_data_is_written_into_the_config(
    cli: Cli, inside: Path, name: str, content: str | bytes, flags: tuple[str, ...], load: dict[str, Any]
) -> None:
    (inside / name).write_bytes(content.encode() if isinstance(content, str) else content)
    found, process, _ = created(cli, inside, "--data", name, *flags)
    assert found == load
    if "--columns" not in flags:
        assert process["text_template"] == "### Text: {text}\n### Label:\n{label}"


def test_a_workbook_is_read_as_it_is_and_olive_cannot(cli: Cli, inside: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["Notes"])
    sheet = book.create_sheet("Reviews")
    for line in TABLE.splitlines():
        sheet.append(line.split(","))
    book.save(inside / "a.xlsx")
    load, process, notes = created(cli, inside, "--data", "a.xlsx", "--sheet", "Reviews")
    assert load == {"data_name": "xlsx", "sheet": "Reviews"}
    assert process["text_template"] == "### Text: {text}\n### Label:\n{label}"
    assert sum("Olive" in note for note in notes) == 1
    assert "PROJECT_EXTRAS = set()" in (inside / "one/setup/setup.py").read_text(encoding="utf-8")
    assert (inside / "one/datasets/a.xlsx").is_file()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--sep", ";"), "there is no --data"),
        (("--data", "a.csv", "--sheet", "A"), "--sheet does not apply"),
        (("--data", "a.jsonl", "--no-header"), "--no-header does not apply"),
        (("--data", "a.csv", "--encoding", "klingon"), "klingon"),
        (("--data", "a.csv", "--sep", "ab"), "--sep"),
    ],
)
def test_a_flag_that_does_not_fit_is_refused(cli: Cli, inside: Path, flags: tuple[str, ...], says: str) -> None:
    (inside / "a.csv").write_text(TABLE, encoding="utf-8")
    (inside / "a.jsonl").write_text('{"text": "a", "label": "b"}\n', encoding="utf-8")
    result = cli("new", "one", "--yes", "--no-git", *flags)
    assert (result.code, (inside / "one").exists()) == (2, False)
    assert says in result.err


def test_the_flags_are_in_the_equivalent_command(cli: Cli, inside: Path) -> None:
    (inside / "a.csv").write_text(BARE.replace(",", "^"), encoding="utf-8")
    result = cli("new", "one", "--yes", "--no-git", "--json", "--data", "a.csv", "--no-header", "--sep", "^")
    assert "--sep ^ --no-header" in result.json["command"].replace("'", "")
