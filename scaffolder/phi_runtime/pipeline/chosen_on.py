"""Choices that were made on the validation rows, which make scores on the same rows look better than on new ones.

Read from the config and from the records of `sweep` and `optimize` in gen-model/. The gate of an export stops a model and
chooses none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phi_runtime.config.pass_graph import trainings_of
from phi_runtime.config.schema import FinetunePass, Workflow, canonical
from phi_runtime.config.search_space import full_key, trained_pass
from phi_runtime.core.artifacts import read_object
from phi_runtime.core.project import ProjectFolder
from phi_runtime.training.selection import VALIDATION_LOSS, ModelSelection

SWEEPS, OPTIMIZATIONS = "sweep/study-*/trials.json", "optimize*/candidates.json"
_MISSING = object()


def chosen_on(workflow: Workflow, project: ProjectFolder, training: str) -> list[str]:
    """Return what was chosen on the validation rows of a training pass; empty if its comparison reads other rows.

    A search counts if the config has the values that it chose.
    """
    step = workflow.passes[training]
    if not isinstance(step, FinetunePass) or step.test_data_config or step.test_dataset_size:
        return []
    if not (step.eval_data_config or step.eval_dataset_size):
        return []
    return [*_checkpoint(step), *_sweeps(workflow, project, training), *_optimizations(workflow, project, training)]


def _checkpoint(step: FinetunePass) -> Iterator[str]:
    selection = ModelSelection.from_config(step)
    by = "" if selection.metric == VALIDATION_LOSS else f" by {selection.metric.removeprefix('eval_')}"
    if selection.patience is not None:
        yield f"early stopping{by}"
    elif selection.keep_best:
        yield f"best checkpoint{by}"


def _sweeps(workflow: Workflow, project: ProjectFolder, training: str) -> Iterator[str]:
    config = canonical(workflow)
    for record in _records(project, SWEEPS):
        best = record["best"]["values"]
        values = {full_key(key, training): value for key, value in best.items()}
        if trained_pass(workflow, list(best)) == training and _has(config, values):
            finished = sum(trial["state"] in ("complete", "pruned") for trial in record["trials"])
            yield f"sweep ({finished} {'trial' if finished == 1 else 'trials'})"


def _optimizations(workflow: Workflow, project: ProjectFolder, training: str) -> Iterator[str]:
    config = canonical(workflow)
    for record in _records(project, OPTIMIZATIONS):
        name, measured = record["pass"], [row for row in record["candidates"] if row["state"] == "measured"]
        chosen = next((row["options"] for row in record["candidates"] if row["name"] == record["chosen"]), None)
        if chosen and record["rows"] and name in workflow.passes and training in trainings_of(workflow.passes, name):
            values = {f"passes.{name}.{key}": value for key, value in chosen.items() if value is not None}
            if _has(config, values):
                yield f"optimize ({len(measured)} {'candidate' if len(measured) == 1 else 'candidates'})"


def _records(project: ProjectFolder, pattern: str) -> Iterator[dict[str, Any]]:
    """Return the readable results of searches, the earliest first; a stopped search has chosen nothing."""
    return filter(None, map(read_object, sorted(project.gen_model.glob(pattern), key=_number)))


def _number(path: Path) -> tuple[int, str]:
    text = path.parent.name.rpartition("-")[2]
    return int(text) if text.isdigit() else 0, path.parent.name


def _has(config: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Return True if the config has each value, by dotted path."""
    return all(_value(config, key.split(".")) == value for key, value in values.items())


def _value(value: Any, keys: list[str]) -> Any:
    for key in keys:
        if isinstance(value, list):  # data_configs, by name
            value = {item["name"]: item for item in value if isinstance(item, dict) and "name" in item}
        if not isinstance(value, dict) or key not in value:
            return _MISSING
        value = value[key]
    return value
