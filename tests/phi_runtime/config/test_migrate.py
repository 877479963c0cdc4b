"""An older config, rewritten: the same workflow, each translation named, nothing of the author's lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.dialects.migrate import migrate
from phi_runtime.config.parse import parse_config
from phi_runtime.config.reading.source import read_source
from phi_runtime.core.errors import ConfigError, Conflict
from phi_runtime.pipeline.load import check_file
from tests.conftest import Cli

CASES = Path(__file__).parent / "dialects"
OLD = """\
// our tone model
{
    "input_model": {
        "type": "PyTorchModel",
        "config": {"hf_config": {
            "model_name": "../model-cache/smollm2-135m"  // the small one
        }}
    },
    "passes": {
        "tune": {
            "type": "LoRA",
            "config": {
                // half of what the paper has
                "lora_r": 8,
                "double_quant": true,  // saves memory
                "lora_alpha": 16, "lora_dropout": 0.0,
                "train_data_config": "rows",
            },
        },
        /* for the laptops
           of the sales team */
        "export": {"type": "ModelBuilder", "config": {"precision": "int4"}},
    },
    "data_configs": [{
        "name": "rows", "type": "HuggingfaceContainer",
        "load_dataset_config": {"params": {"data_name": "json", "data_files": "datasets/rows.jsonl", "split": "train"}},
        "pre_process_data_config": {"params": {"text_template": "{phrase} {tone}", "corpus_strategy": "join", "source_max_len": 64}}
    }],
    "engine": {"search_strategy": false}
}
// the end
"""
NEW = """\
// our tone model
{
    "input_model": {
        "type": "HfModel",
        "model_path": "../model-cache/smollm2-135m" // the small one
    },
    "systems": {
        "local_system": {
            "type": "LocalSystem",
            "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]
        }
    },
    "data_configs": [
        {
            "name": "rows",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {
                "data_name": "json",
                "data_files": "datasets/rows.jsonl",
                "split": "train"
            },
            "pre_process_data_config": {
                "text_template": "{phrase} {tone}",
                "strategy": "join",
                "max_seq_len": 64,
                "joiner": ""
            }
        }
    ],
    "passes": {
        // saves memory
        "tune": {
            "type": "LoRA",
            // half of what the paper has
            "r": 8,
            "alpha": 16,
            "lora_dropout": 0.0,
            "train_data_config": "rows"
        },
        "merge": {"type": "MergeAdapterWeights"},
        // for the laptops
        // of the sales team
        "export": {
            "type": "ModelBuilder",
            "precision": "int4"
        }
    },
    "host": "local_system",
    "target": "local_system",
    "search_strategy": false
}
// the end
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "my config.json"
    path.write_text(OLD, encoding="utf-8")
    rows = tmp_path / "datasets" / "rows.jsonl"
    rows.parent.mkdir()
    rows.write_text('{"phrase": "x", "tone": "y"}\n')
    return path


def test_it_is_written_in_todays_form_with_its_comments(old: Path) -> None:
    done = migrate(old)
    assert old.read_text(encoding="utf-8") == NEW
    assert done.backup is not None
    assert done.backup.read_text(encoding="utf-8") == OLD


def test_another_file_in_its_place_is_kept(old: Path) -> None:
    target = old.with_name("olive-config.json")
    target.write_text('{"precious": true}')
    done = migrate(old, target)
    assert target.read_text(encoding="utf-8") == NEW
    assert done.backup == old.with_name("olive-config.json.bak")
    assert done.backup.read_text() == '{"precious": true}'
    assert migrate(old, old.with_name("new.json")).backup is None


def test_each_translation_is_named_with_its_old_and_its_new_place(old: Path) -> None:
    places = {c.old_key: (c.old, c.new_key, c.new) for c in migrate(old).changes}
    was, key, now = places["passes.tune.config.lora_r"]
    assert was is not None
    assert now is not None
    assert OLD.splitlines()[was.line - 1][was.column - 1 :].startswith('"lora_r"')
    assert key == "passes.tune.r"
    assert NEW.splitlines()[now.line - 1][now.column - 1 :].startswith('"r"')
    assert places["passes.tune.config.double_quant"][1] is None
    assert {c.new_key for c in migrate(old.with_name("my config.json.bak")).changes if c.old is None} >= {
        "systems",
        "passes.merge",
    }


def test_a_second_time_changes_nothing(old: Path) -> None:
    migrate(old)
    again = migrate(old)
    assert (again.changes, dict(again.files), again.backup) == ([], {}, None)
    assert sorted(p.name for p in old.parent.iterdir() if p.is_file()) == ["my config.json", "my config.json.bak"]


def test_yaml_stays_yaml_and_keeps_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "# mine\n\nmodel:\n  type: HfModel # hub\n  # where\n  model_path: a/b\npasses:\n  m: {type: modelbuilder, precision: int4}\n"
    )
    migrate(path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# mine\n\ninput_model:\n  type: HfModel # hub\n  # where\n  model_path: a/b\n")
    assert parse_config(read_source(path)).draft.translations == []


def test_a_search_by_itself_is_written_anew_too(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("# try these\n\nsearch_space:\n  # the rank\n  lora_r: [8, 16]\n")
    migrate(path)
    assert path.read_text().startswith("# try these\n\nsearch_space:\n  # the rank\n  r:\n    type: choice\n")
    assert migrate(path).changes == []


@pytest.mark.parametrize("key", ["lora_alhpa", "quantization"])
def test_what_cannot_be_read_is_not_rewritten(old: Path, key: str) -> None:
    text = OLD.replace('"lora_alpha"', f'"{key}"')
    old.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=key):
        migrate(old)
    assert old.read_text(encoding="utf-8") == text
    assert [p.name for p in old.parent.iterdir() if p.is_file()] == [old.name]


def test_a_search_gets_the_file_that_it_belongs_into(old: Path) -> None:
    search = '"search_strategy": {"type": "random", "num_trials": 5}}, "search_space": {"lora_r": [8, 16]}'
    old.write_text(OLD.replace('"search_strategy": false}', search), encoding="utf-8")
    done = migrate(old)
    sweep = old.with_name("sweep.yaml")
    assert list(done.files) == [old, sweep]
    assert "search_strategy" not in json.loads(
        "\n".join(
            line.partition(" //")[0] for line in old.read_text().splitlines() if not line.strip().startswith("//")
        )
    )
    checked = check_file(sweep)
    assert checked.findings == []
    assert read_source(sweep).value["search_space"]["r"] == {"type": "choice", "values": [8, 16]}
    old.write_text(OLD.replace('"search_strategy": false}', search), encoding="utf-8")
    with pytest.raises(Conflict, match=r"sweep\.yaml is in the way"):
        migrate(old)


@pytest.mark.parametrize(
    "path",
    sorted(p for p in CASES.iterdir() if p.suffix in (".json", ".yaml") and ".canonical" not in p.name),
    ids=lambda p: p.name,
)
def test_every_dialect_is_written_so_that_it_reads_as_canonical(path: Path, tmp_path: Path) -> None:
    if path.name.startswith(("conda", "sweep")):
        pytest.skip("not a workflow")
    expected: dict[str, Any] = json.loads(path.with_name(f"{path.stem}.canonical.json").read_text(encoding="utf-8"))
    output = tmp_path / path.name
    done = migrate(path, output)
    assert done.backup is None
    assert read_source(output).value == expected
    assert list(read_source(output).value["passes"]) == list(expected["passes"])
    assert (tmp_path / "sweep.yaml").exists() == ("sweep" in check_file(path).draft.value)
    assert migrate(output).changes == []


def test_the_command_names_what_it_did_and_can_do_it_without_writing(old: Path, cli: Cli, tmp_path: Path) -> None:
    planned = cli("migrate", old, "--dry-run")
    assert planned.code == 0
    assert "passes.tune.config.lora_r → passes.tune.r (" in planned.out
    assert "nothing was written" in planned.err
    assert cli("migrate", old, "--output", "-").out == NEW
    elsewhere = tmp_path / "new.json"
    assert cli("migrate", old, "--output", elsewhere, "--quiet").out == ""
    assert elsewhere.read_text(encoding="utf-8") == NEW
    assert old.read_text(encoding="utf-8") == OLD
    facts = cli("migrate", old, "--json").json
    assert facts["backup"].endswith("my config.json.bak")
    assert {"rule", "message", "changes_result", "old", "new"} == facts["changes"][0].keys()
    assert "current format already" in cli("migrate", old).err
    assert cli("migrate", old.with_name("none.json")).code == 2
    assert cli("migrate", old, "--output", tmp_path / "no" / "x.json").code == 2


def test_a_result_that_is_not_valid_is_written_and_its_errors_are_listed(old: Path, cli: Cli) -> None:
    (old.parent / "datasets" / "rows.jsonl").unlink()
    planned = cli("migrate", old, "--dry-run", "--json")
    assert planned.code == 3
    assert planned.json["valid"] is False
    assert [(f["rule"], f["key"]) for f in planned.json["findings"]] == [
        ("file-not-found", "data_configs.0.load_dataset_config.data_files")
    ]
    assert cli("migrate", old, "--output", "-").code == 3
    assert old.read_text(encoding="utf-8") == OLD
    written = cli("migrate", old)
    assert written.code == 3
    assert old.read_text(encoding="utf-8") == NEW
    line = NEW.splitlines().index('                "data_files": "datasets/rows.jsonl",') + 1
    assert "the result is not valid yet: 1 error\n" in written.err
    assert f"{old.name}:{line}:17: error: " in written.err


def test_a_config_with_errors_is_not_rewritten_and_the_command_says_so(old: Path, cli: Cli) -> None:
    text = OLD.replace('"lora_alpha"', '"lora_alhpa"')
    old.write_text(text, encoding="utf-8")
    result = cli("migrate", old)
    assert result.code == 3
    assert "unknown key `lora_alhpa`" in result.err
    assert "nothing was written" in result.err
    assert old.read_text(encoding="utf-8") == text
