"""Reproduce a run: restore its config as a task of the project, check that its inputs are the same, and compare the outputs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import EVALUATION
from phi_runtime.config.reading.source import is_yaml, read_source
from phi_runtime.core.artifacts import file_digest, read_manifest, versions, write_text
from phi_runtime.core.errors import Conflict, UsageError
from phi_runtime.core.project import CONFIG as DEFAULT_CONFIG
from phi_runtime.core.project import ProjectFolder, for_task
from phi_runtime.core.secrets import SECRET
from phi_runtime.hardware.device import usable_cores
from phi_runtime.hardware.machine import BFLOAT16, gpus, has_bfloat16
from phi_runtime.pipeline.run_record import CONFIG_FILES, git_commit
from phi_runtime.report.differences import chosen_config
from phi_runtime.report.history import RecordedRun

TASK = "reproduce-"  # followed by the id of the run


@dataclass(frozen=True)
class Mismatch:
    """An input that differs from that of the run.

    Attributes:
        changes_result: The result will be another one. Otherwise it may differ in its last bits.
    """

    subject: str
    recorded: str
    current: str
    changes_result: bool
    fix: str = ""


@dataclass(frozen=True)
class Reproduction:
    """Config, flags and checks that reproduce a run.

    Attributes:
        project: The task of the project in which it runs: its outputs are in gen-model/<task>/, next to the current ones.
        files: Texts of the config files to write, by path.
        overrides: Those of the run, such as --set.
        request: The arguments of the run: `only`, `until` and `nproc`.
        mismatches: Inputs that are not those of the run.
    """

    run: RecordedRun
    project: ProjectFolder
    files: dict[Path, str]
    overrides: Overrides
    request: dict[str, Any]
    mismatches: list[Mismatch]

    @property
    def command(self) -> str:
        """The command that runs it, once the files are written."""
        task = self.project.gen_model.name
        flags = [*_stages(self.request), "--task-name", task, *_flags(self.overrides)]
        flags += ["--nproc", str(self.request["nproc"])] if self.request["nproc"] > 1 else []
        return shlex.join(["phi-scaffold", "run", *flags])

    def write(self) -> None:
        """Write the config files.

        Raises:
            Conflict: One exists with another content.
        """
        for path, text in self.files.items():
            if path.is_file() and path.read_text(encoding="utf-8") != text:
                raise Conflict(f"{path} exists and is not the config of this run", fix=f"rename or delete {path}")
        for path, text in self.files.items():
            write_text(path, text)


@dataclass(frozen=True)
class ReproducedOutput:
    """The output of a stage, with the digests of its content in the run and in the reproduction."""

    stage: str
    recorded: str
    reproduced: str | None

    @property
    def is_same(self) -> bool:
        return self.recorded == self.reproduced


def plan_reproduction(run: RecordedRun, allowed: Overrides) -> Reproduction:
    """Return the plan that reproduces `run`. Nothing is written.

    Args:
        run: The run, whose record may have come with the project.
        allowed: Overrides of this command: code runs only if they allow it, whatever the record says.

    Raises:
        UsageError: The record has no config.
    """
    project, name = run.project, f"{TASK}{run.id}"
    folder = _config_folder(run)
    files = {folder / f"{name}.{DEFAULT_CONFIG.name}": _config_text(run)}
    evaluation = run.folder / CONFIG_FILES / EVALUATION
    if evaluation.is_file():
        files[folder / f"{name}.{EVALUATION}"] = evaluation.read_text(encoding="utf-8")
    else:
        files[folder / f"{name}.{EVALUATION}"] = _text(run.config.get("evaluation", {}))
    task = for_task(replace(project, output=None), name)
    task = replace(task, config=next(iter(files)))
    recorded = run.record.get("request", {})
    request = {"only": recorded.get("only", []), "until": recorded.get("until"), "nproc": recorded.get("nproc", 1)}
    return Reproduction(run, task, files, _overrides(run, allowed), request, _mismatches(run, files))


def compare_outputs(reproduction: Reproduction) -> list[ReproducedOutput]:
    """Return the outputs of the trainings of the run that the reproduction has built, or should have."""
    run, outputs = reproduction.run, []
    for stage, output in run.outputs.items():
        if stage in run.trainings and output["content"]:
            target = reproduction.project.gen_model / Path(output["output"]).name
            manifest = read_manifest(target)
            outputs.append(ReproducedOutput(stage, output["content"], manifest.content if manifest else None))
    return outputs


def _config_folder(run: RecordedRun) -> Path:
    root = run.project.root
    folder = (root / run.record.get("config", run.project.config)).parent
    return folder if folder.resolve().is_relative_to(root.resolve()) else run.project.config.parent


def _config_file(run: RecordedRun) -> Path | None:
    """Return the config as the user wrote it; None in a record of an older version."""
    recorded = run.record.get("config")
    file = run.folder / CONFIG_FILES / Path(recorded).name if recorded else None
    return file if file and file.is_file() else None


def _config_text(run: RecordedRun) -> str:
    if file := _config_file(run):
        return _text(read_source(file).value) if is_yaml(file) else file.read_text(encoding="utf-8")
    if not run.config:
        raise UsageError(f"the record of run {run.id} has no config", fix="choose another run")
    return _text(chosen_config(run))


def _text(value: object) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False) + "\n"


def _overrides(run: RecordedRun, allowed: Overrides) -> Overrides:
    recorded = run.record.get("overrides", {})
    return Overrides(
        on_local=bool(recorded.get("on_local")),
        data={name: Path(file) for name, file in recorded.get("data", {}).items()},
        trust_remote_code=bool(recorded.get("trust_remote_code")) and allowed.trust_remote_code,
        skip_bad_rows=bool(recorded.get("skip_bad_rows")),
        run_user_script=bool(recorded.get("run_user_script")) and allowed.run_user_script,
        settings=dict(recorded.get("settings", {})),
        values=dict(recorded.get("values", {})),
    )


def _stages(request: dict[str, Any]) -> list[str]:
    return [*request["only"], *(["--until", request["until"]] if request["until"] else [])]


def _flags(overrides: Overrides) -> list[str]:
    settings = {**overrides.settings, **{key: json.dumps(value) for key, value in overrides.values.items()}}
    data = [f"{name}={file}" if name else str(file) for name, file in overrides.data.items()]
    flags = ["--on", "local"] if overrides.on_local else []
    flags += [part for file in data for part in ("--data", file)]
    flags += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    for name in ("skip_bad_rows", "run_user_script", "trust_remote_code"):
        flags += [f"--{name.replace('_', '-')}"] if getattr(overrides, name) else []
    return flags


def _mismatches(run: RecordedRun, files: dict[Path, str]) -> list[Mismatch]:
    unrecorded = Mismatch("data and base model", "not recorded", "unknown", changes_result=False)
    return [
        *([] if run.record else [unrecorded]),
        *_of_secrets(files),
        *_of_files(run),
        *_of_base_model(run),
        *_of_machine(run),
        *_of_commit(run),
    ]


def _of_secrets(files: dict[Path, str]) -> list[Mismatch]:
    """Return the files in which the record has no secrets, or that it does not have."""
    return [
        Mismatch(path.name, "secrets are not recorded", SECRET, changes_result=True, fix=f"edit {path}")
        for path, text in files.items()
        if SECRET in text
    ]


def _of_files(run: RecordedRun) -> list[Mismatch]:
    files = [file for data in run.record.get("data", []) for file in data["files"]]
    found = []
    for file in [*files, *run.record.get("functions", [])]:
        path = run.project.root / file["file"]
        current = file_digest(path) if path.is_file() else "missing"
        if current != file["sha256"]:
            commit = str((run.record.get("git") or {}).get("commit") or "")
            checkout = shlex.join(["git", "checkout", commit[:12], "--", file["file"]])
            fix = f"restore it: {checkout}" if commit else f"restore {file['file']}"
            found.append(Mismatch(file["file"], file["sha256"][:12], current[:12], changes_result=True, fix=fix))
    return found


def _of_base_model(run: RecordedRun) -> list[Mismatch]:
    base = run.record.get("base_model")
    if not base or base.get("content") is None:
        return []
    manifest = read_manifest(run.project.root / base["path"])
    if manifest is None or manifest.content == base["content"]:  # a missing one is downloaded
        return []
    fix = f"set input_model.load_kwargs.revision to {base['commit']}" if base.get("commit") else ""
    return [
        Mismatch(base["name"], base["content"][:12], manifest.content[:12], changes_result=True, fix=fix),
    ]


def _of_machine(run: RecordedRun) -> list[Mismatch]:
    """Return versions, numbers of threads and number types that differ."""
    recorded = run.environment.get("versions", {})
    current = versions(tuple(recorded))
    found = [
        Mismatch(
            name, version, current.get(name, "missing"), changes_result=False, fix=f"pip install {name}=={version}"
        )
        for name, version in recorded.items()
        if current.get(name) != version
    ]
    threads = {output["facts"].get("torch_threads") for output in run.outputs.values()} - {None}
    for count in sorted(threads - {usable_cores()}):
        fix = f"limit the cores: PHI_SCAFFOLD_CORES={count}" if count < usable_cores() else "use a machine with as many"
        found.append(Mismatch("threads", str(count), str(usable_cores()), changes_result=False, fix=fix))
    if fewer := {
        facts["fewest_threads"] for each in run.outputs.values() if "fewest_threads" in (facts := each["facts"])
    }:
        recorded, fix = f"{min(fewer)} at times, next to other programs", "--threads N fixes the number"
        found.append(Mismatch("threads", recorded, str(usable_cores()), changes_result=False, fix=fix))
    return [*found, *_of_number_type(run)]


def _of_number_type(run: RecordedRun) -> list[Mismatch]:
    """Return the number type of training on the CPU if the one of the run is not what this machine computes in."""
    supported = None if gpus() else has_bfloat16("cpu")
    if supported is None:
        return []
    current = "bfloat16" if supported else "float32"
    fixes = {
        "float32": f"compute in float32 too: {BFLOAT16}=0",
        "bfloat16": f"use a machine with AMX instructions, or compute without them, slowly: {BFLOAT16}=1",
    }
    for name, output in run.outputs.items():
        recorded = output["facts"].get("dtype")
        chosen = run.config.get("passes", {}).get(name, {}).get("torch_dtype", "bfloat16")
        if chosen == "bfloat16" and recorded in fixes and recorded != current:
            return [Mismatch("number type", recorded, current, changes_result=True, fix=fixes[recorded])]
    return []


def _of_commit(run: RecordedRun) -> Sequence[Mismatch]:
    recorded, current = run.record.get("git"), git_commit(run.project.root)
    if not recorded or (current and current["commit"] == recorded["commit"]):
        return []
    shown = current["commit"][:12] if current else "no repository"
    return [Mismatch("git commit", recorded["commit"][:12], shown, changes_result=False)]
