"""The key of a stage holds the content of every file that shapes it: those of the base model, and those of earlier stages."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from phi_runtime.config.overrides import Overrides
from phi_runtime.core import artifacts
from phi_runtime.core.artifacts import Manifest, current_content, read_manifest, seal
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models.fetch import present
from phi_runtime.pipeline.graph import ModelGraph
from phi_runtime.pipeline.load import load_config, load_workflow
from phi_runtime.pipeline.stage import evaluation_stage
from phi_runtime.search.sweep.study import find_study, open_study, study_inputs
from tests.conftest import MakeProject, edit_config, states


def flip_last_byte(file: Path) -> None:
    """Change the content of a file, and neither its size nor its modification time."""
    times, content = file.stat(), bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def keys(project: ProjectFolder) -> dict[str, str]:
    """The key of every stage, with the models on disk as they are."""
    graph = ModelGraph(workflow := load_workflow(project.config), project)
    found = {node.name: node.stage.key for node in graph.walk(("cached", "stale"))}
    return found | {"evaluate": evaluation_stage(workflow, project, "evaluate", graph.models).key}


@pytest.fixture
def project(trained_project: MakeProject, tiny_phi3: Path) -> ProjectFolder:
    """A finished project with its own copy of the base model, which has a manifest, as a downloaded one."""
    project = trained_project()
    base = shutil.copytree(tiny_phi3, project.model_cache / "org" / "base")
    seal(base, key="base", kind="hf", facts={})
    edit_config(project, lambda c: c["input_model"].update(model_path="../model-cache/org/base"))
    return project


@pytest.mark.parametrize(
    ("changed", "unchanged"),
    [
        ("model-cache/org/base/model.safetensors", ["export"]),
        ("model-cache/org/base/tokenizer.json", ["export"]),
        ("model-cache/org/base/generation_config.json", ["export"]),
        ("gen-model/adapter/adapter_model.safetensors", ["finetune", "export"]),
        ("gen-model/adapter/adapter_config.json", ["finetune", "export"]),
        ("gen-model/merged/model.safetensors", ["finetune", "merge"]),
        ("gen-model/onnx/model.onnx.data", ["finetune", "merge", "export"]),
    ],
)
def test_a_changed_file_changes_the_key_of_every_stage_that_reads_it(
    changed: str, unchanged: list[str], project: ProjectFolder
) -> None:
    """The base model shapes the export through the merged model, whose content changes when the merge runs again."""
    before = keys(project)
    assert keys(project) == before
    flip_last_byte(project.root / changed)
    after = keys(project)
    assert [name for name in before if after[name] == before[name]] == unchanged


def test_a_file_that_is_added_to_the_base_model_makes_its_stages_stale(
    trained_project: MakeProject, tiny_phi3: Path, tmp_path: Path
) -> None:
    project = trained_project()
    base = shutil.copytree(tiny_phi3, tmp_path / "base")
    edit_config(project, lambda c: c["input_model"].update(model_path=str(base)))
    assert set(states(project).values()) == {"cached"}
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert states(project) == {
        "fetch": "cached", "finetune": "stale", "merge": "stale", "export": "stale", "evaluate": "stale",
    }  # fmt: skip


def sealed(folder: Path) -> Manifest:
    folder.mkdir()
    for name in ("a.bin", "b.bin"):
        (folder / name).write_bytes(name.encode() * 10)
    return seal(folder, key="k", kind="hf", facts={})


def test_an_unchanged_artifact_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = sealed(tmp_path / "model")
    monkeypatch.setattr(artifacts, "file_digest", lambda path: pytest.fail(f"{path} is read"))
    assert current_content(tmp_path / "model", manifest) == manifest.content


def test_a_copied_artifact_is_read_once_and_has_the_same_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "_LARGE_BYTES", 1)
    sealed(tmp_path / "model")
    copy = shutil.copytree(tmp_path / "model", tmp_path / "copy", copy_function=shutil.copyfile)
    (copy / "b.bin").touch()  # after the manifest
    manifest = read_manifest(copy)
    assert manifest is not None
    assert current_content(copy, manifest) == manifest.content
    monkeypatch.setattr(artifacts, "file_digest", lambda path: pytest.fail(f"{path} is read again"))
    assert current_content(copy, manifest) == manifest.content


def test_a_file_that_is_moved_here_with_its_old_time_is_noticed(tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"a.bix" * 10)
    manifest = sealed(tmp_path / "model")
    other.replace(tmp_path / "model" / "a.bin")
    assert read_manifest(tmp_path / "model") == manifest  # the sizes are the same
    assert current_content(tmp_path / "model", manifest) != manifest.content


def test_an_edit_while_the_clock_is_back_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = sealed(tmp_path / "model")
    edited = tmp_path / "model" / "a.bin"
    edited.write_bytes(b"a.bix" * 10)
    before = (
        edited.stat().st_ctime_ns - 10**15
    )  # nobody can set the ctime: the clock of this test goes back in its place
    stat = Path.stat

    def with_old_times(path: Path, **kwargs: bool) -> os.stat_result:
        real = stat(path, **kwargs)
        if path != edited:
            return real
        times = {"st_mtime": before / 1e9, "st_ctime": before / 1e9, "st_mtime_ns": before, "st_ctime_ns": before}
        return os.stat_result(real[:], times)

    monkeypatch.setattr(Path, "stat", with_old_times)
    assert edited.stat().st_ctime_ns == before
    assert current_content(tmp_path / "model", manifest) != manifest.content


def test_a_search_starts_a_new_study_if_the_base_model_changes(project: ProjectFolder) -> None:
    (project.config.parent / "sweep.yaml").write_text(
        "search_space: {learning_rate: {type: choice, values: [0.01, 0.02]}}\nsearch_strategy: {type: grid}\n"
    )

    def inputs() -> dict[str, object]:
        workflow = load_config(project.config, Overrides()).require_valid()
        assert workflow.sweep is not None
        return study_inputs(workflow, project, workflow.sweep, "finetune", "validation_loss")

    workflow = load_workflow(project.config)
    base = present(workflow.input_model, project)
    assert base is not None
    before = inputs()
    assert before["base"] == base.key
    # A study that was started before the download of the base model is that of the model that was downloaded for it.
    assert workflow.sweep is not None
    open_study(find_study(project, {k: v for k, v in before.items() if k != "base"}), workflow.sweep.search_strategy, 1)
    resumed = find_study(project, before)
    assert (resumed.name, resumed.new) == ("study-1", False)
    open_study(resumed, workflow.sweep.search_strategy, 1)
    assert json.loads((resumed.folder / "study.json").read_text())["inputs"]["base"] == base.key
    flip_last_byte(base.path / "model.safetensors")
    place = find_study(project, inputs())
    assert (place.name, place.new, place.why) == ("study-2", True, "the base model changed")


@pytest.mark.parametrize(("version", "state"), [("{}+cu130", "cached"), ("1.0", "stale")])
def test_the_build_of_a_library_on_another_machine_makes_no_stage_stale(
    trained_project: MakeProject, version: str, state: str
) -> None:
    """An adapter that a job trained on a GPU is up to date here: its torch has the same version and another build."""
    project = trained_project(until="merge")
    file = project.gen_model / "adapter" / "manifest.json"
    manifest = json.loads(file.read_text())
    inputs = manifest["facts"]["inputs"]
    inputs["versions"]["torch"] = version.format(inputs["versions"]["torch"].partition("+")[0])
    manifest["key"] = artifacts.digest(inputs)
    file.write_text(json.dumps(manifest))
    assert states(project)["finetune"] == state
    assert states(project)["merge"] == ("cached" if state == "cached" else "stale")
