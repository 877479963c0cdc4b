"""The script of a Slurm job and the command that submits it. tests/slurm runs them on a cluster."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from phi_runtime.core.errors import MissingDependency, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.remote.job import RemoteJob
from phi_runtime.remote.slurm import SCRIPT, Slurm, slurm_job, status_of


def folder(root: Path) -> ProjectFolder:
    root.mkdir(parents=True, exist_ok=True)
    return ProjectFolder(root, root / "fine-tuning" / "olive-config.json")


def job_of(
    project: ProjectFolder,
    *options: str,
    device: str = "cpu",
    processes: int = 1,
    arguments: tuple[str, ...] = ("run",),
) -> RemoteJob:
    return slurm_job(project, arguments, ("finetune",), device, processes, list(options))


def test_arguments_reach_sbatch_as_they_are(tmp_path: Path) -> None:
    project = folder(tmp_path / "it's 100%j" / "my demo")
    arguments = ("run", "finetune", "--set", "passes.finetune.r=16", "--data", "data sets/a b.jsonl")
    command = Slurm(project).command(job_of(project, "nodes=2", "--partition=gpu", "exclusive", arguments=arguments))
    assert command[0] == "sbatch"
    assert command[-len(arguments) - 1 :] == [str(SCRIPT), *arguments]
    assert {"--nodes=2", "--partition=gpu", "--exclusive"} <= set(command)
    (output,) = (word for word in command if word.startswith("--output="))
    assert output.removeprefix("--output=") == f"{tmp_path}/it's 100%%j/my demo/gen-model/remote/slurm-%j.log"


@pytest.mark.parametrize(
    "option",
    [
        "",
        "=2",
        "nodes 2",
        "nodes=2\n#SBATCH --uid=0",
        "nodes=2;id",
        "a=$(id)",
        "-p",
        "array=1-9",
        "clusters=other",
        "wrap=id",
        "output=x",
    ],
)
def test_options_that_break_the_job_or_the_script_are_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError):
        job_of(folder(tmp_path), option)


@pytest.mark.parametrize(
    ("device", "processes", "options", "gpus"),
    [
        ("cpu", 2, [], []),
        ("gpu", 1, [], []),  # the script requests one
        ("gpu", 4, [], ["--gpus-per-node=4"]),
        ("gpu", 4, ["gres=gpu:a100:4"], ["--gres=gpu:a100:4"]),
    ],
)
def test_each_process_on_gpus_gets_one(
    tmp_path: Path, device: str, processes: int, options: list[str], gpus: list[str]
) -> None:
    project = folder(tmp_path)
    job = job_of(project, *options, device=device, processes=processes)
    command = Slurm(project).command(job)
    assert [word for word in command if word.startswith(("--gpus", "--gres"))] == gpus
    assert ("--nproc" in command) == (processes > 1)
    # An option for GPUs replaces the one of the script.
    assert ("\n#SBATCH --gpus" in Slurm(project).render(job)[SCRIPT.name]) == (device == "gpu" and not gpus)


@pytest.mark.parametrize(
    ("options", "cores"),
    [([], ["--cpus-per-task=4"]), (["cpus-per-task=8"], ["--cpus-per-task=8"]), (["exclusive"], [])],
)
def test_each_process_on_cores_gets_one(tmp_path: Path, options: list[str], cores: list[str]) -> None:
    project = folder(tmp_path)
    command = Slurm(project).command(job_of(project, *options, processes=4))
    assert [word for word in command if word.startswith("--cpus")] == cores


def test_the_script_is_valid_bash_that_runs_the_interpreter_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = folder(tmp_path / "a 'b'")
    for python in (project.root / ".venv/bin/python", tmp_path / "other env/bin/python"):
        monkeypatch.setattr(sys, "executable", str(python))
        text = Slurm(project).render(job_of(project, device="gpu"))[SCRIPT.name]
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
        words = shlex.split(next(line for line in text.splitlines() if "phi_scaffold" in line).rstrip("&"))
        assert words[0] == (".venv/bin/python" if python.is_relative_to(project.root) else str(python))
        lines = text.splitlines()
        assert {"#SBATCH --gpus-per-node=1", "#SBATCH --requeue", "#SBATCH --signal=B:TERM@120"} <= set(lines)


def test_equal_runs_of_a_project_have_one_name_and_those_of_others_another(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "a" / "demo"), folder(tmp_path / "b" / "demo")
    assert job_of(one).name == job_of(one, "time=5").name
    names = {job_of(one).name, job_of(two).name, job_of(one, arguments=("run", "merge")).name}
    assert len(names) == 3
    assert all(name.startswith("phi-demo-") for name in names)


def test_an_edited_script_is_submitted_and_kept(tmp_path: Path) -> None:
    project = folder(tmp_path)
    job, script = job_of(project), project.root / SCRIPT
    script.parent.mkdir()
    script.write_text(Slurm(project).render(job)[SCRIPT.name].replace("--nodes=1", "--nodes=3"))
    assert "#SBATCH --nodes=3" in Slurm(project).render(job)[SCRIPT.name]
    script.unlink()
    assert "#SBATCH --nodes=1" in Slurm(project).render(job)[SCRIPT.name]


@pytest.mark.parametrize(
    ("word", "reason", "code", "state", "why"),
    [
        ("PENDING", "Resources", "0:0", "queued", "Resources"),
        ("RUNNING", "None", "0:0", "running", ""),
        ("COMPLETED", "None", "0:0", "done", ""),
        ("CANCELLED", "None", "0:15", "canceled", ""),
        ("FAILED", "NonZeroExitCode", "3:0", "failed", "NonZeroExitCode, exit code 3"),
        ("TIMEOUT", "TimeLimit", "0:0", "failed", "TimeLimit, exit code 0"),
        ("OUT_OF_MEMORY", "None", "0:125", "failed", "OUT_OF_MEMORY, exit code 0:125"),
        ("A_STATE_OF_LATER", "None", "0:0", "failed", "A_STATE_OF_LATER, exit code 0"),
    ],
)
def test_states_of_slurm(word: str, reason: str, code: str, state: str, why: str) -> None:
    text = f"JobId=3 JobName=phi-demo-1\n   JobState={word} Reason={reason} Dependency=(null)\n   Requeue=1 ExitCode={code}\n"
    status = status_of("3", text)
    assert (status.state, status.word, status.why) == (state, word, why)


def test_without_slurm_the_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependency, match="squeue"):
        Slurm(folder(tmp_path)).active(job_of(folder(tmp_path)))


def test_a_machine_with_the_programs_of_slurm_and_no_cluster_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho 'squeue: fatal: Could not establish a configuration source' >&2\nexit 1\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(MissingDependency, match="no cluster on this machine") as raised:
        Slurm(folder(tmp_path / "p")).active(job_of(folder(tmp_path / "p")))
    assert "login node" in raised.value.fix


def test_programs_of_slurm_get_no_variables_of_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch stores the environment of a job at the controller."""
    project = folder(tmp_path / "p")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text('#!/bin/sh\necho "JobState=RUNNING Reason=[$HF_TOKEN][$OTHER] ExitCode=0:0"\n')
    (programs / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    (project.root / ".env").write_text("HF_TOKEN=hf_canary\n")
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("OTHER", "kept")
    status = Slurm(project).status("3")
    assert status is not None
    assert status.why == "[][kept]"


def test_a_forgotten_job_has_the_state_of_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = folder(tmp_path / "p")
    (tmp_path / "scontrol").write_text(
        "#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n"
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    logs = project.root / "gen-model" / "remote"
    logs.mkdir(parents=True)
    (logs / "slurm-4.exit").write_text("0\n")
    (logs / "slurm-5.exit").write_text("3\n")
    (logs / "slurm-6.log").write_text("began\n")
    states = [Slurm(project).status(name) for name in ("4", "5", "6", "7")]
    assert [state and (state.state, state.why) for state in states] == [
        ("done", ""),
        ("failed", "exit code 3"),
        ("failed", "it was killed"),
        None,
    ]


def test_a_log_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phi_runtime.remote.slurm.LOG_CHUNK_BYTES", 4)
    engine = Slurm(folder(tmp_path))
    engine.logs_folder.mkdir(parents=True)
    (engine.logs_folder / "slurm-17.log").write_bytes(b"0123456789")
    chunks = [(chunk.offset, chunk.data) for chunk in engine.logs("17", {"slurm-17.log": 1})]
    assert chunks == [(1, b"1234"), (5, b"5678"), (9, b"9")]
