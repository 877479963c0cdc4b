"""Outputs that are deleted to save space: what was built from them stays valid, and works."""

from __future__ import annotations

import shutil

import pytest

from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.inference.generator import SamplingParams
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.session import open_session
from tests.conftest import Listener, MakeProject, edit_config, states


@pytest.fixture
def project(trained_project: MakeProject) -> ProjectFolder:
    """A finished project whose merged model is deleted."""
    project = trained_project()
    shutil.rmtree(project.gen_model / "merged")
    return project


def test_a_run_does_not_rebuild_what_nothing_needs(project: ProjectFolder) -> None:
    assert states(project) == {
        "fetch": "cached", "finetune": "cached", "merge": "deleted", "export": "cached", "evaluate": "cached",
    }  # fmt: skip
    outcome = run(project, listener := Listener())
    assert outcome.done == ()
    assert [e["state"] for e in listener.of("stage-finished")] == ["cached", "cached", "deleted", "cached", "cached"]
    assert outcome.evaluation is not None
    assert not (project.gen_model / "merged").exists()


def test_the_onnx_model_answers_without_the_models_that_it_was_built_from(project: ProjectFolder) -> None:
    for deleted in ("merged", "adapter", ".outputs"):  # the last is absent in projects of older versions
        shutil.rmtree(project.gen_model / deleted, ignore_errors=True)
        session = open_session(project, "onnx")
        assert session.path == project.gen_model / "onnx"
        assert "".join(piece.text for piece in session.answer("we won", SamplingParams(max_new_tokens=4)))
    assert open_session(project, None).name == "onnx"
    with pytest.raises(UsageError, match="there is no model `merged`") as missing:
        open_session(project, "merged")
    assert missing.value.fix == "choose one of base, onnx (export); `phi-scaffold run` builds the others"


def test_the_onnx_model_of_a_changed_config_answers_without_the_merged_model(project: ProjectFolder) -> None:
    edit_config(project, lambda c: c["passes"]["finetune"]["training_args"].update(learning_rate=0.5))
    assert states(project)["export"] == "stale"
    assert open_session(project, "onnx").path == project.gen_model / "onnx"


def test_a_deleted_output_is_rebuilt_if_it_is_requested_or_needed(project: ProjectFolder) -> None:
    assert run(project, Listener(), only=["export"]).done == ()
    assert run(project, Listener(), only=["merge"]).done == ("merge",)
    assert set(states(project).values()) == {"cached"}  # the merged model is the same again
    shutil.rmtree(project.gen_model / "merged")
    shutil.rmtree(project.gen_model / "evaluation")
    assert (states(project)["merge"], states(project)["evaluate"]) == ("missing", "missing")
    assert run(project, Listener()).done == ("merge", "evaluate")


def test_the_last_output_is_rebuilt(trained_project: MakeProject) -> None:
    project = trained_project(until="merge")
    (project.gen_model / "merged" / "model.safetensors").unlink()
    assert states(project)["merge"] == "missing"
    assert run(project, Listener(), until="merge").done == ("merge",)
