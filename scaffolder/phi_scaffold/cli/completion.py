"""Values that the shell completes. Imported at each start: no function imports anything before it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phi_runtime.config.schema import Workflow

Complete = Callable[[str], list[str]]


def from_list(values: Callable[[], Iterable[str]]) -> Complete:
    """Return a function that completes to those of `values` that start as typed, in any case."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values() if value.casefold().startswith(incomplete.casefold())]

    return complete


def _models() -> Iterable[str]:
    from phi_scaffold.new.catalog import catalog

    return catalog().models


def _answers(name: str) -> Callable[[], Iterable[str]]:
    def values() -> Iterable[str]:
        from phi_scaffold.new.answers import CHOICES

        return CHOICES[name]

    return values


def _workflow() -> Workflow | None:
    """Return the workflow of the project that contains the current folder; None without a valid one."""
    from pathlib import Path

    from phi_runtime.core.project import find_project
    from phi_runtime.pipeline.load import load_workflow

    with suppress(Exception):  # a completion shows no error
        return load_workflow(find_project(Path.cwd()).config)
    return None


def _stages() -> Iterable[str]:
    from phi_runtime.config.stage_names import stage_order

    workflow = _workflow()
    return stage_order(workflow) if workflow else []


def _removable() -> Iterable[str]:
    from phi_runtime.pipeline.cleanup import GROUPS

    return GROUPS


def _project_models() -> Iterable[str]:
    from phi_runtime.config.pass_graph import BASE

    workflow = _workflow()
    return ["adapter", "merged", "onnx", BASE, *(workflow.passes if workflow else ())]


model_ids = from_list(_models)
tasks = from_list(_answers("task"))
methods = from_list(_answers("method"))
targets = from_list(_answers("target"))
precisions = from_list(_answers("precision"))
stages = from_list(_stages)
project_models = from_list(_project_models)
clusters = from_list(lambda: ("sky", "hf", "k8s"))  # cluster_files.KINDS, which the archive of a job does not have
schemas = from_list(lambda: ("workflow", "evaluation", "sweep"))
removable = from_list(_removable)
