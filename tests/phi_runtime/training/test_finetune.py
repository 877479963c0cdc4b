"""Complete training runs: the state that is kept, early stopping, and the user's own functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.errors import ConfigError, DataError, WorkFailed
from phi_runtime.core.project import ProjectFolder
from phi_runtime.hardware import busy_cores
from phi_runtime.pipeline.engine import run
from tests.conftest import Listener, MakeProject, edit_config, states, weights

# Constant, so that a run of fewer steps is the beginning of a longer one.
STEADY = {"lr_scheduler_type": "constant", "warmup_steps": 0, "eval_strategy": "steps", "eval_steps": 1}


def trained(project: ProjectFolder) -> tuple[dict[str, Any], Listener]:
    """Train, and return the facts of the adapter's manifest."""
    listener = Listener()
    run(project, listener, until="finetune")
    manifest = read_manifest(project.gen_model / "adapter")
    assert manifest is not None
    return manifest.facts, listener


def hooks(project: ProjectFolder, text: str) -> None:
    (project.config.parent / "hooks.py").write_text(text, encoding="utf-8")


def test_the_best_state_is_kept_and_is_that_of_a_run_of_as_many_steps(make_project: MakeProject) -> None:
    # So high a learning rate spoils the model in the third step, on every CPU; later steps depend on how sums are rounded.
    facts, listener = trained(
        make_project("long", max_steps=3, learning_rate=0.1, load_best_model_at_end=True, **STEADY)
    )
    assert facts["steps"] == 3
    losses = [e["validation_loss"] for e in listener.of("metric") if "validation_loss" in e]
    assert facts["validation_loss"] == min(losses)
    best = facts["best_step"]
    assert best == losses.index(min(losses)) + 1 < 3
    assert any(f"keeping the best state: step {best} of" in e.get("message", "") for e in listener.of("progress"))
    short = make_project("short", max_steps=best, learning_rate=0.1, **STEADY)
    trained(short)
    long = short.root.parent / "long" / "gen-model" / "adapter"
    assert weights(long) == weights(short.gen_model / "adapter")


def test_a_busy_core_is_reported_and_recorded(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load is made up here; `tests/phi_runtime/hardware/test_busy_cores.py` measures a real one."""
    import torch

    others = iter(
        range(0, 2_000, 2)
    )  # CPU seconds of other programs: both cores, however short the time between two looks
    for name in (busy_cores.CORES, busy_cores.OMP_THREADS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(busy_cores, "usable_cores", lambda: 2)
    monkeypatch.setattr(busy_cores, "_EVERY_S", 0.0)
    monkeypatch.setattr(busy_cores, "_probe", lambda: lambda: (1e6 * next(others), 0.0, 2))
    monkeypatch.setattr("phi_runtime.hardware.device.usable_cores", lambda: 2)
    before = torch.get_num_threads()
    try:
        facts, listener = trained(make_project(max_steps=2))
    finally:
        torch.set_num_threads(before)
    assert (facts["torch_threads"], facts["fewest_threads"]) == (2, 1)
    lines = [e["message"] for e in listener.of("progress") if "other programs use" in e.get("message", "")]
    assert len(lines) == 1


def test_training_stops_without_progress(make_project: MakeProject) -> None:
    patience = {"finetune": {"early_stopping_patience": 2}}
    facts, listener = trained(make_project(passes=patience, max_steps=40, learning_rate=0.3, **STEADY))
    losses = [e["validation_loss"] for e in listener.of("metric") if "validation_loss" in e]
    assert facts["steps"] == facts["best_step"] + 2 == len(losses) < 40
    assert facts["validation_loss"] == min(losses)
    shown = [(e["validation_step"], e["validation_loss"]) for e in listener.of("progress") if "validation_loss" in e]
    assert shown == list(enumerate(losses, 1))[:-1]  # a step is shown before its own evaluation


def test_a_run_that_stopped_early_does_not_continue_when_it_is_resumed(make_project: MakeProject) -> None:
    patience = {"finetune": {"early_stopping_patience": 2}}
    project = make_project(passes=patience, max_steps=40, learning_rate=0.3, **STEADY)
    work = project.gen_model / ".work"
    kept: list[Path] = []

    def keep_work_folder(event: Any) -> None:
        """Keep the folder as a kill between the last step and the end of the stage leaves it."""
        if event.event == "progress" and "keeping the best state" in event.data.get("message", ""):
            kept.extend(p.rename(p.with_name("kept")) for p in work.glob("finetune-*"))
            raise KeyboardInterrupt

    with pytest.raises(BaseException, match="stopped"):
        run(project, keep_work_folder, until="finetune")
    facts, _ = trained(project)
    before = weights(project.gen_model / "adapter")
    (project.gen_model / "adapter" / "manifest.json").unlink()
    name = next(work.parent.glob(".work"))
    kept[0].rename(name / _work_name(project))
    again, listener = trained(project)
    assert not [e for e in listener.of("progress") if e.get("unit") == "steps"]
    assert again["steps"] == facts["steps"]
    assert weights(project.gen_model / "adapter") == before


def _work_name(project: ProjectFolder) -> str:
    from phi_runtime.pipeline.artifact import work_folder
    from phi_runtime.pipeline.load import load_workflow
    from phi_runtime.pipeline.plan import plan

    stage = next(s for s in plan(load_workflow(project.config), project) if s.name == "finetune")
    return work_folder(project, stage).name


def test_the_best_state_can_be_that_of_the_best_answers(make_project: MakeProject) -> None:
    settings = {
        "max_steps": 10,
        "learning_rate": 0.03,
        "metric_for_best_model": "accuracy",
        "load_best_model_at_end": True,
    }
    facts, listener = trained(make_project(**settings, **STEADY | {"eval_steps": 2}))
    scores = [e["validation_accuracy"] for e in listener.of("metric") if "validation_accuracy" in e]
    assert len(scores) == 5
    assert facts["best_step"] == 2 * scores.index(max(scores)) + 2


def test_an_unknown_metric_is_an_error_that_lists_the_known_ones(make_project: MakeProject) -> None:
    project = make_project(max_steps=4, metric_for_best_model="acuracy", load_best_model_at_end=True, **STEADY)
    with pytest.raises(ConfigError, match="did you mean `accuracy`") as caught:
        run(project, Listener(), until="finetune")
    assert "accuracy" in caught.value.fix


METRICS = """
def metrics(predictions, references):
    return {"length": sum(map(len, predictions)) / len(predictions), "rows": len(references)}
"""


def test_the_users_metrics_are_measured_with_the_validation_loss(make_project: MakeProject) -> None:
    project = make_project(max_steps=2, **STEADY)
    hooks(project, METRICS)
    _, listener = trained(project)
    measured = [e for e in listener.of("metric") if "validation_length" in e]
    assert [e["step"] for e in measured] == [1, 2]
    assert measured[0]["validation_rows"] == 12
    assert states(project)["finetune"] == "cached"
    hooks(project, METRICS + "\n# another day\n")
    assert states(project)["finetune"] == "stale"


EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def test_the_contrastive_loss_of_the_docs_spreads_the_representations(make_project: MakeProject) -> None:
    """SimCTG's loss (https://arxiv.org/abs/2202.06417) exists to make the hidden states of tokens less alike."""
    import torch

    from phi_runtime.models.fetch import present
    from phi_runtime.models.load import load_reference, load_tokenizer
    from phi_runtime.models.reference import ModelRef
    from phi_runtime.pipeline.load import load_workflow

    alike = {}
    for name in ("plain", "contrastive"):
        project = make_project(name, max_steps=20, learning_rate=0.01)
        if name == "contrastive":
            hooks(project, (EXAMPLES / "contrastive_hooks.py").read_text(encoding="utf-8"))
        trained(project)
        base = present(load_workflow(project.config).input_model, project)
        assert base is not None
        ref = ModelRef(project.gen_model / "adapter", "adapter", "", base)
        text = "### Text: a lovely party 4\n### The tone is:\njoy"
        ids = load_tokenizer(base)(text, return_tensors="pt").input_ids
        with torch.no_grad():
            states_ = load_reference(ref, torch.float32)(ids, output_hidden_states=True).hidden_states[-1][0]  # (T, H)
        unit = torch.nn.functional.normalize(states_, dim=-1)
        alike[name] = float((unit @ unit.T).fill_diagonal_(0).mean())
    assert alike["contrastive"] < alike["plain"]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("def loss(output, batch):\n    return 3\n", DataError, "loss returned int"),
        ("def loss(output, batch):\n    return output.logits\n", DataError, "loss returned (4, "),
        ("def loss(output, batch):\n    return output.logit.sum()\n", DataError, "hooks.py:2"),
        ("def metrics(predictions, references):\n    return 0.5\n", DataError, "metrics returned 0.5"),
        ("def metrics(predictions):\n    return {}\n", DataError, "metrics failed: TypeError"),
        ("loss = 3\n", DataError, "not a function"),
        (
            "def loss(output, batch):\n    return output.logits.sum() * float('nan')\n",
            WorkFailed,
            "not finite in 3 steps in a row",
        ),
    ],
)
def test_errors_in_the_users_functions_name_the_function_or_line(
    make_project: MakeProject, text: str, error: type[Exception], said: str
) -> None:
    project = make_project(max_steps=6, **STEADY)
    hooks(project, text)
    with pytest.raises(error) as caught:
        run(project, Listener(), until="finetune")
    assert said in str(caught.value)


def test_rows_with_a_non_finite_gradient_are_named_by_file_and_line(make_project: MakeProject) -> None:
    project = make_project(max_steps=6, per_device_train_batch_size=2)
    hooks(project, "def loss(output, batch):\n    return output.logits.sum() * float('nan')\n")
    with pytest.raises(WorkFailed) as caught:
        run(project, Listener(), until="finetune")
    assert str(caught.value).count("train.jsonl:") == 2


def test_a_pass_without_validation_rows_cannot_stop_early(make_project: MakeProject) -> None:
    project = make_project(passes={"finetune": {"early_stopping_patience": 2, "eval_dataset_size": 0}})
    with pytest.raises(ConfigError):
        run(project, Listener(), until="finetune")
    edit_config(project, lambda c: c["passes"]["finetune"].pop("early_stopping_patience"))
    facts, _ = trained(project)
    assert facts["validation_loss"] is None
    assert json.loads((project.gen_model / "adapter" / "manifest.json").read_text())["facts"]["best_step"] is None
