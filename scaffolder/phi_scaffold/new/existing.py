"""A project around an existing config: its canonical form, copies of its files, and the answers that fit it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phi_runtime.config.diagnostics import Finding, raise_if_any
from phi_runtime.config.dialects.draft import Draft, keeps_meaning
from phi_runtime.config.dialects.migrate import canonical_files
from phi_runtime.config.file_search import is_pattern
from phi_runtime.config.parse import EVALUATION, SWEEP, parse_config
from phi_runtime.config.paths import data_paths, resolve
from phi_runtime.config.reading.source import KeyPath, Source, read_source
from phi_runtime.config.schema import LoadDataset, Workflow
from phi_runtime.config.sidecars import sidecar_path
from phi_runtime.core.errors import PhiError, UsageError
from phi_runtime.core.project import CONFIG
from phi_runtime.data.columns import Columns, find_columns
from phi_runtime.data.hooks import FILE as HOOKS
from phi_runtime.data.selection import read_options
from phi_runtime.data.template import PromptTemplate, TemplateError
from phi_runtime.models.known import known_id
from phi_runtime.models.place import cached_part
from phi_scaffold.new.answers import Answers
from phi_scaffold.new.derive import task_of

LARGEST_COPY = 200_000_000  # bytes; larger files are referenced where they are
_TARGETS = {"CUDAExecutionProvider": "cuda", "DmlExecutionProvider": "directml"}
# Paths in the canonical form; `*` is any key. Models and folders are referenced where they are, files are copied.
_REFERENCED: tuple[KeyPath, ...] = (
    ("input_model", "model_path"),
    ("input_model", "adapter_path"),
    ("data_configs", "*", "load_dataset_config", "data_dir"),
    ("data_configs", "*", "pre_process_data_config", "script_dir"),
    ("passes", "*", "training_args", "deepspeed"),
    ("systems", "*", "aml_docker_config", "conda_file_path"),
)
_SCRIPT: KeyPath = ("data_configs", "*", "pre_process_data_config", "user_script")
_DATA: KeyPath = ("data_configs", "*", "load_dataset_config")


@dataclass(frozen=True)
class ExistingConfig:
    """An existing config, for a new project.

    Attributes:
        path: The file.
        workflow: Its content.
        answers: Answers that select the files and the requirements of the project.
        data: Values of the questions about the data, which are not those of sample data.
        texts: Texts of files of the project by their paths in it.
        copies: Files to copy, by their paths in the project.
        findings: Changes of its meaning by the translation to the canonical form.
        notes: What was copied, and what was not.
    """

    path: Path
    workflow: Workflow
    answers: Answers
    data: Mapping[str, Any]
    texts: Mapping[str, str]
    copies: Mapping[str, Path]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def read_existing(path: Path) -> ExistingConfig:
    """Read a config of any form, with the files next to it.

    Raises:
        UsageError: There is no file at `path`.
        ConfigError: The file has errors.
    """
    if not path.is_file():
        raise UsageError(f"there is no config at {path}", fix="check --config")
    existing = from_source(read_source(path))
    texts, copies, notes = dict(existing.texts), dict(existing.copies), list(existing.notes)
    for name in (EVALUATION, SWEEP):
        file = sidecar_path(path, name)
        if file.is_file():
            texts.setdefault(f"{CONFIG.parent}/{name}", file.read_text(encoding="utf-8-sig"))
    if (hooks := path.with_name(HOOKS)).is_file():
        copies[f"{CONFIG.parent}/{HOOKS}"] = hooks
    if f"{CONFIG.parent}/{SWEEP}" in texts:
        notes.append("the search in sweep.yaml needs the libraries of `setup.sh --with sweep`")
    return replace(existing, texts=texts, copies=copies, notes=tuple(notes))


def from_source(source: Source) -> ExistingConfig:
    """Read a config whose paths are relative to the folder of `source`, without the files next to it.

    Raises:
        ConfigError: It has errors.
    """
    path = source.path
    parsed = parse_config(source)
    raise_if_any(source, parsed.errors)
    workflow = parsed.workflow
    assert workflow is not None
    columns = _columns(workflow, path)
    moved = _Moved(path, parsed.draft)
    moved.all()
    texts = {
        f"{CONFIG.parent}/{f.name}": t for f, t in canonical_files(parsed.draft, path.with_name(CONFIG.name)).items()
    }
    warnings = parsed.draft.warnings()
    translated = sum(map(keeps_meaning, warnings))
    if translated:
        moved.notes.append(f"{translated} older forms are in the current format now")
    answers = _answers(workflow, columns)
    data = _data_values(workflow, path, columns)
    changes = tuple(w for w in warnings if not keeps_meaning(w))
    return ExistingConfig(path, workflow, answers, data, texts, moved.copies, changes, tuple(moved.notes))


@dataclass
class _Moved:
    """The paths of a config, rewritten for the folder of a project."""

    config: Path
    draft: Draft
    copies: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def all(self) -> None:
        for path in _matches(self.draft, _DATA):
            load = self.draft.get(path)
            if LoadDataset.model_validate(load).format is not None and not load.get("data_dir"):
                self._rewrite((*path, "data_files"), "datasets", "../datasets/")
        for path in _matches(self.draft, _SCRIPT):
            self._rewrite(path, str(CONFIG.parent), "")
        for pattern in _REFERENCED:
            for path in _matches(self.draft, pattern):
                if (
                    path[0] == "data_configs"
                    and not LoadDataset.model_validate(self.draft.get((*path[:2], _DATA[-1]))).format
                ):
                    continue  # a folder inside a data set of the Hub
                self._rewrite(path)

    def _rewrite(self, path: KeyPath, folder: str = "", prefix: str = "") -> None:
        """Copy the files that are written at `path` to `folder`, or refer to them where they are."""
        value = self.draft.get(path)
        if isinstance(value, str):
            self.draft.get(path[:-1])[path[-1]] = self._moved(value, folder, prefix)
        elif isinstance(value, list | dict):
            for key in range(len(value)) if isinstance(value, list) else value:
                self._rewrite((*path, key), folder, prefix)

    def _moved(self, written: str, folder: str, prefix: str) -> str:
        found = resolve(written, self.config, pattern=True).path
        if not found.exists() and not (is_pattern(found.name) and found.parent.is_dir()):
            return written  # a Hub id, or a file that is missing
        if not folder or not found.is_file() or found.stat().st_size > LARGEST_COPY:
            self.notes.append(f"{found} is used where it is, not copied")
            return found.as_posix()
        name, number = found.name, 1
        while self.copies.get(f"{folder}/{name}", found) != found:
            number += 1
            name = f"{found.stem}-{number}{found.suffix}"
        if f"{folder}/{name}" not in self.copies:
            self.copies[f"{folder}/{name}"] = found
            self.notes.append(f"{found} is copied to {folder}/{name}")
        return prefix + name


def _matches(draft: Draft, pattern: KeyPath, at: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the paths in the config that match `pattern`, in which `*` is any key."""
    if not pattern:
        yield at
        return
    value = draft.get(at)
    if pattern[0] == "*":
        keys = range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ()
    else:
        keys = pattern[:1] if draft.has((*at, pattern[0])) else ()  # type: ignore[assignment]
    for key in keys:
        yield from _matches(draft, pattern[1:], (*at, key))


def _columns(workflow: Workflow, path: Path) -> Columns | None:
    """Return the columns of the first file that is trained on, if it can be read."""
    if workflow.finetune is None:
        return None
    name = workflow.finetune[1].train_data_config
    try:
        data = next(data for data in workflow.data_configs if data.name == name)
        process = data.pre_process_data_config
        chosen = () if process.chat_template else PromptTemplate.from_text(process.template).columns
        file = next(p.path for p in data_paths(data, path) if p.path.is_file())
        return find_columns(file, chosen, reading=read_options(data.load_dataset_config, file))
    except (StopIteration, TemplateError, PhiError):  # validation of the new project reports it
        return None


def _answers(workflow: Workflow, columns: Columns | None) -> Answers:
    types = {step.type for step in workflow.trainings.values()}
    method = "qlora" if "QLoRA" in types else "full" if types == {"FullFinetune"} else "lora"
    target = _TARGETS.get(workflow.execution_provider, "cuda" if workflow.host_device == "gpu" else "cpu")
    target = "azureml" if workflow.remote else target
    name = cached_part(workflow.input_model.name)
    answers = Answers(known_id(name) or name, method=method, target=target)
    return replace(answers, task=task_of(columns) if columns else "generation", data_columns=columns)


def _data_values(workflow: Workflow, path: Path, columns: Columns | None) -> dict[str, Any]:
    """Return the answers about the data, of which the requirements and the inference scripts depend."""
    loads = [data.load_dataset_config for data in workflow.data_configs]
    hub = next((load.data_name for load in loads if load.format is None), "")
    parquet = any(load.format == "parquet" for load in loads)
    first = next((p.path.name for data in workflow.data_configs for p in data_paths(data, path)), "")
    return {
        "existing_config": path.name,
        "sample_data": False,
        "data_file": first,
        "data_name": hub or ("parquet" if parquet else "json"),
        "rows": columns.kind if columns else "columns",
    }
