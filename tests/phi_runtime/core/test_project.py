"""The folders of a project, found from any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi_runtime.config.pass_graph import INPUT_ADAPTER
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import RESERVED, find_project, project_of, root_of, tasks
from phi_runtime.pipeline import seed_runs
from phi_runtime.pipeline.stage import EVALUATION_FOLDER, MODEL_FOLDERS
from phi_runtime.remote import records
from phi_runtime.search.optimize import planning
from phi_runtime.search.sweep import study


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


@pytest.mark.parametrize("folder", ["fine-tuning", "finetuning"])
@pytest.mark.parametrize("start", ["", "datasets", "gen-model/adapter"])
def test_a_project_is_found_from_its_folders(tmp_path: Path, folder: str, start: str) -> None:
    config = write(tmp_path / folder / "olive-config.json")
    (tmp_path / start).mkdir(parents=True, exist_ok=True)
    project = find_project(tmp_path / start)
    assert (project.root, project.config) == (tmp_path, config)
    assert project.gen_model == tmp_path / "gen-model"


@pytest.mark.parametrize(
    "path", ["finetuning/olive-config-azureml.json", "fine-tuning/mood.olive-config.json", "experiments/1/a.yaml"]
)
def test_every_config_in_a_project_has_its_root(tmp_path: Path, path: str) -> None:
    write(tmp_path / "fine-tuning" / "olive-config.json")
    config = write(tmp_path / path)
    assert root_of(config) == tmp_path
    assert project_of(config).root == tmp_path


def test_a_config_outside_of_a_project_has_its_own_folder(tmp_path: Path) -> None:
    config = write(tmp_path / "downloads" / "olive-config.json")
    assert root_of(config) is None
    assert find_project(tmp_path, config).root == tmp_path / "downloads"
    with pytest.raises(UsageError, match="not in a phi-scaffold project"):
        find_project(tmp_path / "downloads")


def test_no_task_gets_the_folder_of_other_outputs() -> None:
    folders = {INPUT_ADAPTER, EVALUATION_FOLDER, *MODEL_FOLDERS.values()}
    folders |= {seed_runs.FOLDER, study.FOLDER, planning.FOLDER, records.FOLDER}
    assert folders <= set(RESERVED)


def test_the_lock_of_a_mistyped_task_makes_no_task(tmp_path: Path) -> None:
    project = project_of(write(tmp_path / "fine-tuning" / "olive-config.json"))
    write(tmp_path / "gen-model" / "mood" / "runs" / "1")
    write(tmp_path / "gen-model" / "modo" / ".run.lock")
    assert tasks(project) == ["mood"]
