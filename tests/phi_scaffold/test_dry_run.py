"""`run --dry-run`: the plan with what it takes, one step that is tried, and nothing made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.artifacts import write_json
from phi_runtime.pipeline.artifact import work_folder
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.plan import plan
from phi_runtime.training import forecast
from tests.conftest import Cli, MakeProject, edit_config, states
from tests.phi_scaffold.test_cli import imported


def test_a_dry_run_estimates_what_would_be_trained_and_tries_a_step(make_project: MakeProject, cli: Cli) -> None:
    project = make_project()
    result = cli("run", "--dry-run", "--json", "--project", project.root).json
    assert [s["name"] for s in result["stages"]] == ["fetch", "finetune", "merge", "export", "evaluate"]
    (estimate,) = result["estimates"]
    assert estimate["stage"] == "finetune"
    assert estimate["fits"] is True
    assert estimate["row_tokens_known"]  # the step has tokenized the rows
    assert estimate["total_bytes"] == sum(
        estimate[f"{part}_bytes"]
        for part in ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "fixed")
    )
    (step,) = result["steps"]
    assert step["stage"] == "finetune"
    assert step["steps"] == 8
    assert step["batch"][0] > 0
    assert step["peak_bytes"] > 0
    assert set(result["disk"]) >= {"fetch_bytes", "finetune_bytes", "merge_bytes", "export_bytes", "free_bytes"}
    assert states(project)["finetune"] == "missing"


def test_a_person_is_told_the_same(make_project: MakeProject, cli: Cli) -> None:
    project = make_project()
    result = cli("run", "--dry-run", "--project", project.root)
    assert result.code == 0
    assert "finetune: about" in result.out
    assert "it fits" in result.out
    assert "a step on the longest batch" in result.out
    assert "8 steps take about" in result.out
    assert "Checkpoints take up to" in result.out


@pytest.mark.parametrize("command", [("run", "--dry-run", "--no-step"), ("status",)], ids=" ".join)
def test_a_failure_is_shown_as_it_was_written(make_project: MakeProject, cli: Cli, command: tuple[str, ...]) -> None:
    project = make_project()
    stage = next(stage for stage in plan(load_workflow(project.config), project) if stage.name == "finetune")
    folder = work_folder(project, stage)
    folder.mkdir(parents=True)
    write_json(folder / "failed.json", {"message": "no {q} in [INST] [/INST]"})
    result = cli(*command, "--project", project.root)
    assert result.code == 0, result.err
    assert "no {q} in [INST] [/INST]" in result.out


def test_without_a_step_or_with_nothing_to_train_no_ml_library_is_imported(make_project: MakeProject, cli: Cli) -> None:
    project = make_project(max_steps=1)
    heavy = {"torch", "transformers", "peft"}
    arguments = ["run", "--dry-run", "--project", str(project.root)]
    assert not imported([*arguments, "--no-step"], project.root) & heavy
    assert cli("run", "--until", "merge", "--project", project.root).code == 0
    assert not imported([*arguments, "--until", "merge"], project.root) & heavy
    result = cli(*arguments, "--until", "merge", "--json").json
    assert not any(s["would_run"] for s in result["stages"])
    assert (result["estimates"], result["steps"]) == ([], [])


def test_what_does_not_fit_is_said_with_what_to_set_and_no_step_is_tried(
    make_project: MakeProject, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    (needed,) = cli("run", "--dry-run", "--no-step", "--json", "--project", project.root).json["estimates"]
    monkeypatch.setattr(forecast, "available_bytes", lambda: needed["total_bytes"] - 1)
    result = cli("run", "--dry-run", "--project", project.root)
    assert result.code == 0
    assert "not likely to fit; set passes.finetune.training_args.per_device_train_batch_size to" in result.out
    assert "no step was tried" in result.out


def test_a_model_that_is_not_fetched_is_estimated_from_the_catalogue(make_project: MakeProject, cli: Cli) -> None:
    project = make_project()
    name = "../model-cache/microsoft/Phi-3-mini-4k-instruct"
    edit_config(project, lambda config: config["input_model"].update(model_path=name))
    result = cli("run", "--dry-run", "--json", "--project", project.root).json
    (estimate,) = result["estimates"]
    assert estimate["weights_bytes"] in (2 * 3_821_079_552, 4 * 3_821_079_552)
    assert "not downloaded" in result["steps"][0]["skipped"]

    edit_config(project, lambda config: config["input_model"].update(model_path="../model-cache/org/unknown"))
    result = cli("run", "--dry-run", "--project", project.root)
    assert result.code == 0
    assert "no estimate" in result.out


def test_models_tells_what_would_fit(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from phi_scaffold.new import fit

    monkeypatch.setattr(fit, "gpus", tuple)
    monkeypatch.setattr(fit, "memory_bytes", lambda: 9 * 10**9)
    result = cli("models", "microsoft/Phi-3-mini-4k-instruct", "--json").json
    (mini,) = result["models"]
    assert result["device"] == "cpu"
    assert mini["fits"] == {"lora": False, "qlora": True, "full": False, "int4_inference": True}
    assert mini["max_row_tokens"]["lora"] == mini["max_row_tokens"]["full"] == 0
    assert mini["max_row_tokens"]["qlora"] >= 2048
    assert mini["memory"]["qlora"]["total_bytes"] == mini["qlora_bytes"]
    said = cli("models", "microsoft/Phi-3-mini-4k-instruct").out
    assert "does not fit; no row is short enough" in said
    assert "rows of up to" in said


def test_the_models_are_listed_for_this_machine_without_an_ml_library(cli: Cli, tmp_path: Path) -> None:
    assert not imported(["models", "smollm2-135m"], tmp_path) & {"torch", "transformers", "numpy"}
    assert "fits this" in cli("models").out


def test_memory_and_time_of_a_calibration_are_estimated(make_project: MakeProject, cli: Cli) -> None:
    project = make_project()
    name = "../model-cache/microsoft/Phi-3-mini-4k-instruct"

    def change(config: dict[str, Any]) -> None:
        config["input_model"].update(model_path=name)
        config["passes"]["export"].update(int4_algo_config="gptq", int4_calibration={"tokens": 4096})

    arguments = ("run", "--dry-run", "--no-step", "--project", project.root)
    assert "calibrate" not in cli(*arguments).out
    edit_config(project, change)
    (calibration,) = cli(*arguments, "--json").json["calibrations"]
    assert (calibration["stage"], calibration["tokens"]) == ("export", 4096)
    assert 2 * 3.8e9 < calibration["total_bytes"] < 4 * 3.8e9  # the model in bfloat16, and one layer at a time
    assert calibration["seconds"] > 600
    assert "to calibrate the weights on up to 4,096 tokens, in roughly" in cli(*arguments).out
