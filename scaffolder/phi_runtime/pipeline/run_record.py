"""Record of a run in gen-model/runs/<id>/, from which `phi-scaffold runs` and the report read.

| file | holds |
|---|---|
| run.json | state, request, overrides, git commit, base model, digests of data files and functions, outputs, failure |
| config.json | the config as it was used: overrides applied, every default written out |
| config-files/ | the config and evaluation.json as the user wrote them |
| environment.json | versions and machine |
| stages.json | the stages that were finished, with time, memory and energy |
| evaluation/ | the evaluation, unless it is large |

The files hold no passwords or API keys: they are replaced by `<secret>`.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.parse import EVALUATION
from phi_runtime.config.paths import data_paths
from phi_runtime.config.reading.source import read_source
from phi_runtime.config.schema import Workflow, canonical
from phi_runtime.config.sidecars import sidecar_path
from phi_runtime.core.artifacts import (
    file_digest,
    folder_bytes,
    read_json,
    read_manifest,
    versions,
    write_json,
    write_text,
)
from phi_runtime.core.errors import Interrupted, PhiError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.secrets import NAME, SECRET, without_visible_secrets
from phi_runtime.core.trust import is_trusted
from phi_runtime.data.hooks import FILE as HOOKS
from phi_runtime.data.hooks import script_of
from phi_runtime.hardware.device import usable_cores
from phi_runtime.models.fetch import base_name
from phi_runtime.models.place import base_model_path
from phi_runtime.pipeline.load import LoadedConfig

RECORD, CONFIG, CONFIG_FILES, ENVIRONMENT, STAGES = (
    "run.json",
    "config.json",
    "config-files",
    "environment.json",
    "stages.json",
)
FIGURES = ("wall_s", "peak_rss_bytes", "cpu_energy_j", "gpu_energy_j")
"""Keys of an entry in stages.json that were measured; null where the machine cannot measure them."""
LARGE_EVALUATION_BYTES = 20_000_000  # a larger one is not copied; the record names its content

RunState = Literal["running", "done", "failed", "interrupted"]

_LIBRARIES = (
    "phi-scaffold",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
    "huggingface-hub",
)


def environment() -> dict[str, Any]:
    """Return versions of Python and the libraries, and the machine."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": usable_cores(),
        "versions": versions(_LIBRARIES),
    }


def without_secrets(value: Any, key: str = "") -> Any:
    """Return a JSON value with `<secret>` for API keys, passwords in URLs, and the texts of keys named like a secret."""
    if isinstance(value, dict):
        return {name: without_secrets(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_secrets(inner, key) for inner in value]
    if not isinstance(value, str):
        return value
    return SECRET if value and NAME.search(key) else _without_visible_secrets(value)


def _without_visible_secrets(text: str) -> str:
    from phi_runtime.data.text_faults import without_api_keys  # compiles long expressions, which `status` does not need

    return without_api_keys(without_visible_secrets(text), SECRET)


def _texts_of_secrets(value: Any, key: str = "") -> set[str]:
    """Return the texts of keys named like a secret."""
    if isinstance(value, dict):
        return set().union(*(_texts_of_secrets(inner, str(name)) for name, inner in value.items()))
    if isinstance(value, list):
        return set().union(*(_texts_of_secrets(inner, key) for inner in value))
    return {value} if isinstance(value, str) and value and NAME.search(key) else set()


@dataclass
class RunRecord:
    """The record of a run. Its folder is created by `open`, for the first stage that has work to do.

    Attributes:
        config, workflow: The config as it was loaded, and its workflow.
        request: What the run was called with: stages, forced stages, number of processes.
    """

    project: ProjectFolder
    config: LoadedConfig
    workflow: Workflow
    request: dict[str, Any]
    folder: Path | None = None
    _content: dict[str, Any] = field(default_factory=dict)
    _outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _stages: list[dict[str, Any]] = field(default_factory=list)
    _evaluations: list[Path] = field(default_factory=list)
    _stage: str = ""

    def open(self, stage: str) -> Path:
        """Return the folder of the record, in which `stage` starts now."""
        self._stage = stage
        if self.folder is not None:
            return self.folder
        now = datetime.now().astimezone()
        self.folder = self.project.runs / f"{now:%Y%m%d-%H%M%S-%f}"
        self.folder.mkdir(parents=True)
        config = {**canonical(self.workflow), "evaluation": canonical(self.workflow.evaluation)}
        self._write(CONFIG, config)
        self._write(ENVIRONMENT, environment())
        self._copy_config_files()
        self._content = {
            "id": self.folder.name,
            "state": "running",
            "started": now.isoformat(timespec="seconds"),
            "ended": None,
            "request": self.request,
            "overrides": _overrides(self.config),
            "config": self.project.shown(self.project.config),
            "git": git_commit(self.project.root),
            "base_model": None,
            "data": [],
            "functions": _functions(self.workflow, self.project),
            "failure": None,
        }
        self._save()
        return self.folder

    def output(self, stage: str, state: str, target: Path) -> None:
        """Record the output of a stage, which is `done` or `cached`."""
        manifest = read_manifest(target)
        facts = manifest.facts if manifest else {}
        self._outputs[stage] = {
            "state": state,
            "output": self.project.shown(target),
            "key": manifest.key if manifest else None,
            "content": manifest.content if manifest else None,
            "facts": {name: value for name, value in facts.items() if name not in ("inputs", "origins")},
        }
        self._save()

    def finished(self, figures: dict[str, Any]) -> None:
        """Add a finished stage with its time, memory and energy to stages.json."""
        self._stages.append(figures)
        self._write(STAGES, self._stages)

    def evaluation(self, folder: Path) -> None:
        """Copy an evaluation into the record: the next run replaces the one in gen-model/."""
        self._evaluations.append(folder)
        self._save()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Record the end of the run."""
        try:
            yield
        except BaseException as e:
            is_stopped = isinstance(e, Interrupted | KeyboardInterrupt)
            error = e if isinstance(e, PhiError) else PhiError(f"{type(e).__name__}: {e}")
            failure = {"stage": self._stage, "message": error.what, "fix": error.fix}
            with suppress(OSError):  # the disk may be full
                self._close("interrupted" if is_stopped else "failed", failure)
            raise
        self._close("done")

    def _close(self, state: RunState, failure: dict[str, str] | None = None) -> None:
        ended = datetime.now().astimezone().isoformat(timespec="seconds")
        self._content |= {"state": state, "failure": failure, "ended": ended}
        self._save()

    def _save(self) -> None:
        if self.folder is None or "id" not in self._content:  # or the disk became full before there was a record
            return
        if self._content["base_model"] is None:  # once it is downloaded, so are the files of data configs
            self._content["base_model"] = _base_model(self.workflow, self.project)
            self._content["data"] = _data(self.workflow, self.project)
        self._write(RECORD, {**self._content, "outputs": self._outputs})
        for evaluation in self._evaluations:
            if folder_bytes(evaluation) <= LARGE_EVALUATION_BYTES:
                shutil.copytree(evaluation, self.folder / evaluation.name, dirs_exist_ok=True)
        self._evaluations.clear()

    def _write(self, name: str, value: Any) -> None:
        assert self.folder is not None
        write_json(self.folder / name, without_secrets(value))

    def _copy_config_files(self) -> None:
        assert self.folder is not None
        folder = self.folder / CONFIG_FILES
        folder.mkdir()
        path = self.config.source.path
        sources = {path.name: self.config.source}
        if (evaluation := sidecar_path(path, EVALUATION)).is_file():
            sources[EVALUATION] = read_source(evaluation)
        for name, source in sources.items():
            text = source.text
            for secret in _texts_of_secrets(source.value):
                text = text.replace(secret, SECRET)
            write_text(folder / name, _without_visible_secrets(text))


def git_commit(folder: Path) -> dict[str, Any] | None:
    """Return the git commit of `folder`, and if its files differ from it; None outside of a repository.

    The second is None in a project that is not trusted: `git status` runs programs that the repository's config names.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        return {
            "commit": commit,
            "changed": bool(git("status", "--porcelain", "--", ".")) if is_trusted(folder) else None,
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _overrides(config: LoadedConfig) -> dict[str, Any]:
    overrides = config.overrides
    return {
        "on_local": overrides.on_local,
        "data": {name: str(path) for name, path in overrides.data.items()},
        "skip_bad_rows": overrides.skip_bad_rows,
        "run_user_script": overrides.run_user_script,
        "trust_remote_code": overrides.trust_remote_code,
        "settings": dict(overrides.settings),
        "values": dict(overrides.values),
    }


def _base_model(workflow: Workflow, project: ProjectFolder) -> dict[str, Any] | None:
    """Return name, origin and content of the base model; None until it is downloaded."""
    path = base_model_path(workflow.input_model, project)
    if not path.is_dir():
        return None
    manifest = read_manifest(path)
    facts = manifest.facts if manifest else {}
    return {
        "name": base_name(path, project) or path.name,
        "path": project.shown(path),
        "source": facts.get("source"),
        "revision": facts.get("revision"),
        "commit": facts.get("commit"),
        "license": facts.get("license"),
        "content": manifest.content if manifest else None,
    }


def _data(workflow: Workflow, project: ProjectFolder) -> list[dict[str, Any]]:
    """Return the files of each data config with their digests."""
    return [
        {
            "name": data.name,
            "files": [
                {
                    "file": project.shown(path),
                    "size_bytes": path.stat().st_size,
                    "sha256": file_digest(path),
                }
                for path in (resolved.path for resolved in data_paths(data, project.config))
                if path.is_file()
            ],
        }
        for data in workflow.data_configs
    ]


def _functions(workflow: Workflow, project: ProjectFolder) -> list[dict[str, str]]:
    """Return the Python files of the user, hooks.py and the scripts of data configs, with their digests."""
    scripts = [script_of(data, project.config)[0] for data in workflow.data_configs]
    files = [project.config.with_name(HOOKS), *(script for script in scripts if script)]
    return [{"file": project.shown(path), "sha256": file_digest(path)} for path in files if path.is_file()]


def last_figures(project: ProjectFolder) -> dict[str, dict[str, Any]]:
    """Return the entry of each stage in stages.json of the last run that finished it, with the id of that run as `run`."""
    figures: dict[str, dict[str, Any]] = {}
    for file in sorted(project.runs.glob(f"*/{STAGES}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            figures |= {entry["stage"]: {**entry, "run": file.parent.name} for entry in read_json(file)}
    return figures
