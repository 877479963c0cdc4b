"""A data set of the hub in a project: downloaded by `fetch` (from the stand-in), a file like any other from then on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phi_runtime.core.errors import DataError
from phi_runtime.core.events import silent
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.fetch import hub_data
from phi_runtime.data.report import examine
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import check_file, load_workflow
from tests.conftest import Listener, MakeProject, edit_config, states
from tests.phi_runtime.data.hub_data import lines
from tests.phi_runtime.data.hub_stand_in import HubStandIn, Repository


@pytest.fixture
def project(make_project: MakeProject, hub: HubStandIn) -> ProjectFolder:
    rows = [{"phrase": f"sunny song {i}", "tone": "joy" if i % 2 else "fear"} for i in range(40)]
    hub.repositories["org/tones"] = Repository({"train.jsonl": lines(*rows), "test.jsonl": lines(*rows[:4])})
    made = make_project(max_steps=1)

    def of_the_hub(config: dict[str, Any]) -> None:
        config["data_configs"][0]["load_dataset_config"] = {"data_name": "org/tones", "split": "train[10%:90%]"}

    edit_config(made, of_the_hub)
    return made


def test_fetch_brings_it_once_and_training_reads_the_slice(project: ProjectFolder, hub: HubStandIn) -> None:
    assert not check_file(project.config).findings
    assert states(project)["fetch"] == "missing"
    run(project, silent, only=["fetch"])
    assert states(project)["fetch"] == "cached"
    (path,) = hub_data(load_workflow(project.config), project.config)
    assert len(path.read_text().splitlines()) == 40
    assert json.loads(path.with_suffix(".source.json").read_text())["source"] == "hub:datasets/org/tones"

    hub.repositories.clear()  # from here on there is no hub
    listener = Listener()
    outcome = run(project, listener, until="finetune")
    assert outcome.run_folder is not None
    report = json.loads((outcome.run_folder / "data_report.json").read_text())
    assert report["datasets"][0]["rows"]["read"] == 32
    assert states(project)["finetune"] == "cached"


def test_a_forced_fetch_brings_it_anew(project: ProjectFolder, hub: HubStandIn) -> None:
    run(project, silent, only=["fetch"])
    hub.repositories["org/tones"] = Repository({"train.jsonl": lines({"phrase": "x", "tone": "joy"})})
    (path,) = hub_data(load_workflow(project.config), project.config)
    run(project, silent, only=["fetch"])
    assert len(path.read_text().splitlines()) == 40
    run(project, silent, only=["fetch"], force=["fetch"])
    assert len(path.read_text().splitlines()) == 1


def test_a_split_that_it_does_not_have_stops_the_run_before_anything_is_trained(project: ProjectFolder) -> None:
    def another(config: dict[str, Any]) -> None:
        config["data_configs"][0]["load_dataset_config"]["split"] = "tset"

    edit_config(project, another)
    with pytest.raises(DataError, match="did you mean `test`"):
        run(project, silent)


def test_before_it_is_fetched_a_report_says_so(project: ProjectFolder) -> None:
    from phi_runtime.data.dataset import data_context
    from phi_runtime.models.fetch import present

    workflow = load_workflow(project.config)
    base = present(workflow.input_model, project)
    assert base is not None
    assert workflow.finetune is not None
    with pytest.raises(DataError, match="org/tones is not downloaded"):
        examine(workflow, workflow.finetune[1], data_context(project, base), silent)
