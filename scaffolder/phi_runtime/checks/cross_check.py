"""Check a config across its parts: references, pass order, data columns, module names, settings that exclude each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from phi_runtime.checks.adapters import check_adapter, check_input_adapter, check_used_adapters, why_not_merged
from phi_runtime.checks.azureml import check_azureml
from phi_runtime.checks.data import KnownColumns, check_data, count_rows
from phi_runtime.checks.export import check_export
from phi_runtime.checks.sections import Checks, ConfigParts, config_parts
from phi_runtime.checks.training import check_lengths, check_training
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.dialects.data import used_data_configs
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE, INPUT_ADAPTER, adapters_of, sources
from phi_runtime.config.paths import possible, resolve
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import (
    AzureMLModel,
    AzureMLSystem,
    ExportPass,
    FinetunePass,
    Kind,
    Pass,
    RegistryModel,
    Workflow,
)
from phi_runtime.config.stage_names import EVALUATE, FETCH
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import WINDOWS_DEVICES, project_of
from phi_runtime.core.remote_job import in_job
from phi_runtime.core.suggestions import nearest
from phi_runtime.hardware.device import has_gpu
from phi_runtime.models.exportable import why_not_loadable
from phi_runtime.models.known import nearest_id
from phi_runtime.models.peft_lora import CONFIG as ADAPTER_CONFIG
from phi_runtime.models.peft_lora import read_config
from phi_runtime.models.place import base_model_path, download_id, is_model_folder
from phi_runtime.passes.input_adapter import with_input_adapter
from phi_runtime.training.pass_bases import AdapterPass

_KINDS: dict[Kind, str] = {"hf": "a full model", "adapter": "an adapter", "onnx": "an ONNX model"}
_RESERVED = (BASE, INPUT_ADAPTER, FETCH, EVALUATE)
_PHI3_CODE = (
    "`trust_remote_code` has no effect without --trust-remote-code; the code that comes with Phi-3 fails on current "
    "transformers, which includes the model"
)


def cross_check(
    draft: Draft, value: Any, workflow: Workflow | None, form: list[Finding], path: Path, overrides: Overrides
) -> list[Finding]:
    """Return all findings across the valid parts of a config.

    Args:
        draft: The translated config, which locates findings in the file.
        value: Its canonical form.
        workflow: The model of `value`, if all of it is valid.
        form: Errors in the form of `value`; a key that has one gets no second error.
        path: The config file.
        overrides: Settings of the command line.
    """
    if not isinstance(value, dict):
        return []
    checks = Checks(draft, _with_input_adapter(config_parts(value, workflow), path), path, overrides)
    columns: KnownColumns = {}
    findings = [
        *_references(checks),
        *_systems(checks),
        *check_azureml(checks),
        *_model(checks),
        *check_input_adapter(checks),
        *_order(checks),
        *_passes(checks),
        *check_used_adapters(checks),
        *check_lengths(checks),
    ]
    used = used_data_configs(draft)
    for i, data in enumerate(checks.parts.data_configs):
        if data is not None and (not used or data.name in used):
            findings += check_data(checks, ("data_configs", i), data, columns)
    reported = {(f.where.line, f.where.column) for f in [*form, *draft.refused] if f.severity == "error"}
    return [f for f in findings if f.severity == "warning" or (f.where.line, f.where.column) not in reported]


def _with_input_adapter(parts: ConfigParts, path: Path) -> ConfigParts:
    names = [data.name for data in parts.data_configs if data]
    return replace(parts, passes=with_input_adapter(parts.input_model, parts.passes, names, project_of(path)))


def _references(c: Checks) -> Iterator[Finding]:
    def unknown(key_path: KeyPath, kind: str, name: str, known: list[str]) -> Finding:
        message = f"no {kind} `{name}` (known: {', '.join(known) or 'none'})"
        return c.error(key_path, "unknown-reference", message, nearest(name, known))

    systems = list(c.parts.systems)
    for key in ("host", "target"):
        name = getattr(c.parts, key)
        if isinstance(name, str) and name not in systems:
            yield unknown((key,), "system", name, systems)
    names = c.parts.data_names
    for i, name in enumerate(names):
        if name is not None and name in names[:i]:
            yield c.error(("data_configs", i, "name"), "duplicate-name", f"two data configs are named `{name}`")
    for pass_name in c.parts.passes:
        for key in ("train_data_config", "eval_data_config", "test_data_config"):
            at = ("passes", pass_name, key)
            if isinstance(name := c.draft.get(at), str) and name not in names:
                yield unknown(at, "data config", name, [n for n in names if isinstance(n, str)])


def _systems(c: Checks) -> Iterator[Finding]:
    hosts = (c.host_name(step) for step in c.steps.values())
    named = [name for name in (c.parts.host, c.parts.target, *hosts) if isinstance(name, str)]
    for name, system in c.parts.systems.items():
        if system is None or (name not in named and all(other in c.parts.systems for other in named)):
            continue  # invalid, or nothing runs on it
        at = ("systems", name)
        accelerator = system.accelerators[0]
        if accelerator.device == "cpu" and accelerator.execution_providers != ["CPUExecutionProvider"]:
            message = f"{accelerator.execution_providers[0]} does not run on a CPU"
            provider_at = (*at, "accelerators", 0, "execution_providers", 0)
            yield c.error(provider_at, "contradiction", message, "CPUExecutionProvider")
        is_local = not isinstance(system, AzureMLSystem)
        if is_local and name == c.parts.host and accelerator.device == "gpu" and not c.azureml and not has_gpu():
            yield _no_gpu(c, name)


def _no_gpu(c: Checks, host: str) -> Finding:
    only_gpu = [name for name, step in c.steps.items() if "cpu" not in step.devices]
    fix = (
        f"`{only_gpu[0]}` needs a machine with a GPU"
        if only_gpu
        else "run on the CPU of this machine with `--on local`"
    )
    at = ("systems", host, "accelerators", 0, "device")
    return c.warning(at, "no-gpu", f"`{host}` has a GPU, but none was found on this machine", fix)


def _model(c: Checks) -> Iterator[Finding]:
    model = c.parts.input_model
    if model is None:
        return
    at: KeyPath = ("input_model", "model_path")
    if model.load_kwargs.trust_remote_code and not c.overrides.trust_remote_code:
        yield c.warning(("input_model", "load_kwargs", "trust_remote_code"), "trust-remote-code", _PHI3_CODE)
    project = project_of(c.path)
    path = base_model_path(model, project)
    missing = not is_model_folder(path) and download_id(model, project) is None
    if not isinstance(model.model_path, str):
        if not c.azureml and not in_job():
            yield from _azureml_model(c, at, model.model_path, missing=missing)
    elif missing:
        yield _no_model(c, at, model.model_path, path)
    elif resolve(model.model_path, c.path).from_root:
        message = f"`{model.model_path}` is relative to the project root, not to this file"
        yield c.warning(at, "found-under-root", message)
    if reason := why_not_loadable(c.stored):
        what, fix = reason
        yield c.error(at, "quantized-base", what, fix=fix)


def _azureml_model(c: Checks, at: KeyPath, model: AzureMLModel, *, missing: bool) -> Iterator[Finding]:
    """Yield where a model of Azure ML is read from on this machine."""
    place = "Azure ML registries" if isinstance(model, RegistryModel) else "models of Azure ML"
    if missing:
        message = f"this machine cannot read {place}, and `{model.name}` is neither in model-cache/ nor a Hub id"
        yield c.error(at, "model-not-found", message, nearest_id(model.name))
    else:
        message = f"this machine cannot read {place}: `{model.name}` is read from model-cache/ or the hub"
        yield c.warning(at, "azure", message)


def _no_model(c: Checks, at: KeyPath, written: str, path: Path) -> Finding:
    if written.startswith("<"):
        return c.error(at, "placeholder", f"`{written}` is a placeholder: replace it with a model folder or a Hub id")
    if (path / ADAPTER_CONFIG).is_file():
        fix = "set `adapter_path` to it, and `model_path` to its base"
        with suppress(UsageError):
            fix += f", {read_config(path).get('base_model_name_or_path') or 'which its config does not name'}"
        return c.error(at, "model-not-found", f"{path} is an adapter of peft, not a model", fix=fix)
    if (path / "MLmodel").is_file():
        fix = "copy its model/ and components/tokenizer/ into one folder, and set `model_path` to that"
        return c.error(at, "model-not-found", f"{path} is a model in the format of MLflow", fix=fix)
    if "://" in written:
        message = f"`{written}` is an address that cannot be read: set `model_path` to a model folder or a Hub id"
        return c.error(at, "model-not-found", message)
    what = f"{path} has no config.json" if path.is_dir() else f"there is no model at {path}"
    return c.error(
        at, "model-not-found", f"{what}, and `{possible(written)}` is not a Hub id (OWNER/NAME)", nearest_id(written)
    )


# -- passes ------------------------------------------------------------------------------------------------------------


def _order(c: Checks) -> Iterator[Finding]:
    """Yield the first pass that cannot use the output of an earlier one."""
    previous: str = "the base model"
    kind: Kind = "hf"
    last: Pass | None = None
    steps: dict[str, Pass] = {}
    for name, part in c.parts.passes.items():
        if part is None:  # what comes after it depends on it
            break
        steps[name] = part
    for name, source in sources(steps).items():
        step = steps[name]
        label = f"`{name}` ({step.type})" if step.written else "the input adapter"
        if source is None and adapters_of(steps, name):
            return  # reported by check_used_adapters
        if source is None:
            message = f"{label} needs {_KINDS[step.accepts]}, but follows {previous}, which outputs {_KINDS[kind]}"
            if kind == "adapter" and (reason := why_not_merged(last)):
                message += f"; {reason}"
            elif kind == "adapter" and step.accepts == "hf":
                message += "; merge it first (MergeAdapterWeights)"
            yield c.error(("passes", name), "pass-order", message)
            return
        if step.accepts == "adapter" and (reason := why_not_merged(steps.get(source))):
            message = f"{label} cannot use {_output_of(source, steps)}: {reason}"
            yield c.error(("passes", name), "pass-order", message)
            return
        previous, kind, last = label, step.produces, step


def _output_of(name: str, steps: dict[str, Pass]) -> str:
    return f"the output of `{name}` ({steps[name].type})" if steps[name].written else "the input adapter"


def _passes(c: Checks) -> Iterator[Finding]:
    for name, step in c.parts.passes.items():
        if step is not None and not step.written:
            continue
        at: KeyPath = ("passes", name)
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in _RESERVED or name.startswith(f"{EVALUATE}-"):
            reserved = f"{', '.join(_RESERVED)} and {EVALUATE}-…"
            message = f"`{name}` is not a valid pass name: use letters, digits, - and _; {reserved} are reserved"
            yield c.error(at, "pass-name", message)
        elif name.casefold() in WINDOWS_DEVICES:
            message = f"`{name}` is a device on Windows, where its output folder could not be created"
            yield c.error(at, "pass-name", message, f"my-{name}")
        if step is None:
            continue
        if (host := c.host_of(step)) and (device := host.accelerators[0].device) not in step.devices:
            message = f"`{step.type}` runs on {' or '.join(step.devices)} only, but `host` has the device `{device}`"
            yield c.error((*at, "type"), "device", message)
        for place, message in step.conflicts():
            yield c.error((*at, *place), "contradiction", message)
        if isinstance(step, ExportPass):
            yield from check_export(c, at, step)
        if isinstance(step, FinetunePass):
            yield from _split_rows(c, at, step)
            yield from check_training(c, at, step)
        if isinstance(step, AdapterPass):
            yield from check_adapter(c, at, step)


def _split_rows(c: Checks, at: KeyPath, step: FinetunePass) -> Iterator[Finding]:
    """Yield sizes of the validation and test rows that are no numbers of rows, and those that leave nothing to train on."""
    for side, size, config in (
        ("eval", step.eval_dataset_size, step.eval_data_config),
        ("test", step.test_dataset_size, step.test_data_config),
    ):
        place, rows_of = (*at, f"{side}_dataset_size"), "validation" if side == "eval" else side
        if size > 1 and size != int(size):
            yield c.error(place, "out-of-range", f"{size} is neither a fraction below 1 nor a whole number of rows")
        if size and config:
            message = f"`{side}_dataset_size` and `{side}_data_config` both set the {rows_of} rows: remove one"
            yield c.error(place, "contradiction", message)
    sizes = (step.eval_dataset_size, step.test_dataset_size)
    place = (*at, "eval_dataset_size" if sizes[0] else "test_dataset_size")
    if all(0 < size < 1 for size in sizes) and sum(sizes) >= 1:
        yield c.error(place, "out-of-range", "validation and test rows are all rows: no rows are left to train on")
    used = sum(int(size) for size in sizes if size >= 1)
    data = next((d for d in c.parts.data_configs if d and d.name == step.train_data_config), None)
    if used and data and (rows := count_rows(data, c.path, used + 1)) <= used:
        kind = "validation and test" if all(size >= 1 for size in sizes) else "test" if sizes[1] >= 1 else "validation"
        yield c.error(
            place, "out-of-range", f"cannot use {used} of {rows} rows for {kind}: no rows are left to train on"
        )
