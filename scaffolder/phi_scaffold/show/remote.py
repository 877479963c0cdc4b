"""Jobs on other machines: what is uploaded, states, and outputs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phi_runtime.core.units import count, size
from phi_runtime.remote.slurm import SCRIPT

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder
    from phi_runtime.remote.cluster_files import ClusterFile
    from phi_runtime.remote.download import Downloaded
    from phi_runtime.remote.engine import Status
    from phi_runtime.remote.job import RemoteJob
    from phi_runtime.remote.records import JobRecord


def what_is_sent(job: RemoteJob, place: str, say: Callable[[str], None]) -> None:
    """Print all that leaves this machine for a job: files with their sizes, inputs, and names of secrets."""
    for step in job.steps:
        machines = step.machines
        say(
            f"{job.name}: {', '.join(step.stages)} on `{machines.compute}` ({count(machines.count, 'machine')}) in {place}"
        )
    files = job.snapshot.files
    say(f"uploads {len(files)} files, {size(job.snapshot.size_bytes)}:")
    for file in files:
        say(f"  {size(file.size_bytes):>9}  {file.name}")
    for each in job.inputs:
        say(f"input {each.name}: {each.address or f'{each.place}, uploaded as a data asset'}")
    for name, address in job.secrets.items():
        say(f"the job reads {name} from {address}; no token is sent")


def azureml_dry_run(job: RemoteJob, files: Mapping[str, str], *, as_json: bool) -> None:
    """Print a job as it would be submitted: job.yaml on stdout, the rest on stderr."""
    if as_json:
        sent = {file.name: file.size_bytes for file in job.snapshot.files}
        print(json.dumps({"name": job.name, "files": files, "snapshot": sent, "bytes": job.snapshot.size_bytes}))
        return
    what_is_sent(job, "a dry run", lambda text: print(text, file=sys.stderr))
    packages = {step.environment.image: sum(not p.startswith("-") for p in step.environment.pins) for step in job.steps}
    for image, pins in packages.items():
        if pins:
            print(f"environment: {image} with {pins} packages at tested versions, each with its hash", file=sys.stderr)
    print("nothing was submitted\n", file=sys.stderr)
    print(files["job.yaml"], end="")


def slurm_dry_run(job: RemoteJob, files: Mapping[str, str], command: Sequence[str], *, as_json: bool) -> None:
    """Print the script of a Slurm job on stdout, and the command that would submit it on stderr."""
    if as_json:
        print(json.dumps({"name": job.name, "files": files, "command": list(command)}))
        return
    print(f"nothing was submitted; in {job.project}, this would be:\n  {shlex.join(command)}\n", file=sys.stderr)
    print(files[SCRIPT.name], end="")


def emitted(files: Sequence[ClusterFile], *, as_json: bool) -> None:
    """Print the paths of written files, and the commands that submit them."""
    if as_json:
        print(json.dumps({"files": [{"path": file.path.as_posix(), "commands": file.commands} for file in files]}))
        return
    for file in files:
        print(f"Wrote {file.path.as_posix()}. In the folder of the project:\n")
        print("".join(f"  {command}\n" for command in file.commands))


def outputs_in_place(
    name: str, outputs: Sequence[str], verdict: Mapping[str, Any], flags: str, *, as_json: bool, quiet: bool
) -> None:
    """Print the outputs of a job whose machines work in the folder of the project, and the verdict of its run."""
    if as_json:
        print(json.dumps({"job": name, "downloaded": [], "present": list(outputs), "bytes": 0}))
        return
    for output in outputs:
        print(output)
    if quiet:
        return
    print(f"job {name} works in the project, so its outputs need no download", file=sys.stderr)
    if verdict:
        print(verdict["sentence"], file=sys.stderr)
    commands = verdict.get("commands") or ["phi-scaffold chat"]
    print(f"  help: {'; '.join(f'{command} {flags}'.rstrip() for command in commands)}", file=sys.stderr)


def detached(status: Status, flags: str, *, as_json: bool) -> None:
    """Print how to return to a job."""
    if as_json:
        print(json.dumps(status_as_dict(status)))
        return
    rest = f" {flags}" if flags else ""
    print(f"{status.name}: {status.word}")
    print(f"  help: phi-scaffold remote logs {status.name} -f{rest}", file=sys.stderr)


def downloaded(
    project: ProjectFolder, name: str, result: Downloaded, flags: str, *, as_json: bool, quiet: bool
) -> None:
    """Print which artifacts of a job are here now."""
    if as_json:
        print(
            json.dumps(
                {"job": name, "downloaded": result.artifacts, "present": result.present, "bytes": result.size_bytes}
            )
        )
        return
    gen_model = project.shown(project.gen_model)
    for artifact in result.artifacts:
        print(f"{gen_model}/{artifact}")
    for artifact in result.present:
        print(f"{gen_model}/{artifact} (unchanged)")
    if not quiet:
        print(f"downloaded {size(result.size_bytes)}, checked against the hashes of the job", file=sys.stderr)
        print(f"  help: phi-scaffold chat{f' {flags}' if flags else ''}", file=sys.stderr)


def status_as_dict(status: Status) -> dict[str, Any]:
    """Return the keys of a status in JSON."""
    return {"job": status.name, "state": status.state, "word": status.word, "why": status.why, "page": status.page}


def statuses(found: Sequence[tuple[JobRecord, Status | None]], *, as_json: bool) -> None:
    """Print jobs with their states, the newest first."""
    if as_json:
        jobs = [
            {"engine": record.engine, "submitted_at": record.submitted_at, "stages": record.stages}
            | (
                status_as_dict(status)
                if status
                else {"job": record.name, "state": "gone", "word": "", "why": "", "page": ""}
            )
            for record, status in found
        ]
        print(json.dumps({"jobs": jobs}))
        return
    for record, status in found:
        state = "gone from the service" if status is None else f"{status.state} ({status.word})"
        print(f"{record.name}  {record.submitted_at[:16].replace('T', ' ')}  {state}")
        if status and status.why:
            print(f"  {status.why}")
        if status and status.page:
            print(f"  {status.page}")
