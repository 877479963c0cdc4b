"""Forms of users' files that a config of the canonical form cannot show: unused parts, notes, several flows, wrong places."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.dialects.migrate import migrate
from phi_runtime.config.overrides import Overrides
from phi_runtime.core.errors import Conflict
from phi_runtime.pipeline.load import LoadedConfig, check_file
from tests.phi_runtime.config.test_refused import CONFIG

Change = Callable[[dict[str, Any]], Any]


def checked(folder: Path, change: Change) -> LoadedConfig:
    """Check CONFIG with a change."""
    config = copy.deepcopy(CONFIG)
    change(config)
    (folder / "rows.jsonl").write_text('{"q": "x", "a": "y"}\n', encoding="utf-8")
    path = folder / "olive-config.json"
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return check_file(path)


def found(config: LoadedConfig, severity: str = "error") -> list[tuple[str, str]]:
    return [(f.rule, f.key) for f in config.findings if f.severity == severity]


DUMMY = {"name": "speed", "type": "TransformersPromptDummyDataContainer", "load_dataset_config": {"batch_size": 2}}
GLUE = {
    "name": "glue",
    "type": "HuggingfaceContainer",
    "load_dataset_config": {"data_name": "glue", "type": "mrpc_dataset"},
    "pre_process_data_config": {"input_cols": ["sentence1"]},
}
MISSING = {
    "name": "old",
    "type": "HuggingfaceContainer",
    "load_dataset_config": {"data_name": "json", "data_files": "x.json"},
}


@pytest.mark.parametrize("unused", [DUMMY, GLUE, DUMMY | {"name": {}}])
def test_a_data_config_that_no_pass_uses_is_skipped_with_one_line(tmp_path: Path, unused: dict[str, Any]) -> None:
    config = checked(tmp_path, lambda c: c["data_configs"].insert(0, unused))
    assert [d["name"] for d in config.draft.value["data_configs"]] == ["train"]
    assert found(config) == []
    assert found(config, "warning") == [("ignored", "data_configs.0")]


def test_files_of_a_data_config_that_no_pass_uses_are_not_checked(tmp_path: Path) -> None:
    assert found(checked(tmp_path, lambda c: c["data_configs"].append(MISSING))) == []


def test_findings_after_a_skipped_data_config_are_at_their_place(tmp_path: Path) -> None:
    def change(c: dict[str, Any]) -> None:
        c["data_configs"][0]["load_dataset_config"]["splt"] = "train"
        c["data_configs"].insert(0, DUMMY)

    assert found(checked(tmp_path, change)) == [("unknown-key", "data_configs.1.load_dataset_config.splt")]


def test_a_misspelled_reference_keeps_the_data_config_that_it_may_mean(tmp_path: Path) -> None:
    def change(c: dict[str, Any]) -> None:
        c["data_configs"] = [DUMMY]

    assert ("unknown-reference", "passes.lora.train_data_config") in found(checked(tmp_path, change))


@pytest.mark.parametrize(
    "system",
    [
        {"type": "AzureML", "config": {"aml_docker_config": {"conda_file_path": "gone.yaml"}}},
        {"type": "LocalSystem", "accelerators": [{"device": "npu", "execution_providers": ["QNNExecutionProvider"]}]},
        {"type": "Docker", "image_name": "olive"},
    ],
)
def test_a_system_that_nothing_runs_on_is_skipped_with_one_line(tmp_path: Path, system: dict[str, Any]) -> None:
    config = checked(tmp_path, lambda c: c["systems"].update(other=system))
    assert found(config) == []
    assert found(config, "warning") == [("ignored", "systems.other")]
    target = checked(tmp_path, lambda c: (c["systems"].update(other=system), c.update(target="other")))
    assert found(target) != []


def test_the_conda_file_of_a_system_that_nothing_runs_on_is_not_checked(tmp_path: Path) -> None:
    system = {
        "type": "AzureML",
        "aml_compute": "gpus",
        "accelerators": [{"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}],
        "aml_docker_config": {"conda_file_path": "gone.yaml"},
    }
    assert found(checked(tmp_path, lambda c: c["systems"].update(other=system))) == []


def test_the_name_of_a_device_may_have_blanks_around_it_in_all_forms(tmp_path: Path) -> None:
    config = checked(tmp_path, lambda c: c["systems"]["local"].update(accelerators=["cpu "]))
    assert found(config) == []
    assert config.draft.value["systems"]["local"]["accelerators"][0]["device"] == "cpu"


def test_an_operator_that_the_builder_does_not_have_is_ignored_each_time(tmp_path: Path) -> None:
    operators = ["Gemm", "MatMul", "Gemm"]
    config = checked(tmp_path, lambda c: c["passes"]["build"].update(int4_op_types_to_quantize=operators))
    assert found(config) == []
    assert config.draft.value["passes"]["build"]["int4_op_types_to_quantize"] == ["MatMul"]


def test_a_data_config_that_is_no_object_is_an_error_with_a_data_file_too(tmp_path: Path) -> None:
    checked(tmp_path, lambda c: c.update(data_configs=[5]))
    overrides = Overrides(data={"": tmp_path / "rows.jsonl"})
    assert ("wrong-type", "data_configs.0") in found(check_file(tmp_path / "olive-config.json", overrides=overrides))


def test_notes_of_the_author_are_kept_and_ignored(tmp_path: Path) -> None:
    def change(c: dict[str, Any]) -> None:
        c["x-owner"] = {"team": "a"}
        c["input_model"]["_comment"] = "small"
        c["passes"]["lora"]["config"] = {"lora_r": 8, "comment": "try 16"}
        c["systems"]["metadata"] = copy.deepcopy(c["systems"]["local"])  # the name of a system is no note

    config = checked(tmp_path, change)
    assert found(config) == []
    assert "metadata" in config.draft.value["systems"]
    migration = migrate(tmp_path / "olive-config.json", write=False)
    written = json.loads(next(iter(migration.files.values())))
    assert written["x-owner"] == {"team": "a"}
    assert written["input_model"]["_comment"] == "small"
    assert (written["passes"]["lora"]["r"], written["passes"]["lora"]["comment"]) == (8, "try 16")


def test_float16_of_an_export_for_a_cpu_is_an_error_at_that_key(tmp_path: Path) -> None:
    def change(c: dict[str, Any]) -> None:
        c["passes"] = {
            "lora": c["passes"]["lora"],
            "convert": {"type": "OnnxConversion"},
            "tune": {"type": "OrtTransformersOptimization", "float16": True},
            "meta": {"type": "ModelBuilder", "metadata_only": True, "precision": "fp16"},
        }

    assert found(checked(tmp_path, change)) == [("precision", "passes.tune.float16")]
    alone = checked(tmp_path, lambda c: (change(c), c["passes"].pop("meta")))
    assert found(alone) == [("precision", "passes.tune.float16")]


def test_alternatives_of_a_pass_are_one_error(tmp_path: Path) -> None:
    config = checked(tmp_path, lambda c: c["passes"].update(lora=[c["passes"]["lora"], {"type": "LoRA", "r": 16}]))
    assert found(config) == [("not-supported", "passes.lora")]


def test_migrate_writes_one_config_for_each_flow(tmp_path: Path) -> None:
    def change(c: dict[str, Any]) -> None:
        c["passes"]["other"] = {"type": "ModelBuilder", "precision": "fp32"}
        c["pass_flows"] = [["lora", "merge", "build"], ["lora", "merge", "other"]]

    assert found(checked(tmp_path, change)) == [("not-supported", "pass_flows")]
    files = migrate(tmp_path / "olive-config.json").files
    assert [file.name for file in files] == ["olive-config-1.json", "olive-config-2.json"]
    assert [list(json.loads(text)["passes"]) for text in files.values()] == [
        ["lora", "merge", "build"],
        ["lora", "merge", "other"],
    ]
    assert "pass_flows" in json.loads((tmp_path / "olive-config.json").read_text(encoding="utf-8"))
    with pytest.raises(Conflict, match="olive-config-1"):
        migrate(tmp_path / "olive-config.json")


@pytest.mark.parametrize(
    "address",
    ["https://example.com/model", "azureml://datastores/a/paths/b", "azureml://registries/r/models/none/versions/1"],
)
def test_an_address_that_cannot_be_read_is_refused(tmp_path: Path, address: str) -> None:
    config = checked(tmp_path, lambda c: c["input_model"].update(model_path=address))
    assert found(config) == [("model-not-found", "input_model.model_path")]


def test_the_name_of_a_suffix_is_no_hub_dataset(tmp_path: Path) -> None:
    load = {"data_name": "jsonl", "split": "train"}
    config = checked(tmp_path, lambda c: c["data_configs"][0].update(load_dataset_config=load))
    assert [(f.key, f.suggestion) for f in config.findings] == [
        ("data_configs.0.load_dataset_config.data_name", "json")
    ]


def test_an_evaluation_without_validation_rows_is_a_warning(tmp_path: Path) -> None:
    config = checked(tmp_path, lambda c: c["passes"]["lora"]["training_args"].update(eval_strategy="epoch"))
    assert found(config, "warning") == [("no-effect", "passes.lora.training_args.eval_strategy")]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("q_proj, v_proj", ["q_proj", "v_proj"]),
        ("o_proj", ["o_proj"]),
        (".*self_attn.*(q|v)_proj$", ".*self_attn.*(q|v)_proj$"),
    ],
)
def test_target_modules_are_names_or_a_regular_expression(tmp_path: Path, written: str, meant: Any) -> None:
    config = checked(tmp_path, lambda c: c["passes"]["lora"].update(target_modules=written))
    assert found(config) == []
    assert config.draft.value["passes"]["lora"]["target_modules"] == meant


def test_loftq_is_a_qlora_that_starts_from_the_rounding(tmp_path: Path) -> None:
    def change(c: dict[str, Any]) -> None:
        c["passes"]["lora"] |= {"type": "LoftQ", "loftq_iter": 1, "task_type": "CAUSAL_LM"}

    config = checked(tmp_path, change)
    assert found(config) == []
    step = config.draft.value["passes"]["lora"]
    assert (step["type"], step["init_lora_weights"], "loftq_iter" in step) == ("QLoRA", "loftq", False)


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "QLoRA", "init_lora_weights": "pissa"},
        {"type": "LoRA", "init_lora_weights": "loftq"},
        {"type": "DoRA", "init_lora_weights": "olora"},
        {"type": "LoRA", "init_lora_weights": "pissa", "int4_aware": True},
        {"type": "LoRA", "init_lora_weights": "eva"},
    ],
)
def test_first_weights_that_cannot_be_right_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = checked(tmp_path, lambda c: c["passes"]["lora"].update(settings))
    assert [key for _, key in found(config)] == ["passes.lora.init_lora_weights"]


def test_a_broken_regular_expression_is_an_error_at_its_place(tmp_path: Path) -> None:
    config = checked(tmp_path, lambda c: c["passes"]["lora"].update(target_modules="(q|v"))
    assert found(config) == [("target-module", "passes.lora.target_modules")]
