"""All stages of a workflow with their states, in the order in which they run. Imports no ML library."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from phi_runtime.config.pass_graph import BASE, compared_models
from phi_runtime.config.schema import Workflow
from phi_runtime.config.stage_names import FETCH, evaluation_stages
from phi_runtime.core.artifacts import read_json
from phi_runtime.core.locks import is_held
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.fetch import hub_data
from phi_runtime.models.fetch import adapter_is_present
from phi_runtime.models.place import base_model_path
from phi_runtime.pipeline.artifact import FAILED, interrupted_work, work_folder
from phi_runtime.pipeline.graph import ModelGraph
from phi_runtime.pipeline.stage import Stage, evaluation_stage

_OLD_INPUT = "its input is out of date"
_UNNEEDED = "deleted; what was built from it is up to date"


def plan(workflow: Workflow, project: ProjectFolder) -> list[Stage]:
    """Return all stages in order, each with its current state."""
    graph = ModelGraph(workflow, project)
    stages = [fetch_stage(graph)]
    for node in graph.walk():
        parents = tuple(FETCH if parent == BASE else parent for parent in graph.parents_of(node.name))
        stages.append(replace(node.stage, after=parents))
    for name, training in evaluation_stages(workflow).items():
        models = compared_models(workflow.passes, training) if training else []
        stages.append(replace(evaluation_stage(workflow, project, name, graph.models), after=tuple(models)))
    stages = [_with_work_state(stage, project) for stage in _with_old_inputs(stages)]
    unneeded = unneeded_stages(stages)
    return [replace(stage, state="deleted", why=_UNNEEDED) if stage.name in unneeded else stage for stage in stages]


def _with_old_inputs(stages: Sequence[Stage]) -> list[Stage]:
    """Say of stages whose inputs exist, and are built again by a stage before, that they are out of date."""
    existing = {stage.name for stage in stages if stage.manifest is not None or stage.state == "cached"}
    existing |= {BASE} if FETCH in existing else set()
    return [
        replace(stage, why=_OLD_INPUT)
        if not stage.key and stage.manifest and existing.issuperset(stage.after)
        else stage
        for stage in stages
    ]


def unneeded_stages(stages: Sequence[Stage], selected: Collection[str] = (), force: Collection[str] = ()) -> set[str]:
    """Return the stages whose output is deleted and that nothing needs: all that is built from it is up to date.

    Args:
        stages: Stages in their order.
        selected: Stages that the run updates; empty for all.
        force: Stages that run in any case.
    """
    unneeded: set[str] = set()
    idle = {stage.name for stage in stages if stage.state == "cached" and stage.name not in force}
    for stage in reversed(stages):
        later = [other.name for other in stages if stage.name in other.after]
        needing = [name for name in later if not selected or name in selected]
        if stage.deleted and needing and stage.name not in force and idle.union(unneeded).issuperset(needing):
            unneeded.add(stage.name)
    return unneeded


def fetch_stage(graph: ModelGraph) -> Stage:
    """Return the download stage: cached if the base model is present with its adapter, and so is the data of the hub."""
    model, project = graph.workflow.input_model, graph.project
    present = BASE in graph.models and adapter_is_present(model, project)
    cached = present and all(path.is_file() for path in hub_data(graph.workflow, project.config))
    return Stage(FETCH, "Fetch", base_model_path(model, project), "cached" if cached else "missing")


def _with_work_state(stage: Stage, project: ProjectFolder) -> Stage:
    """Mark a stage that is not cached as running, failed or interrupted, from its work folder."""
    if stage.state not in ("missing", "stale") or not stage.key:
        return stage
    work_dir = work_folder(project, stage)
    if work_dir.is_dir() and is_held(project.run_lock):
        return replace(stage, state="running", why="")
    if (work_dir / FAILED).is_file():
        reason = read_json(work_dir / FAILED).get("message", "")
        return replace(stage, state="failed", why=reason)
    if interrupted := interrupted_work(project, stage):
        return replace(stage, why=f"{interrupted}; `phi-scaffold run` starts over")
    if work_dir.is_dir():
        return replace(stage, why="interrupted; `phi-scaffold run` resumes")
    return stage
