"""`clean`: says what can go and what is lost, deletes only with --yes, and never what people made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from phi_runtime.core.artifacts import read_json, seal, write_json
from phi_runtime.core.locks import exclusive
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models.fetch import present
from phi_runtime.pipeline.load import load_workflow
from tests.conftest import Cli, MakeProject, edit_config, states


def add(folder: Path, size: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b" " * size)
    return folder


def downloaded(folder: Path) -> Path:
    """Give the model in `folder` the record of a download."""
    seal(folder, key="", kind="hf", facts={"source": "hub:org/unused"})
    return folder


def names(cli: Cli, project: ProjectFolder, *arguments: str) -> dict[str, bool]:
    """Return the names that `clean --json` lists, each with whether it was deleted."""
    return {
        part["name"]: part["deleted"]
        for part in cli("clean", *arguments, "--json", "--project", project.root).json["parts"]
    }


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    found: ProjectFolder = make_project()
    downloaded(add(found.model_cache / "org" / "unused"))
    add(found.gen_model / ".work" / f"finetune-{'0' * 16}", 2000)
    add(found.token_cache)
    add(found.activation_cache, 3000)
    return found


def test_nothing_is_deleted_without_yes(cli: Cli, project: ProjectFolder) -> None:
    before = sorted(project.root.rglob("*"))
    result = cli("clean", "--project", project.root)
    assert result.code == 0
    for part in ("model-cache/org/unused", "1.0 kB", "2.0 kB", "Nothing is deleted", "clean --yes"):
        assert part in result.out
    assert sorted(project.root.rglob("*")) == before


def test_yes_deletes_what_nothing_needs_and_a_name_what_it_names(cli: Cli, project: ProjectFolder) -> None:
    assert names(cli, project, "--yes") == {"unused": True, "stale": True, "tokens": False, "activations": False}
    assert names(cli, project) == {"tokens": False, "activations": False}
    assert names(cli, project, "tokens", "--yes") == {"tokens": True, "activations": False}
    assert names(cli, project, "activations", "--yes") == {"activations": True}
    assert not any(project.model_cache.rglob("config.json"))
    assert not project.token_cache.exists()


def test_what_tasks_share_is_listed_for_each_and_waits_for_the_runs_of_all(
    cli: Cli, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = project.gen_model / "style"
    add(outputs / ".work" / f"finetune-{'0' * 16}")
    add(outputs / "runs")
    task = ("--task-name", "style")
    assert names(cli, project, *task) == {"unused": False, "stale": False, "tokens": False, "activations": False}
    assert "of all tasks" in cli("clean", *task, "--project", project.root).out
    monkeypatch.setattr("phi_runtime.core.locks.END_S", 0.0)
    with exclusive(project.run_lock):
        assert cli("clean", "tokens", "--yes", *task, "--project", project.root).code == 6
        assert names(cli, project, "stale", "--yes", *task)["stale"] is True
    with exclusive(outputs / ".run.lock"):
        assert cli("clean", "tokens", "--yes", "--project", project.root).code == 6
    assert names(cli, project, "tokens", "--yes", *task) == {"unused": False, "tokens": True, "activations": False}
    assert not project.token_cache.exists()
    assert (project.gen_model / ".work").is_dir()


@pytest.mark.parametrize("file", ["other.olive-config.json", "other.json", "other.olive-config.yml"])
def test_a_model_that_any_config_of_the_project_uses_stays(cli: Cli, project: ProjectFolder, file: str) -> None:
    other = project.config.with_name(file)
    config = json.loads(project.config.read_text(encoding="utf-8"))
    config["input_model"]["model_path"] = "../model-cache/org/unused"
    other.write_text(json.dumps(config), encoding="utf-8")
    assert "unused" not in names(cli, project)
    other.write_text(json.dumps(config)[:-1], encoding="utf-8")  # it may use any
    assert "unused" not in names(cli, project)


@pytest.mark.parametrize("rows", ['{"q": "a"}\n{"q": "b"}\n', json.dumps([{"q": "a"}] * 20_000)])
def test_data_next_to_the_config_hides_no_unused_model(cli: Cli, project: ProjectFolder, rows: str) -> None:
    project.config.with_name("train.json").write_text(rows, encoding="utf-8")
    assert "unused" in names(cli, project)


def test_a_model_that_no_download_brings_back_stays(cli: Cli, project: ProjectFolder) -> None:
    own = add(project.model_cache / "org" / "own")
    edited = downloaded(add(project.model_cache / "org" / "edited"))
    (edited / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    left = add(project.model_cache / "org" / ".large.partial")
    assert names(cli, project, "--yes")["unused"] is True
    assert [folder.is_dir() for folder in (own, edited, left)] == [True, True, False]


def test_the_base_can_go_only_if_it_was_downloaded(cli: Cli, trained_project: MakeProject, tiny_phi3: Path) -> None:
    project = trained_project()
    base = project.model_cache / "org" / "tiny"
    shutil.copytree(tiny_phi3, base)
    edit_config(project, lambda config: config["input_model"].update(model_path="../model-cache/org/tiny"))
    assert set(states(project).values()) == {"cached"}
    assert "base" not in names(cli, project)
    model = present(load_workflow(project.config).input_model, project)
    assert model is not None
    manifest = read_json(downloaded(base) / "manifest.json")
    write_json(base / "manifest.json", {**manifest, "content": model.key})  # what was trained from it stays up to date
    assert names(cli, project, "base", "--yes")["base"] is True
    assert not base.exists()


def test_a_link_is_deleted_and_not_what_it_leads_to(cli: Cli, project: ProjectFolder, tmp_path: Path) -> None:
    outside = add(tmp_path / "outside")
    (project.model_cache / "linked").symlink_to(outside, target_is_directory=True)
    assert names(cli, project, "--yes")["unused"] is True
    assert (outside / "config.json").is_file()
    assert not (project.model_cache / "linked").exists()


def test_nothing_is_deleted_while_a_run_is_active(
    cli: Cli, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi_runtime.core.locks.END_S", 0.0)
    with exclusive(project.run_lock):
        assert cli("clean", "--yes", "--project", project.root).code == 6
    assert (project.model_cache / "org" / "unused").is_dir()


def test_an_invalid_config_deletes_nothing(cli: Cli, project: ProjectFolder) -> None:
    edit_config(project, lambda config: config["passes"]["finetune"].update(alhpa=1))
    assert cli("clean", "--yes", "--project", project.root).code == 3
    assert (project.model_cache / "org" / "unused").is_dir()


def test_the_merged_model_can_go_once_what_is_built_from_it_is_up_to_date(
    cli: Cli, trained_project: MakeProject
) -> None:
    edited = trained_project(until="merge")
    assert "merged" not in names(cli, edited)
    assert "adapter" not in names(cli, edited)


def test_a_fine_tuned_model_and_a_merged_one_without_its_adapter_stay(cli: Cli, trained_project: MakeProject) -> None:
    """Only a training would bring them back."""
    full = trained_project("full", method="full")
    assert set(states(full).values()) == {"cached"}
    assert "merged" not in names(cli, full)
    project = trained_project()
    assert "merged" in names(cli, project)
    shutil.rmtree(project.gen_model / "adapter")
    assert states(project)["merge"] == "cached"
    assert "merged" not in names(cli, project)


def test_a_task_whose_name_starts_as_a_folder_of_gen_model_stays(cli: Cli, project: ProjectFolder) -> None:
    add(project.gen_model / "optimizer" / "adapter")
    add(project.gen_model / "optimize-export")
    assert names(cli, project, "optimize", "--yes")["optimize"] is True
    assert (project.gen_model / "optimizer").is_dir()
    assert not (project.gen_model / "optimize-export").exists()


def test_checkpoints_stay_while_the_input_of_their_stage_is_missing(cli: Cli, project: ProjectFolder) -> None:
    edit_config(project, lambda config: config["input_model"].update(model_path="../model-cache/org/missing"))
    assert names(cli, project, "--yes")["unfinished"] is False


def test_an_unknown_name_is_refused(cli: Cli, project: ProjectFolder) -> None:
    result = cli("clean", "merge", "--json", "--project", project.root)
    assert result.code == 2
    assert "did you mean `merged`" in result.json["message"]


def test_it_works_in_the_environment_of_the_project(
    cli: Cli, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages depend on the versions of libraries: in another environment all of them would be stale."""
    environments = []

    def use(folder: ProjectFolder, *, trusted: bool) -> None:
        environments.append((folder.root, trusted))

    monkeypatch.setattr("phi_scaffold.cli.clean.use_project_environment", use)
    names(cli, project, "--trust-project")
    assert environments == [(project.root, True)]
