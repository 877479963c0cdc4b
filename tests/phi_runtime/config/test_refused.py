"""A key that no translation can follow is an error at its place, never a silent loss."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.dialects.keys import TABLES
from phi_runtime.pipeline.load import check_file
from tests.phi_runtime.config.test_dialects import errors

SECRET = "hf_ThisIsASecret"

CONFIG: dict[str, Any] = {
    "input_model": {"type": "HfModel", "model_path": "../model-cache/phi-2", "load_kwargs": {}},
    "systems": {
        "local": {
            "type": "LocalSystem",
            "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
        }
    },
    "data_configs": [
        {
            "name": "train",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl", "split": "train"},
            "pre_process_data_config": {"text_cols": ["q", "a"]},
        }
    ],
    "passes": {
        "lora": {"type": "LoRA", "train_data_config": "train", "training_args": {"seed": 1}},
        "merge": {"type": "MergeAdapterWeights"},
        "build": {"type": "ModelBuilder", "precision": "int4"},
    },
    "host": "local",
    "target": "local",
}

Change = Callable[[dict[str, Any]], Any]


def refused(folder: Path, change: Change) -> tuple[list[Finding], list[str]]:
    """The findings on CONFIG with a change, and the lines of its file."""
    config = copy.deepcopy(CONFIG)
    change(config)
    (folder / "rows.jsonl").write_text('{"q": "x", "a": "y", "input": "x", "output": "y"}\n', encoding="utf-8")
    path = folder / "olive-config.json"
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return check_file(path).findings, path.read_text(encoding="utf-8").splitlines()


def test_the_config_that_the_refused_ones_start_from_is_sound(tmp_path: Path) -> None:
    assert refused(tmp_path, dict.copy)[0] == []


@pytest.mark.parametrize(
    ("change", "rule", "line_of"),
    [
        (lambda c: c["input_model"].setdefault("load_kwargs", {}).update(token=SECRET), "secret", '"token"'),
        (
            lambda c: c["input_model"].setdefault("load_kwargs", {}).update(extra_args={"token": SECRET}),
            "secret",
            '"token"',
        ),
        (
            lambda c: c["input_model"].setdefault("load_kwargs", {}).update(use_auth_token=SECRET),
            "secret",
            '"use_auth_token"',
        ),
        (lambda c: c["data_configs"][0]["load_dataset_config"].update(token=SECRET), "secret", '"token"'),
        (
            lambda c: c["data_configs"][0].update(
                load_dataset_config={"params": {"data_files": "rows.jsonl", "token": SECRET}}
            ),
            "secret",
            '"token"',
        ),
        (lambda c: c["systems"]["local"].update(hf_token=SECRET), "secret", '"hf_token"'),
        (lambda c: c["input_model"].update(token=SECRET), "secret", '"token"'),
        (lambda c: c["passes"]["lora"].update(hf_token=SECRET), "secret", '"hf_token"'),
        (
            lambda c: c["passes"]["lora"]["training_args"].update(push_to_hub=True, hub_token=SECRET),
            "not-supported",
            '"push_to_hub"',
        ),
        (
            lambda c: c["input_model"].setdefault("load_kwargs", {}).update(quantization_config={"load_in_4bit": True}),
            "not-supported",
            '"quantization_config"',
        ),
        (
            lambda c: c["input_model"].update(type="PyTorchModel", model_script="load.py", model_loader="load"),
            "other-domain",
            '"model_loader"',
        ),
        (
            lambda c: c["data_configs"][0]["pre_process_data_config"].update(text_formatting_func="format_row"),
            "missing-key",
            '"text_formatting_func"',
        ),
        (
            lambda c: c["data_configs"][0].update(
                user_script="user.py", load_dataset_config={"type": "load_tiny_codes", "params": {"data_name": "json"}}
            ),
            "not-supported",
            '"load_tiny_codes"',
        ),
        (
            lambda c: c["data_configs"][0].update(pre_process_data_config={"type": "my_pre_process"}),
            "not-supported",
            '"my_pre_process"',
        ),
        (
            lambda c: c["data_configs"][0].update(
                pre_process_data_config={"dataset_type": "pair", "pair_format": "alpaca", "source_max_len": 64}
            ),
            "not-supported",
            '"dataset_type"',
        ),
        (
            lambda c: c["data_configs"][0].update(
                pre_process_data_config={"dataset_type": "pair", "pair_format": "custom", "input_col": "q"}
            ),
            "not-supported",
            '"dataset_type"',
        ),
        (lambda c: c.update(pass_flows=[["lora"], ["lora", "merge"]]), "not-supported", '"pass_flows"'),
        (lambda c: c.update(pass_flows=[["lora", "no_such_pass"]]), "not-supported", '"pass_flows"'),
        (lambda c: c.update(pass_flows=[["lora", ["merge"]]]), "not-supported", '"pass_flows"'),
        (lambda c: c["passes"]["lora"]["training_args"].update(deepspeed=True), "not-supported", '"deepspeed"'),
        (lambda c: c["passes"]["lora"]["training_args"].update(optim="lomo"), "not-supported", '"optim"'),
        (lambda c: c["passes"]["lora"].update(r=16, lora_r=8), "contradiction", '"lora_r"'),
        (
            lambda c: c["passes"]["lora"].update(alpha=16, config={"alpha": 8}),
            "contradiction",
            '"alpha": 8',
        ),
        (
            lambda c: c.update(engine={"execution_providers": ["CUDAExecutionProvider"]}),
            "contradiction",
            '"execution_providers": [',
        ),
        (lambda c: c["passes"]["lora"].update(host="another"), "not-supported", '"host": "another"'),
        (
            lambda c: c["passes"].update(build=[c["passes"]["build"], {"type": "ModelBuilder", "precision": "fp32"}]),
            "not-supported",
            '"build"',
        ),
        (
            lambda c: (
                c["passes"].update(again={"type": "QLoRA", "train_data_config": "train"})
                or c.update(training_config={"lr": 1e-4})
            ),
            "not-supported",
            '"training_config"',
        ),
        (lambda c: c.update(sweep={"search_space": {}}), "not-supported", '"sweep"'),
        (lambda c: c["passes"]["lora"].update(config="lora.json"), "wrong-type", '"config"'),
    ],
)
def test_what_cannot_be_obeyed_is_refused_where_it_stands(
    tmp_path: Path, change: Change, rule: str, line_of: str
) -> None:
    findings, lines = refused(tmp_path, change)
    found = [f for f in findings if f.severity == "error" and f.rule == rule]
    assert found, f"no error of the rule {rule}, but {errors(findings)}"
    assert line_of in lines[found[0].where.line - 1]
    assert SECRET not in "".join(map(str, findings))


_PLACES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "Workflow": lambda c: c,
    "InputModel": lambda c: c["input_model"],
    "LoadKwargs": lambda c: c["input_model"].setdefault("load_kwargs", {}),
    "LoadDataset": lambda c: c["data_configs"][0]["load_dataset_config"],
    "PreProcess": lambda c: c["data_configs"][0]["pre_process_data_config"],
    "TrainingArgs": lambda c: c["passes"]["lora"]["training_args"],
    "FsdpConfig": lambda c: c["passes"]["lora"]["training_args"].setdefault("fsdp_config", {}),
    "AcceleratorConfig": lambda c: c["passes"]["lora"]["training_args"].setdefault("accelerator_config", {}),
    "ModelBuilder": lambda c: c["passes"]["build"],
    "BuilderOptions": lambda c: c["passes"]["build"].setdefault("extra_options", {}),
}


@pytest.mark.parametrize(
    ("part", "key"),
    [(part.__name__, key) for part, older in TABLES.items() for key in older.refused],
)
def test_a_key_that_would_have_an_effect_is_an_error_and_its_default_is_not(
    tmp_path: Path, part: str, key: str
) -> None:
    findings, lines = refused(tmp_path, lambda c: _PLACES[part](c).update({key: "on"}))
    found = [f for f in findings if f.rule == "not-supported"]
    assert len(found) == 1
    assert f'"{key}"' in lines[found[0].where.line - 1]
    assert "wrong-type" not in {f.rule for f in findings}
    for off in (None, False):
        findings, _ = refused(tmp_path, lambda c, value=off: _PLACES[part](c).update({key: value}))  # type: ignore[misc]
        assert errors(findings) == []
