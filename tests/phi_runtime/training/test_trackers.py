"""Experiment trackers write to the project, prompt for nothing and upload nothing."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import ConfigError, Interrupted, MissingDependency
from phi_runtime.core.events import Event
from phi_runtime.core.project import GEN_MODEL
from phi_runtime.pipeline.engine import run
from phi_runtime.training import trackers as module
from phi_runtime.training.trackers import TRACKERS, configure_trackers, project_name, receiver, run_name
from tests.conftest import MakeProject


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Provide an environment without any tracker settings, restored afterwards."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_", "TENSORBOARD_")) or name == "NETRC":
            del os.environ[name]
    os.environ.update(HOME=str(tmp_path / "home"), USERPROFILE=str(tmp_path / "home"))
    monkeypatch.setattr(module, "_set_here", {})
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    folder = tmp_path / "mood" / GEN_MODEL / "runs" / "20260101-000000"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def gen_model(record: Path) -> Path:
    return record.parent.parent


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Provide empty packages with the trackers' names."""
    for name in (*TRACKERS, "sqlalchemy"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")


def train(chosen: list[str], record: Path) -> list[float]:
    """Run six steps of transformers' Trainer with trackers, and return the losses."""
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def forward(self, x: Any, y: Any) -> dict[str, Any]:
            said = self.layer(x)[:, 0]  # (B,)
            return {"loss": ((said - y) ** 2).mean(), "logits": said}

    rows = [{"x": torch.ones(4) * i, "y": torch.tensor(1.0)} for i in range(8)]
    arguments = TrainingArguments(
        output_dir=str(record / "out"),
        report_to=chosen,
        run_name=run_name(record, "finetune"),
        project=project_name(record.parent.parent),
        max_steps=6,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=Line(), args=arguments, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def where_installed(name: str) -> pytest.MarkDecorator:
    """Look for the package without an import, which would fix the tracker's folder."""
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")


# -- the real ones, where they are installed ------------------------------------------------------------------------------


@where_installed("tensorboard")
def test_tensorboard_stores_the_losses_in_the_folder_of_the_run(record: Path, gen_model: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = train(configure_trackers("tensorboard", record, gen_model), record)
    events = EventAccumulator(str(record / "tensorboard")).Reload()
    scalars = events.Scalars("train/loss")
    assert [s.step for s in scalars] == [1, 2, 3, 4, 5, 6]
    assert [s.value for s in scalars] == pytest.approx(losses)


@where_installed("mlflow")
def test_mlflow_stores_the_losses_in_one_database_for_all_runs(record: Path, gen_model: Path) -> None:
    losses = train(configure_trackers(["mlflow"], record, gen_model), record)
    with sqlite3.connect(gen_model / "mlflow" / "mlflow.db") as store:
        logged = store.execute("select value from metrics where key = 'loss' order by step").fetchall()
        assert store.execute("select name from runs").fetchall() == [("finetune-20260101-000000",)]
        assert ("mood",) in store.execute("select name from experiments").fetchall()
    assert [value for (value,) in logged] == pytest.approx(losses)


@where_installed("trackio")
def test_trackio_stores_the_losses_in_gen_model(record: Path, gen_model: Path) -> None:
    losses = train(configure_trackers(["trackio"], record, gen_model), record)
    with sqlite3.connect(gen_model / "trackio" / "mood.db") as store:
        logged = [json.loads(line) for (line,) in store.execute("select metrics from metrics order by id")]
    assert [line["train/loss"] for line in logged if "train/loss" in line] == pytest.approx(losses)


# -- which ones -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", ["none", ["none"], []])
def test_none_sets_nothing(nothing: str | list[str], record: Path, gen_model: Path) -> None:
    before = dict(os.environ)
    assert configure_trackers(nothing, record, gen_model) == []
    assert dict(os.environ) == before


@pytest.mark.usefixtures("installed")
def test_duplicates_are_removed_and_all_means_the_installed_ones(record: Path, gen_model: Path) -> None:
    assert configure_trackers(["mlflow", "none", "wandb", "mlflow"], record, gen_model) == ["mlflow", "wandb"]
    assert configure_trackers("all", record, gen_model) == list(TRACKERS)


def test_a_missing_tracker_is_an_error_with_the_install_command(
    record: Path, gen_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)  # how Python marks a module that cannot be imported
    with pytest.raises(MissingDependency, match="report_to names `wandb`") as raised:
        configure_trackers("wandb", record, gen_model)
    assert "pip install 'phi-scaffold[track]'" in raised.value.fix
    assert configure_trackers("all", record, gen_model) == []


def test_an_unknown_tracker_is_an_error_with_the_nearest_name(record: Path, gen_model: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean `tensorboard`"):
        configure_trackers("tensorbord", record, gen_model)


# -- folders and uploads ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
def test_everything_is_stored_in_the_project(record: Path, gen_model: Path) -> None:
    configure_trackers(list(TRACKERS), record, gen_model)
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(record / "tensorboard")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{(gen_model / 'mlflow' / 'mlflow.db').as_posix()}"
    assert os.environ["TRACKIO_DIR"] == str(gen_model / "trackio")
    assert os.environ["WANDB_DIR"] == str(gen_model)  # it makes wandb/ in there
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == os.environ["WANDB_PROJECT"] == "mood"
    assert all((gen_model / name).is_dir() for name in ("mlflow", "trackio", "wandb"))


@pytest.mark.usefixtures("installed")
def test_telemetry_is_off_and_weights_and_biases_is_offline(record: Path, gen_model: Path) -> None:
    configure_trackers(list(TRACKERS), record, gen_model)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert os.environ["WANDB_MODE"] == "offline"


@pytest.mark.usefixtures("installed")
def test_the_users_variables_are_kept(record: Path, gen_model: Path) -> None:
    own = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "MLFLOW_DISABLE_TELEMETRY": "false",
        "WANDB_MODE": "online",
        "TENSORBOARD_LOGGING_DIR": "/elsewhere",
    }
    os.environ.update(own)
    configure_trackers(list(TRACKERS), record, gen_model)
    assert {name: os.environ[name] for name in own} == own


@pytest.mark.usefixtures("installed")
def test_the_next_run_of_a_process_has_its_own_folder(record: Path, gen_model: Path) -> None:
    configure_trackers("tensorboard", record, gen_model)
    other = record.with_name("20260102-000000")
    configure_trackers("tensorboard", other, gen_model)
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(other / "tensorboard")


@pytest.mark.usefixtures("installed")
def test_a_logged_in_user_is_online(record: Path, gen_model: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine api.wandb.ai login user password hidden\n", encoding="utf-8")
    (tmp_path / "home" / ".netrc").chmod(0o600)
    configure_trackers("wandb", record, gen_model)
    assert "WANDB_MODE" not in os.environ


@pytest.mark.usefixtures("installed")
def test_an_api_key_in_the_environment_counts_as_logged_in(record: Path, gen_model: Path) -> None:
    os.environ["WANDB_API_KEY"] = "hidden"
    configure_trackers("wandb", record, gen_model)
    assert "WANDB_MODE" not in os.environ


# -- names --------------------------------------------------------------------------------------------------------------------


def test_runs_are_grouped_by_project_and_named_apart(record: Path, gen_model: Path) -> None:
    assert project_name(gen_model) == "mood"
    assert run_name(record, "finetune") == "finetune-20260101-000000"
    assert run_name(None, "finetune") == "finetune"


@pytest.mark.usefixtures("installed")
def test_the_configs_own_name_for_the_project_is_taken(record: Path, gen_model: Path) -> None:
    configure_trackers(["mlflow", "wandb"], record, gen_model, project="feelings")
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == os.environ["WANDB_PROJECT"] == "feelings"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("variables", "space", "receivers"),
    [
        ({}, None, {}),
        ({"WANDB_API_KEY": "k" * 40}, None, {"wandb": "api.wandb.ai"}),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, None, {}),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "https://w.example:8080"}, None, {"wandb": "w.example"}),
        ({"MLFLOW_TRACKING_URI": "http://user:secret@127.0.0.1:5000"}, None, {"mlflow": "127.0.0.1"}),
        ({"MLFLOW_TRACKING_URI": "databricks"}, None, {"mlflow": "databricks"}),
        ({"MLFLOW_TRACKING_URI": "runs"}, None, {}),
        ({"TRACKIO_SPACE_ID": "me/runs"}, None, {"trackio": "me/runs"}),
        ({}, "me/mood", {"trackio": "me/mood"}),
    ],
)
def test_what_leaves_the_machine_has_a_receiver(
    variables: dict[str, str], space: str | None, receivers: dict[str, str], record: Path, gen_model: Path
) -> None:
    os.environ.update(variables)
    names = configure_trackers(list(TRACKERS), record, gen_model)
    assert {name: to for name in names if (to := receiver(name, space))} == receivers


@pytest.mark.usefixtures("installed")
def test_a_training_that_sends_its_losses_away_warns_before_it_starts(make_project: MakeProject) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "https://tracking.example"
    project = make_project(report_to=["mlflow"])

    def stop(event: Event) -> None:
        if event.event == "warning" and "tracking.example" in event.data["message"]:
            raise Interrupted(event.stage)
        assert event.event != "metric"  # of the rows, which are read next

    with pytest.raises(Interrupted, match="finetune"):
        run(project, stop, until="finetune")
