"""The parts of a config by themselves, so that what is wrong with one does not hide what is wrong with another."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from phi_runtime.config.diagnostics import Finding, key_path_of, warning
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import AnyPass, AnySystem, DataConfig, InputModel, Pass, System, Workflow
from phi_runtime.config.schema.registry import pass_types


@dataclass(frozen=True)
class Parts:
    """The parts of a workflow, less what is wrong with them; None stands for one of which too little is left."""

    input_model: InputModel | None
    systems: dict[str, System | None]
    data_configs: list[DataConfig | None]
    data_names: list[Any]
    passes: dict[str, Pass | None]
    host: Any
    target: Any


@dataclass(frozen=True)
class Checks:
    draft: Draft
    parts: Parts
    path: Path
    overrides: Overrides


@cache  # building an adapter takes longer than using it
def _adapter(kind: str, _loaded_types: int) -> TypeAdapter[Any]:
    kinds: dict[str, Any] = {"model": InputModel, "system": AnySystem, "data": DataConfig, "pass": AnyPass}
    return TypeAdapter(kinds[kind])


def parts_of(value: dict[str, Any], workflow: Workflow | None) -> Parts:
    configs = value.get("data_configs")
    raw = configs if isinstance(configs, list) else []
    names = [c.get("name") if isinstance(c, dict) else None for c in raw]
    if workflow is not None:
        return Parts(
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
            return _adapter(kind, len(pass_types())).validate_python(part)
        except ValidationError as e:
            rest = _without(part, [key_path_of(part, error["loc"]) for error in e.errors(include_url=False)])
        try:
            return _adapter(kind, len(pass_types())).validate_python(
                rest
            )  # what else is wrong with it is to be seen too
        except ValidationError:
            return None

    def each(key: str, kind: str) -> dict[str, Any]:
        members = value.get(key)
        return {name: sound(kind, part) for name, part in members.items()} if isinstance(members, dict) else {}

    return Parts(
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


def placeholders(c: Checks, at: KeyPath, value: Any) -> Iterator[Finding]:
    if isinstance(value, str) and value.lower().startswith(("your ", "<your")):
        yield warned(c, at, "placeholder", f"`{value}` is still to be filled in")
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from placeholders(c, (*at, key), inner)


def warned(c: Checks, at: KeyPath, rule: str, message: str) -> Finding:
    return warning(c.draft.source, c.draft.source_path(at), rule, message)
