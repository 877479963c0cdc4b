"""Choices on the validation rows, from a config and the records of searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.schema import DataConfig, Workflow
from phi_runtime.core.project import ProjectFolder
from phi_runtime.passes.lora import LoRA
from phi_runtime.passes.merge_adapter_weights import MergeAdapterWeights
from phi_runtime.passes.model_builder import ModelBuilder
from phi_runtime.pipeline.chosen_on import chosen_on

CPU = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}


def chosen(folder: Path, arguments: dict[str, Any] | None = None, **settings: Any) -> list[str]:
    values = {
        "type": "LoRA",
        "r": 8,
        "train_data_config": "d",
        "eval_dataset_size": 0.2,
        "training_args": arguments or {},
    }
    data = DataConfig.model_validate(
        {
            "name": "d",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": "d.jsonl"},
        }
    )
    workflow = Workflow.model_validate(
        {
            "input_model": {"type": "HfModel", "model_path": "m"},
            "data_configs": [data],
            "passes": {
                "finetune": LoRA.model_validate({**values, **settings}),
                "merge": MergeAdapterWeights(type="MergeAdapterWeights"),
                "export": ModelBuilder.model_validate(
                    {"type": "ModelBuilder", "precision": "int4", "int4_block_size": 32}
                ),
            },
            "systems": {"local": {"type": "LocalSystem", "accelerators": [CPU]}},
            "host": "local",
            "target": "local",
        }
    )
    return chosen_on(workflow, ProjectFolder(folder, folder / "olive-config.json"), "finetune")


@pytest.mark.parametrize(
    ("arguments", "settings", "expected"),
    [
        ({}, {}, []),
        ({"load_best_model_at_end": True}, {}, ["best checkpoint"]),
        ({"metric_for_best_model": "accuracy", "save_strategy": "best"}, {}, ["best checkpoint by accuracy"]),
        ({"load_best_model_at_end": True}, {"early_stopping_patience": 2}, ["early stopping"]),
        ({"metric_for_best_model": "eval_loss"}, {"early_stopping_patience": 2}, ["early stopping"]),
        ({}, {"early_stopping_patience": 2, "test_dataset_size": 0.1}, []),
        ({}, {"early_stopping_patience": 2, "test_data_config": "d"}, []),
        ({}, {"early_stopping_patience": 2, "eval_dataset_size": 0}, []),
    ],
)
def test_choices_of_a_training(
    tmp_path: Path, arguments: dict[str, Any], settings: dict[str, Any], expected: list[str]
) -> None:
    assert chosen(tmp_path, arguments, **settings) == expected


def record(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_sweep_counts_if_the_config_has_its_best_values(tmp_path: Path) -> None:
    states = ["complete"] * 3 + ["pruned", "failed", "running"]
    trials = [{"state": state} for state in states]
    best = {"values": {"r": 8, "training_args.learning_rate": 0.001}}
    record(tmp_path / "gen-model/sweep/study-1/trials.json", {"trials": trials, "best": best})
    record(tmp_path / "gen-model/sweep/study-2/trials.json", {"trials": trials[:1], "best": {"values": {"r": 16}}})
    assert chosen(tmp_path, {"learning_rate": 0.001}) == ["sweep (4 trials)"]
    assert chosen(tmp_path, {"learning_rate": 0.002}) == []
    assert chosen(tmp_path, r=16) == ["sweep (1 trial)"]
    best = {"values": {"data_configs.d.pre_process_data_config.max_seq_len": 1024, "passes.finetune.r": 4}}
    record(tmp_path / "gen-model/sweep/study-3/trials.json", {"trials": trials, "best": best})
    assert chosen(tmp_path, r=4) == ["sweep (4 trials)"]


def test_optimize_counts_if_the_config_has_the_chosen_options(tmp_path: Path) -> None:
    options = {"precision": "int4", "int4_block_size": 32, "extra_options.matmul_mixed_precision": None}
    row = {"name": "int4-block-32", "state": "measured", "options": options}
    others = [{"name": "int8", "state": "measured", "options": {}}, {"name": "fp32", "state": "skipped", "options": {}}]
    found = {"pass": "export", "rows": 60, "candidates": [row, *others], "chosen": "int4-block-32"}
    record(tmp_path / "gen-model/optimize/candidates.json", found)
    assert chosen(tmp_path) == ["optimize (2 candidates)"]
    record(tmp_path / "gen-model/optimize-other/candidates.json", {**found, "chosen": None})
    record(tmp_path / "gen-model/optimize-third/candidates.json", {**found, "pass": "gone"})
    assert chosen(tmp_path) == ["optimize (2 candidates)"]
