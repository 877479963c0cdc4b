"""The record of a run: what reproduces it and what it became, without secrets."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.overrides import Overrides
from phi_runtime.core.artifacts import read_json, write_json
from phi_runtime.core.errors import Interrupted, OutOfResources
from phi_runtime.core.events import Event
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.secrets import SECRET
from phi_runtime.core.trust import trust
from phi_runtime.hardware import energy
from phi_runtime.pipeline import run_record
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_config
from phi_runtime.pipeline.run_record import RunRecord, without_secrets
from tests.conftest import Cli, MakeProject
from tests.phi_runtime.hardware.test_energy import count, domain

HUB_TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789"  # not a token: the alphabet


def record_of(project: ProjectFolder, overrides: Overrides | None = None) -> RunRecord:
    config = load_config(project.config, overrides)
    return RunRecord(project, config, config.require_valid(), {"only": [], "stages": ["fetch"]})


def test_a_record_holds_config_overrides_base_model_and_the_digests_of_files(make_project: MakeProject) -> None:
    project = make_project()
    (project.config.parent / "evaluation.json").write_text('{"max_rows": 7} // mine\n')
    record = record_of(project, Overrides(settings={"passes.finetune.r": "4"}))
    with record.closing():
        folder = record.open("finetune")
    content = read_json(folder / "run.json")
    data = (project.root / "datasets" / "train.jsonl").read_bytes()
    assert (content["id"], content["state"], content["failure"]) == (folder.name, "done", None)
    assert content["overrides"]["settings"] == {"passes.finetune.r": "4"}
    assert content["base_model"]["name"] == "tiny-phi3"
    files = [file for entry in content["data"] for file in entry["files"]]
    assert files == [
        {
            "file": "datasets/train.jsonl",
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    ]
    assert [entry["file"] for entry in content["functions"]] == ["fine-tuning/hooks.py"]
    assert read_json(folder / "config.json")["passes"]["finetune"]["r"] == 4
    assert (folder / "config-files" / "olive-config.json").read_bytes() == project.config.read_bytes()
    assert (folder / "config-files" / "evaluation.json").read_text() == '{"max_rows": 7} // mine\n'


def test_the_energy_of_each_stage_is_recorded_and_shown(
    make_project: MakeProject, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = domain(tmp_path / "powercap", "intel-rapl:0", "package-0", 0)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    monkeypatch.setitem(sys.modules, "pynvml", None)

    def use_energy(event: Event) -> None:
        if (event.event, event.stage) == ("metric", "finetune"):
            count(counter, 4_500_000_000)

    project = make_project(max_steps=1)
    outcome = run(project, use_energy, until="finetune")
    assert outcome.run_folder is not None
    stages = {entry["stage"]: entry for entry in read_json(outcome.run_folder / "stages.json")}
    assert (stages["finetune"]["cpu_energy_j"], stages["finetune"]["gpu_energy_j"]) == (4500.0, None)
    at = ("--project", project.root)
    entries = (
        cli("status", "--json", *at).json["stages"],
        cli("runs", "show", "latest", "--json", *at).json["outputs"],
        cli("report", "--json", *at).json["stages"],
    )
    for stages_of_command in entries:
        assert [entry["cpu_energy_j"] for entry in stages_of_command if "finetune" in entry.values()] == [4500.0]
    for command in (("status",), ("runs", "show", "latest")):
        assert "CPU 1.25 Wh" in cli(*command, *at).out


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (OutOfResources("the disk is full", fix="free some space"), "failed", "the disk is full"),
        (Interrupted("`finetune` was stopped"), "interrupted", "`finetune` was stopped"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt: "),
        (ValueError("no such thing"), "failed", "ValueError: no such thing"),
    ],
)
def test_a_record_names_the_stage_that_ended_the_run(
    make_project: MakeProject, error: BaseException, state: str, message: str
) -> None:
    record = record_of(make_project())
    folder = record.open("fetch")
    record.open("finetune")
    assert read_json(folder / "run.json")["state"] == "running"
    with pytest.raises(type(error)), record.closing():
        raise error
    content = read_json(folder / "run.json")
    assert (content["state"], content["failure"]["stage"], content["failure"]["message"]) == (
        state,
        "finetune",
        message,
    )
    assert content["ended"] >= content["started"]


def test_a_run_without_work_leaves_no_record(make_project: MakeProject) -> None:
    project = make_project()
    record = record_of(project)
    with record.closing():
        record.output("fetch", "cached", project.gen_model / "adapter")
    assert not project.runs.exists()


def test_a_large_evaluation_is_not_copied(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project()
    record = record_of(project)
    for name, size in {"evaluation": 90, "evaluation-style": 110}.items():
        (project.gen_model / name).mkdir(parents=True)
        (project.gen_model / name / "rows.jsonl").write_bytes(b" " * size)
    monkeypatch.setattr(run_record, "LARGE_EVALUATION_BYTES", 100)
    with record.closing():
        folder = record.open("evaluate")
        record.evaluation(project.gen_model / "evaluation")
        record.evaluation(project.gen_model / "evaluation-style")
    assert (folder / "evaluation" / "rows.jsonl").stat().st_size == 90
    assert not (folder / "evaluation-style").exists()


def test_a_record_names_the_commit_and_if_files_differ_from_it(make_project: MakeProject) -> None:
    project = make_project()

    def git(*arguments: str) -> str:
        name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(project.root), *name, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    assert run_record.git_commit(project.root) is None
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    assert run_record.git_commit(project.root) == {"commit": git("rev-parse", "HEAD"), "changed": None}
    trust(project.root, "setup")  # `git status` runs programs that the repository names
    assert run_record.git_commit(project.root) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    project.config.write_text(project.config.read_text() + "\n")
    assert run_record.git_commit(project.root) == {"commit": git("rev-parse", "HEAD"), "changed": True}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"client_secret": "abc", "tenant": "t"}, {"client_secret": SECRET, "tenant": "t"}),
        (
            {"azureml_client.default_auth_params.password": "abc"},
            {"azureml_client.default_auth_params.password": SECRET},
        ),
        ({"hf_token": None, "max_new_tokens": 8, "special_tokens_in_rows": "keep"}, None),
        ({"text_template": "Password: {password}\nSecret: the {key}"}, None),
        (["https://me:pw1@example.org/a.jsonl"], [f"https://{SECRET}@example.org/a.jsonl"]),
        ("https://x.example.org/b?sv=1&sig=AbC%2F1&se=2", f"https://x.example.org/b?sv=1&sig={SECRET}&se=2"),
        (f"said {HUB_TOKEN}.", f"said {SECRET}."),
    ],
)
def test_secrets_are_replaced_and_other_values_are_unchanged(value: Any, expected: Any) -> None:
    assert without_secrets(value) == (value if expected is None else expected)


def test_no_file_of_a_record_holds_a_secret(make_project: MakeProject) -> None:
    project = make_project()
    config = read_json(project.config)
    config["azureml_client"] = {"default_auth_params": {"client_secret": "swordfish1"}}
    config["data_configs"][0]["pre_process_data_config"]["text_template"] += f" {HUB_TOKEN}"
    write_json(project.config, config)
    record = record_of(project, Overrides(settings={"azureml_client.default_auth_params.password": "swordfish2"}))
    with record.closing():
        folder = record.open("fetch")
    texts = {path: path.read_text() for path in _files(folder)}
    assert len(texts) >= 4
    assert not [path for path, text in texts.items() if "swordfish" in text or HUB_TOKEN in text]
    assert json.loads(texts[folder / "config-files" / "olive-config.json"])["azureml_client"] == {
        "default_auth_params": {"client_secret": SECRET}
    }


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
