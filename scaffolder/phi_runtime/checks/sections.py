"""The valid parts of a config, so that an error in one part does not hide those in another."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phi_runtime.config.diagnostics import Finding, key_path_of, warning
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import AnyPass, AnySystem, AzureMLSystem, DataConfig, InputModel, Pass, System, Workflow
from phi_runtime.config.schema.systems import AzureMLClient
from phi_runtime.core.remote_job import in_job
from phi_runtime.core.wire import adapter
from phi_runtime.models.stored import stored_config


@dataclass(frozen=True)
class ConfigParts:
    """The parts of a workflow without their invalid keys; None for a part that is invalid even so.

    `host`, `target` and `data_names` are the values of the file, of any type.
    """

    input_model: InputModel | None
    systems: dict[str, System | None]
    data_configs: list[DataConfig | None]
    data_names: list[Any]
    passes: dict[str, Pass | None]
    host: Any
    target: Any
    azureml_client: AzureMLClient | None


@dataclass(frozen=True)
class Checks:
    """One cross-check of a config: the parts to check, and constructors of located findings."""

    draft: Draft
    parts: ConfigParts
    path: Path
    overrides: Overrides

    def error(self, at: KeyPath, rule: str, message: str, suggestion: str = "", fix: str = "") -> Finding:
        """Return an error at the canonical key path `at`."""
        return self.draft.finding(at, rule, message, suggestion, fix)

    def warning(self, at: KeyPath, rule: str, message: str, fix: str = "", *, changes_result: bool = False) -> Finding:
        """Return a warning at the canonical key path `at`."""
        path = self.draft.source_path(at)
        return warning(self.draft.source, path, rule, message, fix, changes_result=changes_result)

    @property
    def host(self) -> System | None:
        """The system that passes without a `host` run on, if it is valid."""
        return self._system(self.parts.host)

    def host_of(self, step: Pass) -> System | None:
        """Return the system that a pass runs on, if it is valid."""
        return self._system(self.host_name(step))

    def host_name(self, step: Pass) -> object:
        """Return the name of the system that a pass runs on; in a job, all run on `host`."""
        return self.parts.host if in_job() or not step.host else step.host

    @cached_property
    def azureml(self) -> dict[str, AzureMLSystem]:
        """The Azure ML systems that passes run on, by name: their hosts, or that of --on. None of them inside of a job."""
        systems = {name: s for name, s in self.parts.systems.items() if isinstance(s, AzureMLSystem)}
        on = self.overrides.on_azureml
        if in_job():
            return {}
        if on in systems:
            return {on: systems[on]}
        hosts = [self.host_name(step) for step in self.steps.values()] or [self.parts.host]
        used = {name: systems[name] for name in hosts if isinstance(name, str) and name in systems}
        return used or (systems if on and len(systems) == 1 else {})

    @property
    def provider(self) -> str | None:
        """The execution provider of `target`, if that is valid."""
        target = self._system(self.parts.target)
        return target.accelerators[0].execution_providers[0] if target else None

    @cached_property
    def stored(self) -> dict[str, Any]:
        """The base model's config.json; empty if it is not downloaded."""
        return stored_config(self.parts.input_model, self.path) if self.parts.input_model else {}

    @property
    def steps(self) -> dict[str, Pass]:
        """The valid passes."""
        return {name: step for name, step in self.parts.passes.items() if step is not None}

    def _system(self, name: object) -> System | None:
        return self.parts.systems.get(name) if isinstance(name, str) else None


def config_parts(value: dict[str, Any], workflow: Workflow | None) -> ConfigParts:
    """Return the parts of `value`, a config in canonical form; `workflow` is its model if all of it is valid."""
    configs = value.get("data_configs")
    data_values = configs if isinstance(configs, list) else []
    data_names = [c.get("name") if isinstance(c, dict) else None for c in data_values]
    if workflow is not None:
        return ConfigParts(
            workflow.input_model,
            dict(workflow.systems),
            list(workflow.data_configs),
            data_names,
            dict(workflow.passes),
            workflow.host,
            workflow.target,
            workflow.azureml_client,
        )
    return ConfigParts(
        _valid_part(InputModel, value.get("input_model")),
        _valid_members(AnySystem, value.get("systems")),
        [_valid_part(DataConfig, c) for c in data_values],
        data_names,
        _valid_members(AnyPass, value.get("passes")),
        value.get("host"),
        value.get("target"),
        _valid_part(AzureMLClient, value["azureml_client"]) if value.get("azureml_client") else None,
    )


def _valid_members(kind: Any, members: Any) -> dict[str, Any]:
    return {name: _valid_part(kind, part) for name, part in members.items()} if isinstance(members, dict) else {}


def _valid_part(kind: Any, part: Any) -> Any:
    """Return `part` as the type `kind`, without its invalid keys if necessary; None if it is invalid even so."""
    try:
        return adapter(kind).validate_python(part)
    except ValidationError as e:
        invalid = [key_path_of(part, error) for error in e.errors(include_url=False)]
    try:
        return adapter(kind).validate_python(_without(part, invalid))
    except ValidationError:
        return None


def _without(part: Any, paths: list[KeyPath]) -> Any:
    """Return a copy of `part` without the values at `paths`."""
    result = copy.deepcopy(part)
    by_place = sorted(set(paths) - {()}, key=lambda path: [(isinstance(key, str), key) for key in path])
    for path in reversed(by_place):  # the last of a list first: what is removed moves the others up
        parent: Any = result
        try:
            for key in path[:-1]:
                parent = parent[key]
        except (KeyError, IndexError):  # removed together with its parent
            continue
        if isinstance(parent, dict):
            parent.pop(path[-1], None)
        elif isinstance(parent, list) and isinstance(path[-1], int) and path[-1] < len(parent):
            del parent[path[-1]]
    return result


_PLACEHOLDER = re.compile(r"your\b.*|<.*>|\{.*\}", re.IGNORECASE | re.DOTALL)


def placeholders(c: Checks, at: KeyPath, value: Any, *, errors: bool) -> Iterator[Finding]:
    """Yield a finding for each value that is still a placeholder of a template: an error if it would be sent to Azure."""
    if isinstance(value, str) and _PLACEHOLDER.fullmatch(value.strip()):
        message = f"`{value}` is a placeholder: replace it"
        yield (c.error if errors else c.warning)(at, "placeholder", message)
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from placeholders(c, (*at, key), inner, errors=errors)
