"""Values that the shell completes. Imported at each start: no function imports anything before it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

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
        from phi_scaffold.new import answers

        return {
            "task": answers.TASKS,
            "method": answers.METHODS,
            "target": answers.TARGETS,
            "precision": answers.PRECISIONS["cuda"],
        }[name]

    return values


def _stages() -> Iterable[str]:
    """Return the stages of the project that contains the current folder."""
    from pathlib import Path

    from phi_runtime.config.stage_names import FETCH, evaluation_stages
    from phi_runtime.core.project import find_project
    from phi_runtime.pipeline.load import load_workflow

    with suppress(Exception):  # a completion shows no error
        workflow = load_workflow(find_project(Path.cwd()).config)
        return [FETCH, *workflow.passes, *evaluation_stages(workflow)]
    return []


def _removable() -> Iterable[str]:
    from phi_runtime.pipeline.cleanup import LOSSES

    return LOSSES


def _project_models() -> Iterable[str]:
    from phi_runtime.config.pass_graph import BASE
    from phi_runtime.config.stage_names import FETCH

    return ["adapter", "merged", "onnx", BASE, *(name for name in _stages() if name not in (FETCH, "evaluate"))]


model_ids = from_list(_models)
tasks = from_list(_answers("task"))
methods = from_list(_answers("method"))
targets = from_list(_answers("target"))
precisions = from_list(_answers("precision"))
stages = from_list(_stages)
project_models = from_list(_project_models)
schemas = from_list(lambda: ("workflow", "evaluation", "sweep"))
removable = from_list(_removable)
