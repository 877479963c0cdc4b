"""`phi-scaffold new --config`: a project around an existing config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_scaffold.new import existing
from tests.conftest import Cli, write_rows

CPU = {"type": "LocalSystem", "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}


def canonical(**changes: Any) -> dict[str, Any]:
    return {
        "input_model": {"type": "HfModel", "model_path": "microsoft/phi-2"},
        "systems": {"local": CPU},
        "data_configs": [
            {
                "name": "rows",
                "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl", "split": "train"},
                "pre_process_data_config": {"text_template": "{phrase}\n{tone}", "strategy": "line-by-line"},
            }
        ],
        "passes": {
            "lora": {"type": "LoRA", "r": 4, "train_data_config": "rows"},
            "merge": {"type": "MergeAdapterWeights"},
            "build": {"type": "ModelBuilder", "precision": "int4"},
        },
        "host": "local",
        "target": "local",
        **changes,
    }


@pytest.fixture(autouse=True)
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the existing config, next to the current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "old").mkdir()
    return tmp_path / "old"


def write(path: Path, config: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=2))
    return path


def created(root: Path) -> Any:
    return json.loads((root / "fine-tuning" / "olive-config.json").read_text())


def test_the_config_is_in_the_project_and_its_data_is_copied(cli: Cli, old: Path) -> None:
    rows = write_rows(old / "rows.jsonl").read_bytes()
    config = write(old / "flow.json", canonical())
    result = cli("new", "p", "--config", config, "--json", "--no-git")
    assert (result.code, result.json["findings"]) == (0, [])
    assert result.json["command"] == f"phi-scaffold new p --config {config}"
    expected = canonical()
    expected["data_configs"][0]["load_dataset_config"]["data_files"] = "../datasets/rows.jsonl"
    assert created(Path("p")) == expected
    assert Path("p/datasets/rows.jsonl").read_bytes() == rows
    assert {p.name for p in Path("p/datasets").iterdir()} == {"rows.jsonl", "README.md"}
    assert json.loads(Path("p/fine-tuning/evaluation.json").read_text())["task"] == "classification"  # detected
    assert not Path("p/fine-tuning/sweep.yaml").exists()
    assert cli("validate", "p/fine-tuning/olive-config.json").code == 0
    assert cli("run", "--dry-run", "--no-step", "--project", "p").code == 0
    assert config.read_text() == json.dumps(canonical(), indent=2)


def test_a_config_of_ai_toolkit_is_migrated_and_its_paths_start_at_its_root(cli: Cli, old: Path) -> None:
    write_rows(old / "dataset" / "rows.jsonl")
    config = write(
        old / "finetuning" / "olive-config.json",
        {
            "input_model": {"type": "PyTorchModel", "config": {"hf_config": {"model_name": "microsoft/phi-2"}}},
            "systems": {"local": {"type": "LocalSystem", "config": {"accelerators": ["gpu"]}}},
            "data_configs": [
                {
                    "name": "rows",
                    "type": "HuggingfaceContainer",
                    "params_config": {
                        "data_name": "json",
                        "data_files": "dataset/rows.jsonl",
                        "split": "train",
                        "component_kwargs": {
                            "pre_process_data": {"text_template": "{phrase}\n{tone}", "corpus_strategy": "line-by-line"}
                        },
                    },
                }
            ],
            "passes": {"qlora": {"type": "QLoRA", "config": {"lora_r": 4, "train_data_config": "rows"}}},
            "engine": {"host": "local", "target": "local", "execution_providers": ["CUDAExecutionProvider"]},
        },
    )
    result = cli("new", "p", "--config", config, "--json", "--no-git")
    assert [f for f in result.json["findings"] if f["severity"] == "error"] == []
    assert created(Path("p"))["data_configs"][0]["load_dataset_config"]["data_files"] == "../datasets/rows.jsonl"
    assert created(Path("p"))["passes"]["qlora"]["r"] == 4
    setup = Path("p/setup/setup.py").read_text()
    assert 'TARGET = "cuda"' in setup
    assert 'PROJECT_EXTRAS = {"qlora"}' in setup


def test_scripts_and_files_next_to_the_config_come_along_and_models_stay_where_they_are(cli: Cli, old: Path) -> None:
    write_rows(old / "rows.jsonl")
    write_rows(old / "more" / "rows.jsonl", 10)
    (old / "model").mkdir()
    (old / "model" / "config.json").write_text('{"model_type": "llama"}')
    for name, text in {"script.py": "def text(row): ...\n", "hooks.py": "def keep(row): return True\n"}.items():
        (old / name).write_text(text)
    (old / "evaluation.json").write_text('{"task": "summarization"}')
    (old / "sweep.yaml").write_text("search_space: {r: {type: choice, values: [4, 8]}}\n")
    config = canonical(input_model={"type": "HfModel", "model_path": "model"})
    config["data_configs"][0]["load_dataset_config"]["data_files"] = ["rows.jsonl", "more/rows.jsonl", "more"]
    config["data_configs"][0]["pre_process_data_config"] |= {"user_script": "script.py", "text_formatting_func": "text"}
    del config["data_configs"][0]["pre_process_data_config"]["text_template"]
    result = cli("new", "p", "--config", write(old / "a.json", config), "--json", "--no-git")
    assert [f["message"] for f in result.json["findings"] if f["severity"] == "error"] == []
    data = created(Path("p"))["data_configs"][0]
    assert data["load_dataset_config"]["data_files"] == [
        "../datasets/rows.jsonl",
        "../datasets/rows-2.jsonl",
        (old / "more").as_posix(),
    ]
    assert data["pre_process_data_config"]["user_script"] == "script.py"
    assert created(Path("p"))["input_model"]["model_path"] == (old / "model").as_posix()
    for name in ("script.py", "hooks.py", "evaluation.json", "sweep.yaml"):
        assert Path("p/fine-tuning", name).read_text() == (old / name).read_text()


def test_large_data_is_used_where_it_is(cli: Cli, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existing, "LARGEST_COPY", 10)
    rows = write_rows(old / "rows.jsonl")
    result = cli("new", "p", "--config", write(old / "a.json", canonical()), "--json", "--no-git")
    assert result.json["notes"] == [f"{rows} is used where it is, not copied"]
    assert created(Path("p"))["data_configs"][0]["load_dataset_config"]["data_files"] == rows.as_posix()


def test_a_yaml_config_with_a_hub_data_set_keeps_its_comments_and_needs_datasets(cli: Cli, old: Path) -> None:
    import yaml

    config = canonical()
    config["data_configs"][0]["load_dataset_config"] = {"data_name": "org/rows", "split": "train"}
    (old / "a.yaml").write_text("# of spring\n" + yaml.safe_dump(config, sort_keys=False))
    assert cli("new", "p", "--config", old / "a.yaml", "--no-git").code == 0
    text = Path("p/fine-tuning/olive-config.json").read_text()
    assert "// of spring" in text
    assert 'PROJECT_EXTRAS = {"data"}' in Path("p/setup/setup.py").read_text()


def test_missing_data_is_an_error_of_the_new_project_and_a_faulty_config_creates_none(cli: Cli, old: Path) -> None:
    missing = cli("new", "p", "--config", write(old / "a.json", canonical()), "--no-git")
    assert missing.code == 3
    assert "the result is not valid yet: 1 error" in missing.err
    assert "rows.jsonl" in missing.err
    assert Path("p/setup/setup.sh").is_file()
    faulty = cli("new", "q", "--config", write(old / "b.json", canonical(pases={})), "--no-git")
    assert faulty.code == 3
    assert "did you mean `passes`" in faulty.err
    assert not Path("q").exists()


def test_answers_of_other_flags_are_refused(cli: Cli, old: Path) -> None:
    config = write(old / "a.json", canonical())
    assert cli("new", "p", "--config", config, "--prompt-template", "chat").code == 2
    assert cli("new", "p", "--config", old / "missing.json").code == 2
    assert not Path("p").exists()
