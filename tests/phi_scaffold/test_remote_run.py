"""`run --on slurm` and `run --emit` as a user sees them, with programs of Slurm that answer from files. tests/slurm has a cluster."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.signed_text import is_edited
from phi_runtime.remote.cluster_files import KINDS
from phi_scaffold.cli import completion
from tests.conftest import Cli, MakeProject, edit_config
from tests.phi_runtime.remote.conftest import remote_project as remote_project

# Prints the file that has its name, and notes its call and its variable HF_TOKEN in the file `calls`.
PROGRAM = """\
#!/bin/sh
cd "$(dirname "$0")"
printf '%s\\n' "$(basename "$0") $* [$HF_TOKEN]" >>calls
[ -f "$(basename "$0").err" ] && cat "$(basename "$0").err" >&2 && exit 1
cat "$(basename "$0").out" 2>/dev/null || true
"""


@dataclass(frozen=True)
class Programs:
    """sbatch, squeue, scontrol and scancel, and what they print."""

    folder: Path

    def prints(self, name: str, text: str) -> None:
        (self.folder / f"{name}.out").write_text(text)

    def refuses(self, name: str, text: str) -> None:
        (self.folder / f"{name}.err").write_text(text)

    def calls(self, name: str) -> list[str]:
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(f"{name} ")]

    def job_is(self, state: str, reason: str = "None", code: str = "0:0") -> None:
        self.prints("scontrol", f"JobId=17 JobState={state} Reason={reason} ExitCode={code}\n")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        (folder / name).write_text(PROGRAM)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    programs = Programs(folder)
    programs.prints("sbatch", "17\n")
    programs.job_is("PENDING", "Resources")
    return programs


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def write_log(project: ProjectFolder, *events: dict[str, object]) -> None:
    folder = project.root / "gen-model" / "remote"
    folder.mkdir(parents=True, exist_ok=True)
    common = {"event": "", "stage": "", "time": "2026-11-29T02:55:05.693+00:00"}
    lines = [json.dumps({**common, **event}) for event in events]
    (folder / "slurm-17.log").write_text("\n".join(["srun: a note", *lines]) + "\n")


@pytest.mark.usefixtures("no_slurm")
def test_a_dry_run_prints_script_and_command_and_writes_nothing(cli: Cli, make_project: MakeProject) -> None:
    project = make_project("my demo")
    before = {path for path in project.root.rglob("*") if path.is_file()}
    flags = ("--sbatch", "nodes=2", "--sbatch", "exclusive", "--time-limit", "4h", "--project", project.root)
    done = cli("run", "--on", "slurm", "--dry-run", "--until", "merge", *flags)
    assert done.code == 0, done.err
    assert done.out.startswith("#!/bin/bash\n")
    command = shlex.split(next(line for line in done.err.splitlines() if line.startswith("  sbatch ")))
    assert {"--nodes=2", "--exclusive", "--time=240"} <= set(command)
    assert command[-5:] == ["remote/job.sbatch", "run", "--until", "merge", "--json"]
    described = cli("run", "--on", "slurm", "--dry-run", "--until", "merge", *flags, "--json").json
    assert described["files"] == {"job.sbatch": done.out}
    assert described["command"] == command
    assert {path for path in project.root.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("no_slurm")
def test_a_job_gets_the_flags_that_its_run_needs(cli: Cli, make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project()
    rows = tmp_path / "my rows.jsonl"
    rows.write_text('{"phrase": "a", "tone": "joy"}\n')
    flags = ("--data", rows, "--set", "passes.finetune.r=4", "--skip-bad-rows", "--nproc", "2", "--force", "finetune")
    done = cli("run", "--on", "slurm", "--dry-run", "--json", *flags, "--project", project.root)
    assert done.code == 0, done.err
    command = done.json["command"]
    arguments = command[command.index("remote/job.sbatch") + 1 :]
    assert " ".join(arguments[:6]) == "run --force finetune --set passes.finetune.r=4 --skip-bad-rows"
    assert arguments[6:] == ["--json", "--data", str(rows), "--nproc", "2"]
    assert "--cpus-per-task=2" in command


REFUSED = {
    "upload": (["--on", "slurm", "--upload"], "the nodes read the files of the project", "omit --upload"),
    "detach here": (["--detach"], "--detach is for jobs", "--on slurm"),
    "sbatch here": (["--on", "local", "--sbatch", "nodes=2"], "--sbatch is for jobs", "--on slurm"),
    "sbatch on Azure ML": (["--on", "azureml", "--sbatch", "nodes=2"], "--sbatch is for --on slurm", "omit --sbatch"),
    "setup": (["--on", "slurm", "--setup"], "--setup is for this machine", "omit --setup"),
    "no option": (["--on", "slurm", "--sbatch", "nodes 2"], "`--sbatch nodes 2`", "--sbatch partition=gpu"),
    "option of the script": (["--on", "slurm", "--sbatch", "array=3"], "`--sbatch array`", "remote/job.sbatch"),
    "two limits": (["--on", "slurm", "--sbatch", "time=9", "--time-limit", "4h"], "same option", "omit one"),
    "short": (["--on", "slurm", "--time-limit", "90s"], "90 s is too short", "--time-limit 5m"),
    "no time": (["--on", "slurm", "--time-limit", "soon"], "`--time-limit soon`", "--time-limit 4h"),
    "uneven": (["--on", "slurm", "--sbatch", "nodes=3"], "3 processes cannot share", "gradient_accumulation_steps"),
    "stage": (["--on", "slurm", "fintune"], "did you mean `finetune`", "stages:"),
    "name": (["--on", "slrum"], "did you mean `slurm`", "slurm"),
    "emit and on": (["--emit", "sky", "--on", "slurm"], "--emit writes files only", "omit --on"),
    "emit and dry run": (["--emit", "sky", "--dry-run"], "--emit writes files only", "omit --dry-run"),
    "emit and data": (["--emit", "sky", "--data", "rows.jsonl"], "--data reads a file", "data_files"),
    "kind": (["--emit", "aws"], "unknown value `aws` for --emit", "sky, hf, k8s"),
}


@pytest.mark.parametrize(("arguments", "what", "fix"), REFUSED.values(), ids=REFUSED)
def test_flags_that_make_no_sense_are_refused_with_a_fix(
    arguments: list[str], what: str, fix: str, cli: Cli, remote_project: ProjectFolder, slurm: Programs
) -> None:
    shutil.rmtree(remote_project.root / ".venv")  # not an environment
    done = cli("run", *arguments, "--project", remote_project.root)
    assert done.code == 2, done.err
    assert what in done.err
    assert fix in done.err.partition("help:")[2]
    assert slurm.calls("sbatch") == []
    assert not (remote_project.root / "remote").exists()


def test_a_config_for_azure_ml_is_refused(cli: Cli, make_project: MakeProject, slurm: Programs) -> None:
    project = make_project()
    edit_config(project, lambda c: c["systems"].update(aml={"type": "AzureML", "aml_compute": "gpus"}))
    edit_config(project, lambda c: c.update(host="aml"))
    for flags in (["--on", "slurm"], ["--emit", "sky"]):
        done = cli("run", *flags, "--project", project.root)
        assert done.code in (2, 3), done.err
        assert "aml" in done.err
    assert slurm.calls("sbatch") == []


@pytest.mark.usefixtures("no_slurm")
def test_without_slurm_nothing_is_written(cli: Cli, make_project: MakeProject) -> None:
    project = make_project()
    done = cli("run", "--on", "slurm", "--project", project.root)
    assert done.code == 5
    assert "login node" in done.err
    assert not (project.root / "remote").exists()


def test_a_submitted_job_is_recorded_under_its_number(
    cli: Cli, make_project: MakeProject, slurm: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project("my demo")
    (project.root / ".env").write_text("HF_TOKEN=hf_canary\n")
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    there = ("--project", project.root)
    done = cli("run", "finetune", "--on", "slurm", "--detach", *there, "--set", "passes.finetune.r=4")
    assert done.code == 0, done.err
    assert "submitted job 17" in done.err
    back = shlex.split(done.err.partition("help: ")[2])
    assert back == ["phi-scaffold", "remote", "logs", "17", "-f", "--project", str(project.root)]
    record = json.loads((project.gen_model / "remote" / "17" / "record.json").read_text())
    assert (record["name"], record["engine"], record["stages"]) == ("17", "slurm", ["fetch", "finetune"])
    script = (project.root / "remote" / "job.sbatch").read_text()
    assert (project.gen_model / "remote" / "17" / "job.sbatch").read_text() == script
    assert cli("remote", "status", *there, "--json").json["jobs"][0] | {"submitted_at": ""} == {
        **{"engine": "slurm", "submitted_at": "", "stages": ["fetch", "finetune"]},
        **{"job": "17", "state": "queued", "word": "PENDING", "why": "Resources", "page": ""},
    }
    assert cli("remote", "cancel", *there).code == 0
    assert slurm.calls("scancel") == ["scancel 17 []"]
    assert "need no download" in cli("remote", "download", *there).err
    assert all("canary" not in call for name in ("sbatch", "squeue") for call in slurm.calls(name))
    assert "canary" not in done.out + done.err + script


@pytest.mark.parametrize(
    ("listed", "submits"), [("12 COMPLETING\n16 PENDING\n", False), ("12 FAILED\n13 COMPLETED\n", True)]
)
def test_work_that_is_queued_or_running_is_not_submitted_again(
    listed: str, submits: bool, cli: Cli, make_project: MakeProject, slurm: Programs
) -> None:
    slurm.prints("squeue", listed)
    done = cli("run", "--on", "slurm", "--detach", "--project", make_project().root)
    assert done.code == 0, done.err
    assert len(slurm.calls("sbatch")) == submits
    assert ("job 16 is queued already" in done.err) != submits


def test_a_job_that_is_done_prints_its_outputs_and_its_verdict(
    cli: Cli, make_project: MakeProject, slurm: Programs
) -> None:
    project = make_project()
    slurm.job_is("COMPLETED")
    finished = {
        "event": "stage-finished",
        "stage": "finetune",
        "state": "done",
        "output": "gen-model/adapter",
        "wall_s": 1,
    }
    verdict = {"sentence": "Check first, not measured", "commands": ["phi-scaffold evaluate"]}
    write_log(
        project, finished, {"event": "run-finished", "wall_s": 1, "state": "done", "done": [], "verdict": verdict}
    )
    done = cli("run", "--on", "slurm", "--project", project.root)
    assert done.code == 0, done.err
    assert done.out == "gen-model/adapter\n"
    assert "srun: a note" in done.err
    assert "Check first, not measured" in done.err
    assert f"phi-scaffold evaluate --project {project.root}" in done.err
    events = cli("run", "--on", "slurm", "--project", project.root, "--json").events
    assert [event.get("event") for event in events] == ["stage-finished", "run-finished", None]
    assert events[-1] == {"job": "17", "downloaded": [], "present": ["gen-model/adapter"], "bytes": 0}


def test_a_failed_job_ends_with_its_own_error_place_fix_and_code(
    cli: Cli, make_project: MakeProject, slurm: Programs
) -> None:
    project = make_project()
    slurm.job_is("FAILED", "NonZeroExitCode", "4:0")
    error = {"message": "this row is empty", "where": "/p/rows.jsonl:3:1", "fix": "remove it", "exit_code": 4}
    write_log(project, {"event": "error", **error})
    done = cli("run", "--on", "slurm", "--project", project.root)
    assert done.code == 4
    assert "/p/rows.jsonl:3:1: error: job 17 failed: this row is empty" in done.err
    assert "remove it; see its log: phi-scaffold remote logs 17" in done.err
    started = {"event": "stage-started", "stage": "fetch", "index": 1, "count": 2}
    write_log(project, {"event": "error", **error}, started)  # queued again, and killed
    done = cli("remote", "logs", "-f", "--project", project.root)
    assert done.code == 1
    assert "job 17 failed: NonZeroExitCode, exit code 4" in done.err


def test_the_log_of_a_job_as_json_has_events_only(cli: Cli, make_project: MakeProject, slurm: Programs) -> None:
    project = make_project()
    slurm.job_is("RUNNING")
    assert cli("run", "--on", "slurm", "--detach", "--project", project.root).code == 0
    write_log(project, {"event": "metric", "stage": "finetune", "loss": 1.5})
    done = cli("remote", "logs", "--json", "--project", project.root)
    assert [event["loss"] for event in done.events] == [1.5]
    assert done.err == "srun: a note\n"
    assert cli("remote", "logs", "--project", project.root).out.startswith("srun: a note\n")


def test_what_slurm_refuses_is_printed(cli: Cli, make_project: MakeProject, slurm: Programs) -> None:
    project = make_project()
    slurm.refuses("sbatch", "sbatch: error: invalid partition specified: x\n")
    done = cli("run", "--on", "slurm", "--sbatch", "partition=x", "--project", project.root)
    assert done.code == 1
    assert "invalid partition specified: x" in done.err
    assert not list(project.gen_model.glob("remote/*/record.json"))


@pytest.mark.usefixtures("slurm")
def test_an_edited_script_is_submitted_as_it_is(cli: Cli, make_project: MakeProject) -> None:
    project = make_project()
    script = project.root / "remote" / "job.sbatch"
    assert cli("run", "--on", "slurm", "--detach", "--project", project.root).code == 0
    edited = script.read_text().replace("##SBATCH --mem=32G", "#SBATCH --mem=8G")
    script.write_text(edited)
    done = cli("run", "--on", "slurm", "--detach", "--project", project.root)
    assert "was edited, and is submitted as it is" in done.err
    assert script.read_text() == edited


def test_a_job_that_slurm_has_forgotten_without_a_trace_is_an_error(
    cli: Cli, make_project: MakeProject, slurm: Programs
) -> None:
    project = make_project()
    there = ("--project", project.root)
    assert cli("run", "--on", "slurm", "--detach", *there).code == 0
    slurm.refuses("scontrol", "slurm_load_jobs error: Invalid job id specified\n")
    assert "gone from the service" in cli("remote", "status", *there).out
    done = cli("remote", "logs", "-f", *there)
    assert done.code == 1
    assert "job 17 is gone" in done.err


def test_emit_writes_files_and_prints_the_commands_that_submit_them(cli: Cli, remote_project: ProjectFolder) -> None:
    there = ("--project", remote_project.root, "--trust-project")
    done = cli("run", "finetune", "--emit", "sky", "--emit", "k8s", *there)
    assert done.code == 0, done.err
    for name, command in (
        ("sky.yaml", "sky launch "),
        ("k8s-trainjob.yaml", "kubectl create -f remote/k8s-trainjob.yaml"),
    ):
        assert f"Wrote remote/{name}." in done.out
        assert f"\n  {command}" in done.out
        assert "-m phi_scaffold run finetune\n" in (remote_project.root / "remote" / name).read_text()
    described = cli("run", "--emit", "HF", *there, "--json").json
    (file,) = described["files"]
    assert file["path"] == "remote/hf_job.py"
    assert [command.split()[:2] for command in file["commands"]] == [
        ["hf", "upload"],
        ["hf", "jobs"],
        ["hf", "download"],
    ]


def test_an_edited_file_is_kept_and_none_is_written(cli: Cli, remote_project: ProjectFolder) -> None:
    there = ("--project", remote_project.root, "--trust-project")
    assert cli("run", "--emit", "sky", *there).code == 0
    sky = remote_project.root / "remote" / "sky.yaml"
    sky.write_text(edited := sky.read_text().replace("cpus: 8+", "cpus: 4+"))
    assert is_edited(sky)
    done = cli("run", "--emit", "hf", "--emit", "sky", *there)
    assert done.code == 6
    assert "remote/sky.yaml was edited" in done.err
    assert "delete it" in done.err
    assert sky.read_text() == edited
    assert not (remote_project.root / "remote" / "hf_job.py").exists()


def test_completion_offers_all_clusters() -> None:
    assert completion.clusters("") == list(KINDS)
