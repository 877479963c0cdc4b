"""`run --dry-run`: what a run would do and take, and one real step of what it would train. Imports no ML library itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from phi_runtime.config.schema import Workflow
from phi_runtime.core.errors import OutOfResources
from phi_runtime.core.events import Event
from phi_runtime.core.project import Project
from phi_runtime.models.fetch import present
from phi_runtime.models.place import base_model_path
from phi_runtime.models.shape import Shape, shape_of
from phi_runtime.pipeline.plan import plan
from phi_runtime.pipeline.rehearsal import Rehearsal, rehearse_apart
from phi_runtime.pipeline.stage import Stage
from phi_runtime.training.forecast import Forecast, disk_bytes, forecast, free_disk_bytes
from phi_scaffold.show import plan as show_plan
from phi_scaffold.show import progress as show_progress

if TYPE_CHECKING:
    from phi_runtime.config.overrides import Overrides


def dry_run(
    project: Project,
    workflow: Workflow,
    overrides: Overrides,
    *,
    names: Sequence[str],
    force: set[str],
    step: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Shows the stages `names`; with `step`, tries one step of each that trains and would run. Raises what such a step raises, but
    that it does not fit into memory is a result."""
    rows = would_run([s for s in plan(workflow, project) if s.name in names], project, force)
    trains = [row["name"] for row in rows if row["would_run"] and row["name"] in workflow.trainings]
    shape = shape_of(base_model_path(workflow.input_model, project)) or in_catalogue(workflow)
    disk = disk_bytes(workflow, project, shape) if shape else {}
    if not as_json:
        show_plan.plan(rows, disk)
        if trains and disk:
            show_plan.checkpoints(disk["checkpoints"], free_disk_bytes(project))
    forecasts = {name: forecast(workflow, project, name, shape) for name in trains}
    if not as_json:
        for name, found in forecasts.items():
            show_plan.forecast(found) if found else show_plan.unknown(name)
    steps = []
    for name, found in forecasts.items():
        why = "" if step else "--no-step"
        tried = _tried(project, workflow, overrides, name, found, why, quiet=quiet or as_json)
        steps.append(tried)
        if not as_json:
            _show_step(tried)
    if as_json:
        told = [_as_dict(f) for f in forecasts.values() if f]
        sizes = {f"{name}_bytes": needed for name, needed in disk.items()} | {"free_bytes": free_disk_bytes(project)}
        said = [s if isinstance(s, dict) else asdict(s) for s in steps]
        print(json.dumps({"stages": rows, "estimates": told, "disk": sizes, "steps": said}))


def would_run(stages: Sequence[Stage], project: Project, force: set[str]) -> list[dict[str, Any]]:
    """Which stages a run would make again, and why."""
    rows = []
    running: set[str] = set()
    for stage in stages:
        runs = stage.state != "cached" or stage.name in force or not running.isdisjoint(stage.after)
        running |= {stage.name} if runs else set()
        why = "forced" if stage.name in force else stage.why or {"missing": "never run"}.get(stage.state, "")
        if runs and stage.state == "cached" and stage.name not in force:
            why = "if its input changes"
        shown = project.shown(stage.target)
        rows.append({"name": stage.name, "type": stage.type, "would_run": runs, "why": why, "output": shown})
    return rows


def in_catalogue(workflow: Workflow) -> Shape | None:
    """The shape of the base model, if it is one that we know."""
    from phi_scaffold.new.catalog import catalog

    name = workflow.input_model.name.rstrip("/")
    known = catalog().models.get(name.partition("model-cache/")[2] or name)
    return known.shape if known else None


def _tried(
    project: Project,
    workflow: Workflow,
    overrides: Overrides,
    name: str,
    found: Forecast | None,
    why: str,
    *,
    quiet: bool,
) -> Rehearsal | dict[str, str]:
    """The step of one stage; else why it was not made, or what it died of."""
    if workflow.remote:
        why = f"it runs on `{workflow.remote}`"
    elif present(workflow.input_model, project) is None:
        why = "the base model is not here yet (`phi-scaffold fetch`)"
    elif found and found.fits is False:
        why = "it is not likely to fit"
    if why:
        return {"stage": name, "skipped": why}
    with show_progress.display(as_json=False, quiet=quiet) as emit:
        message = "trying a step on the longest batch"
        emit(Event("stage-started", name, {"index": 1, "count": 1}))
        emit(Event("progress", name, {"done": None, "total": None, "unit": "", "message": message}))
        try:
            return rehearse_apart(project, name, overrides, emit)
        except OutOfResources as e:
            return {"stage": name, "failed": e.what, "fix": e.fix}


def _show_step(tried: Rehearsal | dict[str, str]) -> None:
    if isinstance(tried, Rehearsal):
        show_plan.step(tried)
    elif "failed" in tried:
        show_plan.no_step(tried["stage"], tried["failed"], tried["fix"])
    elif tried["skipped"] != "--no-step":
        show_plan.no_step(tried["stage"], tried["skipped"])


def _as_dict(found: Forecast) -> dict[str, Any]:
    job = found.job
    return {
        "stage": found.stage,
        "method": job.method,
        "device": job.device,
        "dtype": found.dtype,
        "batch_rows": job.batch,
        "row_tokens": job.tokens,
        "row_tokens_known": found.longest,
        **found.estimate.as_dict(),
        "available_bytes": found.available_bytes,
        "fits": found.fits,
        "settings": found.settings,
        "advice": "" if found.fits is not False else found.advice,
    }
