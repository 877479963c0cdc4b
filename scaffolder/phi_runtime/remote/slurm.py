"""Jobs on a Slurm cluster, whose nodes share the project's file system: `remote/job.sbatch`, sbatch, scontrol, scancel.

The name of a job is its number. Its log and its exit code are files of the project, so they outlive Slurm's memory of the job.
"""

from __future__ import annotations

import getpass
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from phi_runtime.core.artifacts import digest, write_text
from phi_runtime.core.dotenv import environment_without_dotenv
from phi_runtime.core.errors import MissingDependency, NetworkError, UsageError, WorkFailed
from phi_runtime.core.project import GEN_MODEL, ProjectFolder
from phi_runtime.core.signed_text import is_edited, signed
from phi_runtime.remote.engine import JobState, LogChunk, RemoteFile, Status
from phi_runtime.remote.job import Environment, Machines, RemoteJob, Step, job_label
from phi_runtime.remote.snapshot import Snapshot

SCRIPT = Path("remote/job.sbatch")
_LOGS = Path(GEN_MODEL) / "remote"
_TIMEOUT_S = 60.0
_SHORTEST_S = 300
LOG_CHUNK_BYTES = 2**20
"""Most bytes of a log that are read at once: a log may have gigabytes."""
_STATES: dict[str, JobState] = {
    **dict.fromkeys(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"), "queued"),
    **dict.fromkeys(("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"), "running"),
    "COMPLETED": "done",
    "CANCELLED": "canceled",
}
_OPTION = re.compile(r"[a-z][a-z-]*(=[\w.,:/@%+*&|()\[\]=-]+)?", re.ASCII)
_CORES = frozenset(["cpus-per-task", "cpus-per-gpu", "mincpus", "exclusive"])
# Options that the script depends on, and those with which sbatch prints or submits something else.
_OURS = frozenset(
    [
        "array",
        "chdir",
        "clusters",
        "error",
        "export-file",
        "help",
        "input",
        "job-name",
        "open-mode",
        "output",
        "parsable",
        "quiet",
        "test-only",
        "usage",
        "version",
        "wait",
        "wrap",
    ]
)

_TEMPLATE = """\
#!/bin/bash
# Runs phi-scaffold on the nodes of a Slurm job. `phi-scaffold run --on slurm` submits it; manually, in the folder of the project:
#   sbatch remote/job.sbatch run
# Edit the options of sbatch here; the edited file is kept. To write it again, delete it.
#SBATCH --job-name={name}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
{gpus}
##SBATCH --cpus-per-task=8
##SBATCH --mem=32G
##SBATCH --time=04:00:00
##SBATCH --partition=NAME
##SBATCH --account=NAME
#SBATCH --output={logs}/slurm-%j.log
#SBATCH --open-mode=append
# A preempted job is queued again and resumes; 120 s before its time limit a job saves its step and ends.
#SBATCH --requeue
#SBATCH --signal=B:TERM@120

mkdir -p {logs}
ended={logs}/slurm-$SLURM_JOB_ID.exit
rm -f "$ended"
export PHI_SCAFFOLD_JOB=$SLURM_JOB_ID
export PHI_SCAFFOLD_CORES=${{PHI_SCAFFOLD_CORES:-$SLURM_CPUS_ON_NODE}}
# The machines meet at the address under which Slurm itself reaches the first one; its name may not be known to DNS.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR=${{MASTER_ADDR:-$(scontrol show node "$first" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)}}
export MASTER_PORT=${{MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}}

# One process per node: the first one runs the workflow, the others take part in its trainings.
srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=1 \\
    bash -c 'export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS; exec "$@"' phi-scaffold \\
    {python} -P -m phi_scaffold "$@" &
running=$!
signaling=
# In the background: if the job is being requeued, its steps have the signal already, and scancel would try for half a minute.
trap 'scancel --signal=TERM "$SLURM_JOB_ID" & signaling=$!' TERM
while wait "$running"; code=$?; kill -0 "$running" 2>/dev/null; do :; done
[ -z "$signaling" ] || kill "$signaling" 2>/dev/null # or it would reach the next run of the job
echo "$code" >"$ended"
exit "$code"
"""


def slurm_job(
    project: ProjectFolder,
    arguments: tuple[str, ...],
    stages: tuple[str, ...],
    device: str,
    processes: int,
    options: list[str],
    time_limit_s: int | None = None,
) -> RemoteJob:
    """Return the job that runs `phi-scaffold ARGUMENTS` in the project.

    Args:
        arguments: Arguments of `phi-scaffold`, without `--nproc`.
        device: "gpu" or "cpu", of the config's host.
        processes: Processes that train together on each node; on GPUs, one for each.
        options: Options of sbatch, such as `partition=gpu`.
        time_limit_s: Time limit; None for that of the partition.

    Raises:
        UsageError: An option is not valid, or is one that the script needs; the time limit is too short.
    """
    chosen = dict(map(_option, options))
    if time_limit_s is not None:
        if "time" in chosen:
            raise UsageError("--time-limit and `--sbatch time` are the same option", fix="omit one of them")
        if time_limit_s < _SHORTEST_S:
            fix = f"use --time-limit {_SHORTEST_S // 60}m or more"
            what = f"a time limit of {time_limit_s} s is too short: a job saves its step and ends 120 s before it"
            raise UsageError(what, fix=fix)
        chosen["time"] = str(math.ceil(time_limit_s / 60))
    if device == "gpu" and processes > 1 and not any(name.startswith(("gpus", "gres")) for name in chosen):
        chosen["gpus-per-node"] = str(processes)
    if device == "cpu" and processes > 1 and not chosen.keys() & _CORES:
        chosen["cpus-per-task"] = str(processes)
    nodes = chosen.get("nodes", "1")
    machines = Machines(
        chosen.get("partition", ""),
        device,
        int(nodes) if nodes.isdecimal() else 1,
        processes,
        chosen,
    )
    command = (*arguments, *machines.arguments)
    name = f"{job_label(project.root)}-{digest([str(project.root), command])[:8]}"
    step = Step("run", command, stages, machines, Environment())
    return RemoteJob(name, project.root, (step,), Snapshot(()))


def _option(text: str) -> tuple[str, str]:
    """Return the name and value of an option of sbatch; its value is "" if it has none."""
    name, _, value = text.removeprefix("--").partition("=")
    if not _OPTION.fullmatch(text.removeprefix("--")):
        raise UsageError(f"`--sbatch {text}` is not OPTION=VALUE", fix="write, for example, --sbatch partition=gpu")
    if name in _OURS:
        raise UsageError(f"`--sbatch {name}` would break the job", fix=f"edit {SCRIPT} and submit it with sbatch")
    return name, value


class Slurm:
    """The Slurm cluster that the programs on the PATH reach. An `engine.Engine`."""

    name = "slurm"
    shares_disk = True

    def __init__(self, project: ProjectFolder) -> None:
        self.project = project
        self.logs_folder = project.root / _LOGS

    def render(self, job: RemoteJob) -> dict[str, str]:
        """Return the script that is submitted: the one of the project if the user has edited it."""
        script = job.project / SCRIPT
        if is_edited(script):
            return {SCRIPT.name: script.read_text(encoding="utf-8")}
        machines = job.steps[0].machines
        counted = any(name.startswith(("gpus", "gres")) for name in machines.resources)  # not in addition to it
        gpus = f"{'#SBATCH' if machines.device == 'gpu' and not counted else '##SBATCH'} --gpus-per-node=1"
        python = Path(sys.executable)
        if python.is_relative_to(job.project):
            python = python.relative_to(job.project)
        text = _TEMPLATE.format(
            name=job_label(job.project), gpus=gpus, logs=_LOGS.as_posix(), python=shlex.quote(str(python))
        )
        return {SCRIPT.name: signed(text, comment="#")}

    def command(self, job: RemoteJob) -> list[str]:
        """Return the command that submits the job, in the folder of the project."""
        step = job.steps[0]
        options = [f"--{name}={value}" if value else f"--{name}" for name, value in step.machines.resources.items()]
        # The folder of the job is part of a relative name, and sbatch would replace `%` in it.
        log = str(self.logs_folder).replace("%", "%%") + "/slurm-%j.log"
        return [
            "sbatch",
            "--parsable",
            f"--job-name={job.name}",
            f"--output={log}",
            *options,
            str(SCRIPT),
            *step.arguments,
        ]

    def active(self, job: RemoteJob) -> Status | None:
        """Return the status of an equal job that is queued or running; None if there is none."""
        names = [f"--user={getpass.getuser()}", f"--name={job.name}"]
        listed = _call(["squeue", "--noheader", "--states=all", "--format=%i %T", *names], self.project.root)
        for line in listed.splitlines():
            number, _, word = line.strip().partition(" ")
            if word != "COMPLETING" and _STATES.get(word) in ("queued", "running"):
                return self._known(number)
        return None

    def submit(self, job: RemoteJob) -> Status:
        """Submit the job and return its status. Jobs of Slurm have numbers; `active` finds an equal one."""
        script = job.project / SCRIPT
        script.parent.mkdir(exist_ok=True)
        write_text(script, self.render(job)[SCRIPT.name])
        self.logs_folder.mkdir(parents=True, exist_ok=True)
        number = _call(self.command(job), self.project.root).strip().partition(";")[0]  # NUMBER;CLUSTER
        return self._known(number)

    def status(self, name: str) -> Status | None:
        try:
            text = _call(["scontrol", "show", "job", _number(name)], self.project.root)
        except WorkFailed:  # Slurm forgets a job some minutes after its end
            return self._ended(name)
        return status_of(name, text)

    def _known(self, number: str) -> Status:
        return self.status(number) or Status(number, "queued", "PENDING")

    def _ended(self, name: str) -> Status | None:
        """Return the status of a job that Slurm has forgotten, from its exit code; None if it never was in this project."""
        file = self.logs_folder / f"slurm-{name}.exit"
        if file.is_file():
            code = file.read_text(encoding="ascii").strip()
            return Status(
                name, "done" if code == "0" else "failed", "ENDED", "" if code == "0" else f"exit code {code}"
            )
        if (self.logs_folder / f"slurm-{name}.log").is_file():
            return Status(name, "failed", "ENDED", "it was killed")
        return None

    def logs(self, name: str, offsets: Mapping[str, int]) -> Iterator[LogChunk]:
        file = self.logs_folder / f"slurm-{_number(name)}.log"
        offset = offsets.get(file.name, 0)
        if file.is_file():
            with file.open("rb") as log:
                log.seek(offset)
                while data := log.read(LOG_CHUNK_BYTES):
                    yield LogChunk(file.name, offset, data)
                    offset += len(data)

    def cancel(self, name: str) -> None:
        _call(["scancel", _number(name)], self.project.root)

    def outputs(self, name: str) -> list[RemoteFile]:
        return []  # they are in the project

    def read(self, name: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
        return iter(())


def status_of(name: str, text: str) -> Status:
    """Return the status of a job from what `scontrol show job` printed of it."""
    word = _field(text, "JobState")
    state = _STATES.get(word, "failed")
    reason, exit_code = _field(text, "Reason"), _field(text, "ExitCode")
    why = "" if state == "done" or reason == "None" else reason
    if state == "failed":
        why = f"{why or word}, exit code {exit_code.removesuffix(':0')}"
    return Status(name, state, word, why)


def _number(name: str) -> str:
    if not name.isdecimal():
        raise UsageError(f"`{name}` is not the number of a Slurm job", fix="see `squeue --me`")
    return name


def _field(text: str, name: str) -> str:
    match = re.search(rf"\b{name}=(\S+)", text)
    return match[1] if match else ""


def _call(command: list[str], project: Path) -> str:
    """Return the output of a program of Slurm, which does not get the variables of the project's .env: Slurm stores them.

    Raises:
        MissingDependency: Slurm is not installed, or has no cluster here.
        NetworkError: Its controller does not answer.
        WorkFailed: It refused the request.
    """
    try:
        done = subprocess.run(
            command,
            cwd=project,
            env=environment_without_dotenv(project),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        fix = "run this on a login node of the cluster"
        raise MissingDependency(f"`{command[0]}` is not installed on this machine", fix=fix) from None
    except subprocess.TimeoutExpired:
        raise NetworkError(f"`{command[0]}` did not answer within {_TIMEOUT_S:g} s", fix="try again later") from None
    if done.returncode == 0:
        return done.stdout
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    message = "; ".join(line.removeprefix(f"{command[0]}: error: ") for line in lines[-3:])
    if "configuration source" in done.stderr:  # the programs are here, and no cluster
        raise MissingDependency("Slurm has no cluster on this machine", fix="run this on a login node of the cluster")
    if "contact" in done.stderr or "onnect" in done.stderr:
        raise NetworkError(f"Slurm cannot be reached: {message}", fix="try again later")
    raise WorkFailed(f"Slurm refused `{command[0]}`: {message}", fix="see the options: --sbatch, and remote/job.sbatch")
