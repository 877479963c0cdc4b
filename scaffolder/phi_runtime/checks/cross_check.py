"""What no single value shows: names that point nowhere, passes in an impossible order, columns and modules that do not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phi_runtime.checks.adapters import cannot_be_merged, check_adapter, check_taken
from phi_runtime.checks.data import check_data, rows_up_to
from phi_runtime.checks.export import check_export
from phi_runtime.checks.sections import Checks, parts_of, placeholders, warned
from phi_runtime.checks.training import check_training
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE, sources
from phi_runtime.config.paths import resolve
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import AzureMLSystem, ExportPass, FinetunePass, Kind, Pass, RegistryModel, Workflow
from phi_runtime.config.stage_names import EVALUATE, FETCH
from phi_runtime.core.suggestions import nearest
from phi_runtime.passes.prompt_tuning import USE_UNMERGED
from phi_runtime.training.pass_bases import AdapterPass

_KINDS: dict[Kind, str] = {"hf": "a full model", "adapter": "an adapter", "onnx": "an ONNX model"}
_PHI3_CODE = (
    "`trust_remote_code` is not obeyed without --trust-remote-code; the code that comes with Phi-3 breaks on today's "
    "transformers, which has its own"
)


def cross_check(
    draft: Draft, value: Any, workflow: Workflow | None, form: list[Finding], path: Path, overrides: Overrides
) -> list[Finding]:
    """All findings across the parts of `value`, the canonical form of `draft`, with as many parts as are sound."""
    if not isinstance(value, dict):
        return []
    checks = Checks(draft, parts_of(value, workflow), path, overrides)
    columns: dict[Path, list[str]] = {}
    found = [
        *_references(checks),
        *_machines(checks),
        *_model(checks),
        *_order(checks),
        *_passes(checks),
        *check_taken(checks),
    ]
    for i, data in enumerate(checks.parts.data_configs):
        if data is not None:
            found += check_data(checks, ("data_configs", i), data, columns)
    # A key that is wrong already needs no second finding at its place.
    taken = {(f.where.line, f.where.column) for f in [*form, *draft.refused] if f.severity == "error"}
    return [f for f in found if f.severity == "warning" or (f.where.line, f.where.column) not in taken]


def _references(c: Checks) -> Iterator[Finding]:
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


def _machines(c: Checks) -> Iterator[Finding]:
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
                yield warned(c, ("host",), "azure", message)
    yield from placeholders(c, ("azureml_client",), c.draft.get(("azureml_client",)))
    yield from placeholders(c, ("systems",), c.draft.get(("systems",)))


def _model(c: Checks) -> Iterator[Finding]:
    model = c.parts.input_model
    if model is None:
        return
    at: KeyPath = ("input_model", "model_path")
    if model.load_kwargs.trust_remote_code and not c.overrides.trust_remote_code:
        yield warned(c, ("input_model", "load_kwargs", "trust_remote_code"), "trust-remote-code", _PHI3_CODE)
    if isinstance(model.model_path, RegistryModel):
        message = f"Azure ML registries are not read yet: `{model.name}` is taken from model-cache/ or the hub"
        yield warned(c, at, "azure", message)
    elif resolve(model.model_path, c.path).from_root:
        yield warned(
            c, at, "found-under-root", f"`{model.model_path}` is found under the project's root, not beside this file"
        )


# -- passes --------------------------------------------------------------------------------------------------------------


def _order(c: Checks) -> Iterator[Finding]:
    before: str = "the base model"
    kind: Kind = "hf"
    last: Pass | None = None
    steps: dict[str, Pass] = {}
    for name, part in c.parts.passes.items():
        if part is None:
            break
        steps[name] = part
    for name, source in sources(steps).items():
        step = steps[name]
        label = f"`{name}` ({step.type})"
        if source is None and getattr(step, "adapters", None):
            return  # said of those (adapter_checks)
        if source is None:
            message = f"{label} needs {_KINDS[step.accepts]}, but comes after {before}, which gives {_KINDS[kind]}"
            if kind == "adapter" and cannot_be_merged(last):
                message += f"; {USE_UNMERGED}"
            yield c.draft.finding(("passes", name), "pass-order", message)
            return
        if step.accepts == "adapter" and cannot_be_merged(steps.get(source)):
            message = f"{label} cannot take what `{source}` ({steps[source].type}) makes: {USE_UNMERGED}"
            yield c.draft.finding(("passes", name), "pass-order", message)
            return
        before, kind, last = label, step.produces, step


def _passes(c: Checks) -> Iterator[Finding]:
    target = c.parts.systems.get(c.parts.target) if isinstance(c.parts.target, str) else None
    provider = target.accelerators[0].execution_providers[0] if target else None
    for name, step in c.parts.passes.items():
        at: KeyPath = ("passes", name)
        taken = name in (BASE, FETCH, EVALUATE) or name.startswith(f"{EVALUATE}-")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or taken:
            others = f"{BASE}, {FETCH}, {EVALUATE} and {EVALUATE}-…"
            message = f"`{name}` cannot name a pass: letters, digits, - and _ can, but {others} stand for other things"
            yield c.draft.finding(at, "pass-name", message)
        if step is None:
            continue
        for place, message in step.conflicts():
            yield c.draft.finding((*at, *place), "contradiction", message)
        if isinstance(step, ExportPass):
            yield from check_export(c, at, step, provider)
        if isinstance(step, FinetunePass):
            yield from _finetune(c, at, step)
            yield from check_training(c, at, step)
        if isinstance(step, AdapterPass):
            yield from check_adapter(c, at, step)


def _finetune(c: Checks, at: KeyPath, step: FinetunePass) -> Iterator[Finding]:
    size = step.eval_dataset_size
    if size > 1 and size != int(size):
        message = f"{size} is neither a fraction below 1 nor a count"
        yield c.draft.finding((*at, "eval_dataset_size"), "out-of-range", message)
    data = next((d for d in c.parts.data_configs if d and d.name == step.train_data_config), None)
    if size > 1 and data and (rows := rows_up_to(data, c.path, int(size) + 1)) <= size:
        message = f"{int(size)} rows are to be held out, and the data has {rows}"
        yield c.draft.finding((*at, "eval_dataset_size"), "out-of-range", message)
    if size and step.eval_data_config:
        message = "`eval_dataset_size` and `eval_data_config` both name the held-out rows; take one out"
        yield c.draft.finding((*at, "eval_dataset_size"), "contradiction", message)
