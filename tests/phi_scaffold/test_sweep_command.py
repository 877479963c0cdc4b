"""`phi-scaffold sweep` as a user meets it."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.search.sweep.outcome import seed_spread
from phi_runtime.search.sweep.trial import TrialSettings
from phi_scaffold.show.sweep import _chance, short_names, values_text
from tests.conftest import Cli, MakeProject

pytest.importorskip("optuna")

RATE = "training_args.learning_rate"


def write_sweep(project: ProjectFolder, *rates: float, **space: Any) -> None:
    space = {RATE: {"type": "choice", "values": list(rates)}, **space}
    text = json.dumps({"search_strategy": {"type": "grid", "pruner": "none"}, "search_space": space})
    (project.config.parent / "sweep.yaml").write_text(text, encoding="utf-8")


def test_the_trials_are_shown_with_the_spread_over_seeds_where_it_was_measured(make_project: MakeProject) -> None:
    project = make_project()
    workflow = load_workflow(project.config)
    settings = TrialSettings(project, project.gen_model / "sweep", "finetune", "accuracy")
    assert seed_spread(workflow, settings) is None
    spread = {"values": [0.95, 0.9, 0.98], "mean": 0.94, "min": 0.9, "max": 0.98, "standard_deviation": 0.04}
    models = [{"name": "adapter", "metrics": {"accuracy": 0.95}, "interval": None, "seeds": spread}]
    content = {"task": "classification", "rows_of": "test", "models": models}
    folder = project.gen_model / "evaluation"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    found = seed_spread(workflow, settings)
    assert found == ([0.95, 0.9, 0.98], "test")
    assert _chance("accuracy", found).startswith("3 seeds of the same values: accuracy 0.9000 to 0.9800 (test rows).")
    assert seed_spread(workflow, replace(settings, metric="validation_loss")) is None
    models[0]["seeds"] = None
    (folder / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    assert seed_spread(workflow, settings) is None


def test_a_search_is_shown_and_told_to_machines(make_project: MakeProject, cli: Cli) -> None:
    project = make_project(max_steps=1)
    write_sweep(project, 1e-6, 0.02)
    at = ("--project", project.root)

    planned = cli("sweep", "--dry-run", *at)
    assert "study-1 (new): 2 trials to run, sampler grid, metric validation_loss" in planned.out
    assert "passes.finetune.training_args.learning_rate  1e-06, 0.02" in planned.out
    assert not (project.gen_model / "sweep").exists()

    done = cli("sweep", "--jobs", "0", *at)
    assert done.code == 0, done.err
    assert "trial 0: learning_rate=1e-06" in done.err
    assert "[2/2] trial 1: validation loss" in done.err
    assert "best" in done.out
    best = project.config.with_name("olive-config.best.json")
    assert f"phi-scaffold run {shlex.join(['--project', str(project.root), '--config', str(best)])}\n" in done.out
    assert "ptuna" not in done.err + done.out
    assert "Each trial has one seed: `phi-scaffold evaluate --seeds 3` shows" in done.out

    result = cli("sweep", "--json", "--jobs", "0", *at).json
    assert set(result) >= {"study", "trials", "best", "importances"}
    assert result["study"] == "study-1"
    assert [t["values"] for t in result["trials"]] == [{RATE: 1e-6}, {RATE: 0.02}]
    assert all(t["state"] == "complete" and t["score"] > 0 and t["wall_s"] > 0 for t in result["trials"])
    assert result["best"]["config"] == "fine-tuning/olive-config.best.json"
    assert result["best"]["model"] == f"gen-model/sweep/study-1/trial-{result['best']['number']:04d}/adapter"
    assert cli("validate", project.config.with_name("olive-config.best.json")).code == 0
    assert cli("run", "--dry-run", "--config", project.config.with_name("olive-config.best.json")).code == 0

    planned = cli("sweep", "--dry-run", "--json", *at).json
    assert (planned["trials_done"], planned["trials_to_run"], planned["new"]) == (2, 0, False)
    write_sweep(project, 1e-6, 0.02, 0.03)
    planned = cli("sweep", "--dry-run", *at)
    assert "study-2 (new: values: [1e-06, 0.02] → [1e-06, 0.02, 0.03]): 3 trials to run" in planned.out


def test_config_accepts_a_file_that_holds_only_a_search(make_project: MakeProject, cli: Cli) -> None:
    project = make_project()
    write_sweep(project, 0.01)
    file = project.root.parent / "hyperparameter-search.yaml"
    file.write_text(
        "search_strategy: {type: random, num_trials: 20}\n"
        "search_space:\n"
        "  learning_rate: {type: float, low: 1e-6, high: 1e-3, log: true}\n"
        "  lora_r: {type: int, low: 8, high: 64}\n"
    )
    planned = cli("sweep", "--config", file, "--dry-run", "--json", "--project", project.root).json
    assert set(planned["search_space"]) == {f"passes.finetune.{RATE}", "passes.finetune.r"}
    assert (planned["sampler"], planned["trials_to_run"]) == ("random", 20)
    file.write_text(file.read_text().replace("lora_r", "lora_rr"))
    wrong = cli("sweep", "--config", file, "--dry-run", "--project", project.root)
    assert wrong.code == 3
    assert "hyperparameter-search.yaml:4:" in wrong.err


def test_what_is_missing_or_wrong_is_said_with_what_to_do(make_project: MakeProject, cli: Cli) -> None:
    project = make_project()
    at = ("--project", project.root)
    write_sweep(project, 0.01, rr={"type": "choice", "values": [1]})
    wrong = cli("sweep", *at)
    assert wrong.code == 3
    assert "sweep.yaml:1:" in wrong.err
    assert "unknown key `rr`" in wrong.err

    write_sweep(project, 0.01)
    assert "did you mean `accuracy`" in cli("sweep", "--metric", "acuracy", *at).err
    many = cli("sweep", "--jobs", "9999", *at)
    assert many.code == 2
    assert "--jobs 9999 exceeds the" in many.err

    (project.config.parent / "sweep.yaml").unlink()
    missing = cli("sweep", *at)
    assert missing.code == 3
    assert "the config has no search" in missing.err
    assert "search_space:" in missing.err


def test_without_the_library_the_line_that_brings_it_is_told(
    make_project: MakeProject, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    monkeypatch.setitem(sys.modules, "optuna", None)
    absent = cli("sweep", "--project", project.root)
    assert absent.code == 5
    assert "setup.sh --with sweep" in absent.err


@pytest.mark.slow
def test_ctrl_c_saves_what_the_workers_have_and_the_next_sweep_goes_on(make_project: MakeProject, cli: Cli) -> None:
    project = make_project(max_steps=300, save_steps=10)  # seconds between the first checkpoint and the end
    write_sweep(project, 0.01)
    process = subprocess.Popen(
        [sys.executable, "-m", "phi_scaffold", "sweep", "--jobs", "1"],
        cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    trial = project.gen_model / "sweep" / "study-1" / "trial-0000"
    while process.poll() is None and not list(trial.glob(".work/*/checkpoints/checkpoint-*/manifest.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "stopped after 0 of 1 trials" in err
    assert "Traceback" not in err
    assert "Traceback" not in (trial / "runs" / "worker.log").read_text()
    (saved,) = trial.glob(".work/*/checkpoints/checkpoint-*")
    step = int(saved.name.rpartition("-")[2])
    assert 0 < step < 300

    result = cli("sweep", "--json", "--jobs", "0", "--project", project.root).json
    assert [t["state"] for t in result["trials"]] == ["complete"]
    steps = [json.loads(line) for path in sorted(trial.glob("runs/*/metrics.jsonl")) for line in path.open()]
    assert [m["step"] for m in steps if "loss" in m] == list(range(1, 301))


def test_values_are_named_as_short_as_they_can_be_told_apart() -> None:
    assert short_names([RATE, "r"]) == ["learning_rate", "r"]
    assert short_names(["passes.a.r", "passes.b.r", "alpha"]) == ["passes.a.r", "passes.b.r", "alpha"]
    assert values_text({RATE: 0.00031234, "target_modules": ["a"], "optim": "sgd"}) == (
        'learning_rate=0.0003123 target_modules=["a"] optim=sgd'
    )
