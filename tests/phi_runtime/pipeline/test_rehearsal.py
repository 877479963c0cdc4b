"""One real step on the longest batch, in a worker process: what it reports, and what it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.context import PassContext
from phi_runtime.core.errors import DataError, Interrupted, OutOfResources
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models.fetch import present
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.rehearsal import Rehearsal, rehearse, rehearse_apart
from phi_runtime.training.recomputation import Recomputation
from tests.conftest import Listener, MakeProject
from tests.phi_runtime.training.test_methods import train_with


def context_of(project: ProjectFolder, folder: Path, emit: Any) -> PassContext:
    workflow = load_workflow(project.config)
    source = present(workflow.input_model, project)
    assert source
    step = workflow.passes["finetune"]
    return PassContext("finetune", step, source, folder / "out", folder / "work", workflow, project, emit)


def lengthen(project: ProjectFolder, row: int) -> None:
    """Makes one row of the data the longest by far."""
    data = project.root / "datasets" / "train.jsonl"
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    rows[row]["phrase"] = " ".join([rows[row]["phrase"]] * 10)
    data.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def test_the_step_is_made_on_the_longest_rows(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(per_device_train_batch_size=2, gradient_accumulation_steps=3, max_steps=-1)
    lengthen(project, 17)
    listener = Listener()
    context = context_of(project, tmp_path / "work", listener)
    unpacked = context.config.model_copy(update={"packing": False, "eval_dataset_size": 0.0})
    done = rehearse(replace(context, config=unpacked))
    rows = listener.of("metric")[0]["rows"]
    assert done.batch[0] == 2
    assert done.batch[1] > 50
    assert done.peak_bytes
    assert done.peak_bytes > 0
    assert done.step_s > 0
    epochs = unpacked.training_args.num_train_epochs
    assert done.steps == epochs * -(-rows // 6)  # of 3 batches of 2 rows
    assert done.stage_s < done.step_s * done.steps, "most batches are shorter"


def test_apart_it_leaves_nothing_but_tokens_behind(make_project: MakeProject) -> None:
    project = make_project(method="full")
    listener = Listener()
    done = rehearse_apart(project, "finetune", None, listener)
    assert isinstance(done, Rehearsal)
    assert any(event.event == "metric" for event in listener), "events come through"
    left = {path.relative_to(project.gen_model).parts[0] for path in project.gen_model.rglob("*") if path.is_file()}
    assert {name for name in left if not name.startswith(".data")} <= {
        "README.md", "adapter", "merged", "onnx",
    }  # fmt: skip
    for name in ("adapter", "merged", "onnx"):
        assert [p.name for p in (project.gen_model / name).iterdir()] in ([], [".gitkeep"])
    assert not project.runs.exists()


@pytest.mark.parametrize("kind", ["LoRA", "IA3", "PEANuT"])
def test_the_step_computes_as_a_run_does_in_bfloat16_too(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("PHI_SCAFFOLD_BFLOAT16", "1")
    recomputing = []
    forward_pass = Recomputation.forward_pass
    monkeypatch.setattr(Recomputation, "forward_pass", lambda self: recomputing.append(self) or forward_pass(self))
    project = make_project()
    train_with(project, kind, torch_dtype="bfloat16")
    assert rehearse(context_of(project, tmp_path / "work", Listener())).dtype == "bfloat16"
    assert recomputing


def test_the_step_keeps_no_activations(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(passes={"finetune": {"layers": "upper-half", "activation_cache_gb": 1}})
    rehearse(context_of(project, tmp_path / "work", Listener()))
    assert not project.activation_cache.exists()


def test_what_the_step_raises_is_raised_here(make_project: MakeProject) -> None:
    project = make_project()
    data = project.root / "datasets" / "train.jsonl"
    data.write_text(data.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        rehearse_apart(project, "finetune", None, Listener())
    assert caught.value.where is not None
    assert str(caught.value.where).startswith(f"{data}:61:")
    assert caught.value.fix


def test_a_stop_before_the_worker_has_a_log_is_an_interruption(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phi_runtime.workers.process.Worker.__init__", interrupt)
    with pytest.raises(Interrupted):
        rehearse_apart(make_project(), "finetune", None, Listener())


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGKILL)", "raise MemoryError"])
def test_a_step_that_dies_of_memory_is_reported_with_what_to_set(make_project: MakeProject, how: str) -> None:
    project = make_project()
    project.config.with_name("hooks.py").write_text(f"import os, signal\n\ndef loss(output, batch):\n    {how}\n")
    with pytest.raises(OutOfResources) as caught:
        rehearse_apart(project, "finetune", None, Listener())
    assert caught.value.resource == "memory"
    assert "memory" in caught.value.what
    assert "per_device_train_batch_size" in caught.value.fix
