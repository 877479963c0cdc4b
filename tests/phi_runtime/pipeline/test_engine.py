"""A tiny Phi-3 through every pass: what is done is not done again, and what is interrupted goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.schema import canonical
from phi_runtime.core.artifacts import read_json, read_manifest, seal
from phi_runtime.core.errors import ConfigError, Interrupted, OutOfResources, UsageError, WorkFailed
from phi_runtime.core.events import Event
from phi_runtime.core.project import ProjectFolder
from phi_runtime.evaluation import comparison
from phi_runtime.evaluation.row_results import ROWS, read_rows
from phi_runtime.pipeline.engine import Outcome, run
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.plan import plan
from tests.conftest import Cli, Listener, MakeProject, edit_config, states, write_rows
from tests.factory import BASES


def whole_run(project: ProjectFolder) -> tuple[Outcome, Listener]:
    listener = Listener()
    return run(project, listener), listener


def test_a_run_brings_all_stages_up_to_date(make_project: MakeProject) -> None:
    project = make_project(per_device_eval_batch_size=4)
    assert states(project) == {
        "fetch": "cached",
        "finetune": "missing",
        "merge": "missing",
        "export": "missing",
        "evaluate": "missing",
    }
    outcome, listener = whole_run(project)
    assert outcome.done == ("finetune", "merge", "export", "evaluate")
    assert set(states(project).values()) == {"cached"}
    losses = [e["loss"] for e in listener.of("metric") if "loss" in e]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    for kind in ("adapter", "merged", "onnx"):
        assert (project.gen_model / kind / "prompt_template.json").is_file()
    assert not list((project.gen_model / ".work").iterdir())
    assert outcome.run_folder is not None
    assert {p.name for p in outcome.run_folder.iterdir()} == {
        "config-files",
        "config.json",
        "data_report.json",
        "environment.json",
        "evaluation",
        "metrics.jsonl",
        "resources.jsonl",
        "run.json",
        "stages.json",
    }
    recorded, current = (read_rows(at / "evaluation" / ROWS) for at in (outcome.run_folder, project.gen_model))
    assert recorded == current
    record = read_json(outcome.run_folder / "run.json")
    assert record["state"] == "done"
    assert {name: output["state"] for name, output in record["outputs"].items()} == {
        "fetch": "cached",
        "finetune": "done",
        "merge": "done",
        "export": "done",
        "evaluate": "done",
    }
    adapter = read_manifest(project.gen_model / "adapter")
    assert adapter is not None
    assert record["outputs"]["finetune"]["content"] == adapter.content
    assert record["outputs"]["finetune"]["facts"]["torch_threads"] == 1


def test_the_models_of_a_run_are_compared_on_the_test_rows(trained_project: MakeProject, cli: Cli) -> None:
    evaluation = cli("evaluate", "--json", "--project", trained_project().root).json
    assert [model["name"] for model in evaluation["models"]] == [*BASES, "adapter", "merged", "onnx-int4"]
    assert evaluation["rows"] == 12
    for model in evaluation["models"]:
        assert 0 <= model["metrics"]["accuracy"] <= 1
        assert model["perplexity"] > 1
        assert model["decode_tokens_per_s"] > 0
        assert model["size_bytes"] > 0
    base, *_, adapter, merged, _ = evaluation["models"]
    assert adapter["perplexity"] < base["perplexity"]
    assert merged["perplexity"] == pytest.approx(adapter["perplexity"], rel=1e-3)


def test_metrics_of_the_project_are_computed_from_the_measured_rows(
    trained_project: MakeProject, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = trained_project()
    before = cli("evaluate", "--json", "--project", project.root).json
    monkeypatch.setattr(comparison, "evaluate", None)  # nothing is measured again
    path = project.config.with_name("evaluation.json")
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "cost": {"joy->fear": 3}, "combined": {"s": {"mean_cost": -2}}}))
    assert states(project)["evaluate"] == "stale"
    found = cli("evaluate", "--json", "--project", project.root).json
    assert found["own_metrics"] == ["mean_cost", "s"]
    for model, old in zip(found["models"], before["models"], strict=True):
        assert model["metrics"]["s"] == -2 * model["metrics"]["mean_cost"]
        assert model["decode_tokens_per_s"] == old["decode_tokens_per_s"]
        assert old["metrics"].items() < model["metrics"].items()
    path.write_text(json.dumps(settings))
    assert cli("evaluate", "--json", "--project", project.root).json == before


def test_a_second_run_changes_no_file(trained_project: MakeProject, cli: Cli) -> None:
    project = trained_project()

    def times() -> dict[Path, int]:
        files = (p for p in project.gen_model.rglob("*") if p.is_file() and p.name != ".run.lock")
        return {path: path.stat().st_mtime_ns for path in files}

    evaluation = cli("evaluate", "--json", "--project", project.root).json  # writes the cards and the report
    initial = times()
    for part in (evaluation, *evaluation["trainings"]):
        del part["verdict"]  # which the command adds
    again, _ = whole_run(project)
    assert again.done == ()
    assert again.evaluation == evaluation
    assert times() == initial
    assert "Nothing to do" in cli("run", "--project", project.root).out


def test_a_model_of_a_run_answers_by_its_name(trained_project: MakeProject, cli: Cli) -> None:
    arguments = ("generate", "--prompt", "a lovely party", "--project", trained_project().root)
    answer = cli(*arguments, "--model", "onnx", "--max-new-tokens", "4", "--json").json
    assert answer["prompt"] == "### Text: a lovely party\n### The tone is:\n"
    assert cli(*arguments, "--model", "adaptr").code == 2


def test_test_rows_that_are_split_off_train_again_and_a_file_of_them_is_only_measured_again(
    trained_project: MakeProject,
) -> None:
    project = trained_project()
    step = load_workflow(project.config).trainings["finetune"]
    assert not {"test_dataset_size", "test_data_config"} & set(canonical(step))
    train = load_workflow(project.config).data_config(step.train_data_config)
    assert "group_by" not in canonical(train)["pre_process_data_config"]

    def add_file(config: dict[str, Any]) -> None:
        config["data_configs"].append({**config["data_configs"][0], "name": "final"})
        config["passes"]["finetune"]["test_data_config"] = "final"

    edit_config(project, add_file)
    assert states(project)["finetune"] == "cached"
    assert states(project)["evaluate"] == "stale"
    edit_config(project, lambda c: c["passes"]["finetune"].pop("test_data_config"))
    assert set(states(project).values()) == {"cached"}
    edit_config(project, lambda c: c["passes"]["finetune"].update(test_dataset_size=0.1))
    assert states(project)["finetune"] == "stale"


def test_a_cached_run_loads_no_torch(make_project: MakeProject) -> None:
    project = make_project()
    run(project, Listener(), until="merge")
    program = (
        "import sys; from phi_scaffold.cli.app import command_line\n"
        "try: command_line()()\nexcept SystemExit: assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, "run", "--until", "merge"]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stdout


def test_what_changed_makes_its_stage_and_those_after_it_stale_and_is_named(make_project: MakeProject) -> None:
    project = make_project()
    run(project, Listener(), until="merge")
    edit_config(project, lambda c: c["passes"]["finetune"].update(alpha=8))
    stages = {s.name: s for s in plan(load_workflow(project.config), project)}
    assert (stages["finetune"].state, stages["finetune"].why) == ("stale", "alpha: 32.0 → 8.0")
    assert (stages["merge"].state, stages["merge"].why) == ("stale", "its input is out of date")
    assert (stages["export"].state, stages["export"].why) == ("missing", "its input does not exist yet")
    edit_config(project, lambda c: c["passes"]["finetune"].update(alpha=32))
    assert states(project)["merge"] == "cached"

    write_rows(project.root / "datasets" / "train.jsonl", 64)
    stages = {s.name: s for s in plan(load_workflow(project.config), project)}
    assert stages["finetune"].why == "the data changed"


def test_another_precision_redoes_the_export_alone_and_fp32_answers_as_the_merged_model(
    make_project: MakeProject,
) -> None:
    project = make_project(max_steps=20)
    run(project, Listener(), until="export")
    edit_config(project, lambda c: c["passes"]["export"].update(precision="fp32"))
    outcome, _ = whole_run(project)
    assert outcome.done == ("export", "evaluate")
    manifest = read_manifest(project.gen_model / "onnx")
    assert manifest is not None
    assert manifest.facts["precision"] == "fp32"
    rows = read_rows(project.gen_model / "evaluation" / "rows.jsonl")
    assert all(row.models["merged"].answer == row.models["onnx-fp32"].answer for row in rows)
    assert outcome.evaluation is not None
    *_, merged, onnx = outcome.evaluation["models"]
    assert onnx["perplexity"] == pytest.approx(merged["perplexity"], rel=1e-3)


def test_full_fine_tuning_trains_all_weights_and_needs_no_merge(make_project: MakeProject) -> None:
    project = make_project(method="full", learning_rate=0.001)
    listener = Listener()
    outcome = run(project, listener)
    assert outcome.done == ("finetune", "export", "evaluate")
    assert (project.gen_model / "merged" / "config.json").is_file()
    assert outcome.evaluation is not None
    base, *_, tuned, _ = outcome.evaluation["models"]
    assert tuned["name"] == "finetuned"
    assert tuned["perplexity"] < base["perplexity"]


def test_qlora_trains_over_a_4_bit_base_and_merges_into_the_full_one(make_project: MakeProject) -> None:
    pytest.importorskip("bitsandbytes")
    project = make_project(method="qlora", eval_steps=2)
    listener = Listener()
    run(project, listener, until="merge")
    losses = [e["loss"] for e in listener.of("metric") if "loss" in e]
    assert losses[-1] < losses[0]
    config = json.loads((project.gen_model / "merged" / "config.json").read_text())
    assert "quantization_config" not in config


def test_two_runs_at_once_are_refused(make_project: MakeProject, cli: Cli) -> None:
    from phi_runtime.core.locks import exclusive

    project = make_project()
    with exclusive(project.run_lock):
        result = cli("run", "--project", project.root)
    assert result.code == 6
    assert "another run is active" in result.err


@pytest.mark.parametrize("key", ["target_modules", "modules_to_save"])
def test_wrong_modules_are_answered_with_the_real_ones_before_anything_is_loaded(
    make_project: MakeProject, key: str
) -> None:
    project = make_project(passes={"finetune": {key: ["q_proj"]}})
    with pytest.raises(ConfigError, match=r"olive-config\.json:\d+:\d+: .*it has down_proj, .*qkv_proj"):
        run(project, Listener())
    assert not project.runs.exists()


def test_a_full_disk_is_said_and_loses_nothing(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from phi_runtime.passes.merge_adapter_weights import MergeAdapterWeights

    project = make_project()
    run(project, Listener(), until="finetune")

    def full(*_: object) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(MergeAdapterWeights, "run", full)
        with pytest.raises(OutOfResources) as caught:
            run(project, Listener())
    assert caught.value.exit_code == 8
    assert states(project)["finetune"] == "cached"
    assert states(project)["merge"] == "failed"
    run(project, Listener(), until="merge")
    assert states(project)["merge"] == "cached"


def test_a_killed_deletion_of_the_base_leaves_no_part_that_counts_as_the_users_model(
    make_project: MakeProject, tiny_phi3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    base = project.model_cache / "org" / "tiny"
    shutil.copytree(tiny_phi3, base)
    seal(base, key="", kind="hf", facts={"source": "hub:org/tiny"})
    edit_config(project, lambda config: config["input_model"].update(model_path="../model-cache/org/tiny"))
    delete = shutil.rmtree

    def killed(folder: Path, **options: Any) -> None:
        if (folder / "manifest.json").is_file():
            (folder / "manifest.json").unlink()
            raise KeyboardInterrupt
        delete(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Interrupted):
        run(project, Listener(), only=["fetch"], force=["fetch"])
    assert states(project)["fetch"] == "missing"


def test_a_stage_that_dies_leaves_its_traceback_in_a_file_and_one_line_for_the_user(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi_runtime.passes.lora import LoRA

    def die(*_: object) -> dict[str, Any]:
        raise RuntimeError("shape mismatch\nand more")

    monkeypatch.setattr(LoRA, "run", die)
    project = make_project()
    with pytest.raises(WorkFailed, match=r"`finetune` failed: RuntimeError: shape mismatch$") as caught:
        run(project, Listener())
    log = Path(caught.value.fix.partition("log: ")[2])
    assert "Traceback" in log.read_text()


def test_a_reader_that_goes_away_stops_the_run_and_is_no_failure(make_project: MakeProject) -> None:
    def emit(event: Event) -> None:
        if event.event == "progress":
            raise BrokenPipeError

    project = make_project()
    with pytest.raises(Interrupted):
        run(project, emit)
    assert states(project)["finetune"] == "missing"


def test_an_unknown_stage_is_refused_before_anything_runs(make_project: MakeProject) -> None:
    project = make_project()
    for wrong in ({"only": ["finetun"]}, {"until": "finetun"}, {"force": ["finetun"]}):
        with pytest.raises(UsageError, match="did you mean `finetune`"):
            run(project, Listener(), **wrong)  # type: ignore[arg-type]


def test_dry_run_tells_and_does_nothing(make_project: MakeProject, cli: Cli) -> None:
    project = make_project()
    rows = cli("run", "--dry-run", "--no-step", "--json", "--project", project.root).json["stages"]
    assert [(r["name"], r["would_run"]) for r in rows] == [
        ("fetch", False), ("finetune", True), ("merge", True), ("export", True), ("evaluate", True),
    ]  # fmt: skip
    assert states(project)["finetune"] == "missing"
