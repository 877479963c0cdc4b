"""Files for SkyPilot, Hugging Face Jobs and Kubernetes, checked against the schemas that their packages publish.

published_schemas/ was written from these packages (Apache-2.0): skypilot 0.14.1, kubeflow-trainer-api 2.3.0.
"""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from phi_runtime.core.errors import Conflict, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.signed_text import is_edited
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.remote.cluster_files import KINDS, ClusterFile, cluster_file, write_cluster_files
from tests.phi_runtime.remote.test_plan import edit, use_datastore

SCHEMAS = Path(__file__).parent / "published_schemas"
ARGUMENTS = ("run", "--set", "passes.finetune.r=16", "--until", 'it\'s $(HOME) "here"')


def file_of(project: ProjectFolder, kind: str, processes: int = 1, device: str = "cpu") -> ClusterFile:
    def use_device(config: dict[str, Any]) -> None:
        provider = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}[device]
        accelerator = {"device": device, "execution_providers": [provider]}
        config["systems"] = {"here": {"type": "LocalSystem", "accelerators": [accelerator]}}
        config["host"] = config["target"] = "here"

    edit(project, use_device)
    return cluster_file(project, load_workflow(project.config), kind, ARGUMENTS, ("finetune",), processes)


def check(document: Any, schema: str) -> None:
    jsonschema.validate(document, json.loads((SCHEMAS / schema).read_text()))


@pytest.mark.parametrize(("device", "processes"), [("cpu", 1), ("gpu", 1), ("gpu", 4)])
def test_skypilot_accepts_the_task_that_names_each_file(
    remote_project: ProjectFolder, device: str, processes: int
) -> None:
    task = yaml.safe_load(file_of(remote_project, "sky", processes, device).text)
    check(task, "skypilot-0.14.1.json")
    assert task["resources"].get("accelerators") == (f"L4:{processes}" if device == "gpu" else None)
    assert "~/project/setup" in task["file_mounts"]
    assert all((remote_project.root / local).exists() for local in task["file_mounts"].values())
    command = shlex.split(task["run"].splitlines()[1])
    assert command[4 : 4 + len(ARGUMENTS)] == list(ARGUMENTS)


@pytest.mark.parametrize(("device", "processes"), [("cpu", 1), ("gpu", 4)])
def test_kubeflow_accepts_the_job_and_bash_its_command(
    remote_project: ProjectFolder, device: str, processes: int
) -> None:
    manifest = yaml.safe_load(file_of(remote_project, "k8s", processes, device).text)
    check(manifest, "kubeflow-trainer-2.3.0.json")
    trainer = manifest["spec"]["trainer"]
    assert trainer["resourcesPerNode"]["limits"].get("nvidia.com/gpu") == ("4" if device == "gpu" else None)
    script = trainer["command"][-1]
    assert "$(" not in script.replace("$$(", "")  # which Kubernetes would replace
    script = script.replace("$$(", "$(")  # as it does
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    command = shlex.split(script.splitlines()[-1])
    assert command[5 : 5 + len(ARGUMENTS)] == list(ARGUMENTS)


def test_the_script_of_hf_jobs_is_a_uv_script_with_the_arguments(remote_project: ProjectFolder) -> None:
    text = file_of(remote_project, "hf").text
    header = text.partition("# /// script\n")[2].partition("# ///\n")[0]
    metadata = tomllib.loads("".join(line.removeprefix("# ") for line in header.splitlines(keepends=True)))
    assert set(metadata) == {"requires-python", "dependencies"}
    assignments = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    values = {ast.unparse(node.targets[0]): node.value for node in assignments}
    assert tuple(ast.literal_eval(values["ARGUMENTS"])) == ARGUMENTS


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_names_a_secret_or_what_the_run_does_not_read(remote_project: ProjectFolder, kind: str) -> None:
    file = file_of(remote_project, kind)
    for never in ("hf_CANARY", ".env", ".git", "notes.txt", "adapter/a.bin", str(remote_project.root)):
        assert never not in file.text.replace(".venv", "")
        assert never not in " ".join(file.commands)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_written_again_until_the_user_edits_it(remote_project: ProjectFolder, kind: str) -> None:
    for processes in (1, 2):
        file = file_of(remote_project, kind, processes)
        write_cluster_files(remote_project, [file])
        assert (remote_project.root / file.path).read_text() == file.text
    assert not is_edited(remote_project.root / file.path)
    with (remote_project.root / file.path).open("a") as written:
        written.write("# mine\n")
    with pytest.raises(Conflict, match="was edited"):
        write_cluster_files(remote_project, [file])


def test_data_of_azure_and_a_config_without_a_project_are_refused(remote_project: ProjectFolder) -> None:
    edit(remote_project, use_datastore)
    with pytest.raises(UsageError, match="Azure ML only"):
        cluster_file(remote_project, load_workflow(remote_project.config), "sky", ("run",), (), 1)
    (remote_project.root / "setup" / "setup.py").unlink()
    with pytest.raises(UsageError, match="setup/"):
        cluster_file(remote_project, load_workflow(remote_project.config), "sky", ("run",), (), 1)


def test_the_schemas_refuse_a_key_with_a_typing_error(remote_project: ProjectFolder) -> None:
    for kind, schema, outer in (
        ("sky", "skypilot-0.14.1.json", ()),
        ("k8s", "kubeflow-trainer-2.3.0.json", ("spec", "trainer")),
    ):
        document = part = yaml.safe_load(file_of(remote_project, kind).text)
        for key in outer:
            part = part[key]
        part["num_nodez"] = 1
        with pytest.raises(jsonschema.ValidationError, match="num_nodez"):
            check(document, schema)
