"""What no single value shows: names that point nowhere, passes in an impossible order, columns and modules that do not exist."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from phi_runtime.data.columns import column_names
from phi_runtime.data.template import PromptTemplate, TemplateFault
from phi_runtime.errors import DataError
from phi_runtime.suggest import nearest
from phi_runtime.workflow.diagnostics import Finding, key_path_of, warning
from phi_runtime.workflow.draft import MISSING, Draft
from phi_runtime.workflow.overrides import Overrides
from phi_runtime.workflow.paths import data_paths, resolve
from phi_runtime.workflow.schema import (
    AnyPass,
    AnySystem,
    AzureMLSystem,
    DataConfig,
    Datastore,
    FinetunePass,
    InputModel,
    Kind,
    LoRA,
    ModelBuilder,
    Pass,
    QLoRA,
    RegistryModel,
    System,
    Workflow,
)
from phi_runtime.workflow.source import KeyPath

# What the builder of onnxruntime-genai 0.18 builds *and* runs (fp16 and bf16 for the CPU build, but fail when they are loaded).
RUNNABLE = {
    "CPUExecutionProvider": ("fp32", "int8", "int4"),
    "CUDAExecutionProvider": ("fp32", "fp16", "bf16", "int8", "int4"),
    "DmlExecutionProvider": ("fp16", "int4"),
    "WebGpuExecutionProvider": ("int8", "int4"),
}

_KINDS: dict[Kind, str] = {"hf": "a full model", "adapter": "an adapter", "onnx": "an ONNX model"}
_STAGES = ("fetch", "evaluate")
_PHI3_CODE = (
    "`trust_remote_code` is not obeyed without --trust-remote-code; the code that comes with Phi-3 breaks on today's "
    "transformers, which has its own"
)


@dataclass(frozen=True)
class _Parts:
    """The parts of a workflow, less what is wrong with them; None stands for one of which too little is left."""

    input_model: InputModel | None
    systems: dict[str, System | None]
    data_configs: list[DataConfig | None]
    data_names: list[Any]
    passes: dict[str, Pass | None]
    host: Any
    target: Any


@dataclass(frozen=True)
class _Checks:
    draft: Draft
    parts: _Parts
    path: Path
    overrides: Overrides


def cross_check(
    draft: Draft, value: Any, workflow: Workflow | None, form: list[Finding], path: Path, overrides: Overrides
) -> list[Finding]:
    """All findings across the parts of `value`, the canonical form of `draft`, with as many parts as are sound."""
    if not isinstance(value, dict):
        return []
    checks = _Checks(draft, _parts(value, workflow), path, overrides)
    columns: dict[Path, list[str]] = {}
    found = [*_references(checks), *_machines(checks), *_model(checks), *_order(checks), *_passes(checks)]
    for i, data in enumerate(checks.parts.data_configs):
        if data is not None:
            found += _data(checks, ("data_configs", i), data, columns)
    # A key that is wrong already needs no second finding at its place.
    taken = {(f.where.line, f.where.column) for f in [*form, *draft.refused] if f.severity == "error"}
    return [f for f in found if f.severity == "warning" or (f.where.line, f.where.column) not in taken]


@cache  # an adapter takes longer to make than to use
def _adapter(kind: str) -> TypeAdapter[Any]:
    kinds: dict[str, Any] = {"model": InputModel, "system": AnySystem, "data": DataConfig, "pass": AnyPass}
    return TypeAdapter(kinds[kind])


def _parts(value: dict[str, Any], workflow: Workflow | None) -> _Parts:
    configs = value.get("data_configs")
    raw = configs if isinstance(configs, list) else []
    names = [c.get("name") if isinstance(c, dict) else None for c in raw]
    if workflow is not None:
        return _Parts(
            workflow.input_model,
            dict(workflow.systems),
            list(workflow.data_configs),
            names,
            dict(workflow.passes),
            workflow.host,
            workflow.target,
        )

    def sound(kind: str, part: Any) -> Any:
        try:
            return _adapter(kind).validate_python(part)
        except ValidationError as e:
            rest = _without(part, [key_path_of(part, error["loc"]) for error in e.errors(include_url=False)])
        try:
            return _adapter(kind).validate_python(rest)  # what else is wrong with it is to be seen too
        except ValidationError:
            return None

    def each(key: str, kind: str) -> dict[str, Any]:
        members = value.get(key)
        return {name: sound(kind, part) for name, part in members.items()} if isinstance(members, dict) else {}

    return _Parts(
        sound("model", value.get("input_model")),
        each("systems", "system"),
        [sound("data", c) for c in raw],
        names,
        each("passes", "pass"),
        value.get("host"),
        value.get("target"),
    )


def _without(part: Any, paths: list[KeyPath]) -> Any:
    """A copy of `part` without the values at `paths`."""
    rest = copy.deepcopy(part)
    for path in sorted(filter(None, paths), key=str, reverse=True):
        around: Any = rest
        try:
            for key in path[:-1]:
                around = around[key]
        except (KeyError, IndexError):  # it went with what is around it
            continue
        if isinstance(around, dict):
            around.pop(path[-1], None)
        elif isinstance(around, list) and isinstance(path[-1], int) and path[-1] < len(around):
            del around[path[-1]]
    return rest


def _references(c: _Checks) -> Iterator[Finding]:
    def unknown(key_path: KeyPath, what: str, name: str, known: list[str]) -> Finding:
        message = (
            f"there is no {what} `{name}` (there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none'})"
        )
        return c.draft.finding(key_path, "unknown-reference", message, nearest(name, known))

    systems = list(c.parts.systems)
    for key in ("host", "target"):
        name = getattr(c.parts, key)
        if isinstance(name, str) and name not in systems:
            yield unknown((key,), "system", name, systems)
    names = c.parts.data_names
    for i, name in enumerate(names):
        if name is not None and name in names[:i]:
            message = f"two data configs are called `{name}`"
            yield c.draft.finding(("data_configs", i, "name"), "duplicate-name", message)
    for pass_name in c.parts.passes:
        for key in ("train_data_config", "eval_data_config"):
            at = ("passes", pass_name, key)
            if isinstance(name := c.draft.get(at), str) and name not in names:
                yield unknown(at, "data config", name, [n for n in names if isinstance(n, str)])


def _machines(c: _Checks) -> Iterator[Finding]:
    for name, system in c.parts.systems.items():
        if system is None:
            continue
        at = ("systems", name)
        accelerator = system.accelerators[0]
        if accelerator.device == "cpu" and accelerator.execution_providers != ["CPUExecutionProvider"]:
            message = f"{accelerator.execution_providers[0]} does not drive a CPU"
            yield c.draft.finding(
                (*at, "accelerators", 0, "execution_providers", 0), "contradiction", message, "CPUExecutionProvider"
            )
        if isinstance(system, AzureMLSystem):
            docker = system.aml_docker_config
            if docker and docker.conda_file_path and not resolve(docker.conda_file_path, c.path).path.is_file():
                message = f"there is no conda file at {resolve(docker.conda_file_path, c.path).path}"
                yield c.draft.finding((*at, "aml_docker_config", "conda_file_path"), "file-not-found", message)
            if name == c.parts.host:
                message = f"`{name}` is Azure ML, where `run` cannot go yet; `run --on local --data FILE` runs the passes here"
                yield _warning(c, ("host",), "azure", message)
    yield from _placeholders(c, ("azureml_client",), c.draft.get(("azureml_client",)))
    yield from _placeholders(c, ("systems",), c.draft.get(("systems",)))


def _placeholders(c: _Checks, at: KeyPath, value: Any) -> Iterator[Finding]:
    if isinstance(value, str) and value.lower().startswith(("your ", "<your")):
        yield _warning(c, at, "placeholder", f"`{value}` is still to be filled in")
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from _placeholders(c, (*at, key), inner)


def _warning(c: _Checks, at: KeyPath, rule: str, message: str) -> Finding:
    return warning(c.draft.source, c.draft.written(at), rule, message)


def _model(c: _Checks) -> Iterator[Finding]:
    model = c.parts.input_model
    if model is None:
        return
    at: KeyPath = ("input_model", "model_path")
    if model.load_kwargs.trust_remote_code and not c.overrides.trust_remote_code:
        yield _warning(c, ("input_model", "load_kwargs", "trust_remote_code"), "trust-remote-code", _PHI3_CODE)
    if isinstance(model.model_path, RegistryModel):
        message = f"Azure ML registries are not read yet: `{model.name}` is taken from model-cache/ or the hub"
        yield _warning(c, at, "azure", message)
    elif resolve(model.model_path, c.path).from_root:
        yield _warning(
            c, at, "found-under-root", f"`{model.model_path}` is found under the project's root, not beside this file"
        )


# -- data --------------------------------------------------------------------------------------------------------------


def _data(c: _Checks, at: KeyPath, data: DataConfig, known_columns: dict[Path, list[str]]) -> Iterator[Finding]:
    load, process = data.load_dataset_config, data.pre_process_data_config
    if c.draft.get((*at, "pre_process_data_config", "strategy")) in (process.strategy, MISSING):
        yield from _strategy(c, (*at, "pre_process_data_config"), data)
    key = "text_template" if process.text_template else "text_cols"
    template_at, file_at = (*at, "pre_process_data_config", key), (*at, "load_dataset_config", "data_files")
    try:
        template = PromptTemplate.from_text(process.template)
    except TemplateFault as e:
        yield c.draft.finding(template_at, "text-template", f"`{key}`: {e}")
        return
    if isinstance(load.data_files, Datastore):
        yield from _datastore(c, file_at, load.data_files)
        return
    split = load.split.partition("[")[0]
    if isinstance(load.data_files, dict) and split not in load.data_files:
        known = list(load.data_files)
        message = f"`data_files` has no split `{split}` (it has {', '.join(known)})"
        yield c.draft.finding(
            (*at, "load_dataset_config", "split"), "unknown-reference", message, nearest(split, known)
        )
        return
    if not isinstance(load.data_files, dict) and split != "train":
        message = f"a file without splits of its own is `train`, there is no split `{split}`"
        yield c.draft.finding((*at, "load_dataset_config", "split"), "unknown-reference", message, "train")
    for found in data_paths(data, c.path):
        if not found.path.is_file():
            yield c.draft.finding(file_at, "file-not-found", f"there is no data file at {found.path}")
            return
        if found.from_root:
            message = f"{found.path.name} is found under the project's root, not beside this file"
            yield _warning(c, file_at, "found-under-root", message)
        try:
            if found.path not in known_columns:  # several data configs may read one file
                known_columns[found.path] = column_names(found.path, load.data_name)
        except DataError as e:
            yield c.draft.finding(file_at, "data", str(e))
            return
        columns = known_columns[found.path]
        for name in template.columns:
            if name not in columns:
                message = f"the data has no column `{name}` (it has {', '.join(columns)})"
                yield c.draft.finding(template_at, "template-column", message, nearest(name, columns))
        for name in load.col_filters or ():
            if name not in columns:
                message = f"the data has no column `{name}` (it has {', '.join(columns)})"
                filter_at = (*at, "load_dataset_config", "col_filters", name)
                yield c.draft.finding(filter_at, "template-column", message, nearest(name, columns))


def _datastore(c: _Checks, at: KeyPath, store: Datastore) -> Iterator[Finding]:
    if not store.datastore_url and not (store.datastore_name and store.relative_path):
        message = "a datastore needs `datastore_name` and `relative_path`, or `datastore_url`"
        yield c.draft.finding(at, "missing-key", message)
    yield from _placeholders(c, at, c.draft.get(at))
    host = c.parts.systems.get(c.parts.host) if isinstance(c.parts.host, str) else None
    if host is not None and not isinstance(host, AzureMLSystem):
        message = f"{store.address} is an Azure ML datastore, and the passes run on this machine: give its rows with --data FILE"
        yield c.draft.finding(at, "azure", message)


def _strategy(c: _Checks, at: KeyPath, data: DataConfig) -> Iterator[Finding]:
    process = data.pre_process_data_config
    strategy = process.strategy
    if strategy.endswith("-random") and process.max_samples is None:
        message = f"`{strategy}` draws `max_samples` sequences: write how many"
        yield c.draft.finding((*at, "strategy"), "missing-key", message)
    if strategy == "join-sliding-window":
        if process.stride is None:
            message = "`join-sliding-window` needs a `stride`, the tokens between the starts of two sequences"
            yield c.draft.finding((*at, "strategy"), "missing-key", message)
        elif process.stride > process.max_seq_len:
            message = f"a stride of {process.stride} leaves out tokens between sequences of {process.max_seq_len}"
            yield c.draft.finding((*at, "stride"), "out-of-range", message)
    if process.drop_short_sequences and strategy.startswith("join"):
        message = "`drop_short_sequences` is for line-by-line: joined rows fill their sequences"
        yield c.draft.finding((*at, "drop_short_sequences"), "contradiction", message)
    elif process.drop_short_sequences and c.draft.get((*at, "pad_to_max_len")) is True:
        message = "`drop_short_sequences` and `pad_to_max_len` exclude each other"
        yield c.draft.finding((*at, "drop_short_sequences"), "contradiction", message)


# -- passes --------------------------------------------------------------------------------------------------------------


def _order(c: _Checks) -> Iterator[Finding]:
    before: str = "the base model"
    kind: Kind = "hf"
    for name, step in c.parts.passes.items():
        if step is None:
            return
        label = f"`{name}` ({_type(step)})"
        if step.accepts != kind:
            message = f"{label} needs {_KINDS[step.accepts]}, but comes after {before}, which gives {_KINDS[kind]}"
            yield c.draft.finding(("passes", name), "pass-order", message)
            return
        before, kind = label, step.produces


def _type(step: Pass) -> str:
    kind: str = step.type  # type: ignore[attr-defined]
    return kind


def _passes(c: _Checks) -> Iterator[Finding]:
    target = c.parts.systems.get(c.parts.target) if isinstance(c.parts.target, str) else None
    provider = target.accelerators[0].execution_providers[0] if target else None
    trained: list[str] = []
    for name, step in c.parts.passes.items():
        at: KeyPath = ("passes", name)
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in _STAGES:
            message = (
                f"`{name}` cannot name a pass: letters, digits, - and _ can, but not the stages {' and '.join(_STAGES)}"
            )
            yield c.draft.finding(at, "pass-name", message)
        if isinstance(step, ModelBuilder) and provider and step.precision not in RUNNABLE[provider]:
            runnable = RUNNABLE[provider]
            message = f"`{step.precision}` does not run on {provider}; {', '.join(runnable)} do"
            yield c.draft.finding((*at, "precision"), "precision", message, runnable[-1])
        if isinstance(step, QLoRA) and step.int4_aware:
            message = "`int4_aware` is for LoRA: the base of a QLoRA has 4 bits already"
            yield c.draft.finding((*at, "int4_aware"), "contradiction", message)
        if isinstance(step, FinetunePass):
            trained.append(name)
            yield from _finetune(c, at, step)
        if isinstance(step, LoRA):
            yield from _modules(c, at, step)
    if len(trained) > 1:
        message = f"`{trained[0]}` and `{trained[1]}` both train; one run trains once"
        yield c.draft.finding(("passes", trained[1]), "pass-order", message)


def _finetune(c: _Checks, at: KeyPath, step: FinetunePass) -> Iterator[Finding]:
    size = step.eval_dataset_size
    if size > 1 and size != int(size):
        message = f"{size} is neither a fraction below 1 nor a count"
        yield c.draft.finding((*at, "eval_dataset_size"), "out-of-range", message)
    if size and step.eval_data_config:
        message = "`eval_dataset_size` and `eval_data_config` both name the held-out rows; take one out"
        yield c.draft.finding((*at, "eval_dataset_size"), "contradiction", message)


def _modules(c: _Checks, at: KeyPath, step: LoRA) -> Iterator[Finding]:
    """Names of modules against those that the model really has, where its files are here already."""
    if c.parts.input_model is None or not (step.target_modules or step.modules_to_save):
        return
    from phi_runtime.models.modules import known_modules

    modules = known_modules(c.parts.input_model, c.path)
    if modules is None:
        return
    for key, known in (("target_modules", modules.linear), ("modules_to_save", modules.all)):
        for i, wanted in enumerate(getattr(step, key) or ()):
            if wanted == "all-linear" or any(m == wanted or m.endswith(f".{wanted}") for m in known):
                continue
            names = sorted({m.rpartition(".")[2] for m in known})
            what = "linear module" if key == "target_modules" else "module"
            message = f"the model has no {what} `{wanted}`; it has {', '.join(names)}"
            yield c.draft.finding((*at, key, i), "target-module", message, nearest(wanted, names))
