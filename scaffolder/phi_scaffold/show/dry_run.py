"""`run --dry-run`: the plan of a run, estimates of its memory and disk, and one real training step. Imports no ML library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from phi_runtime.config.schema import ExportPass, Workflow
from phi_runtime.core.errors import OutOfResources
from phi_runtime.core.events import Event, progress_message
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.units import count, duration, size
from phi_runtime.hardware.device import usable_cores
from phi_runtime.models.fetch import adapter_is_present, present
from phi_runtime.models.memory import calibration_bytes, calibration_s
from phi_runtime.pipeline.plan import plan
from phi_runtime.pipeline.rehearsal import Rehearsal, rehearse_apart
from phi_runtime.pipeline.stage import Stage
from phi_runtime.training.forecast import Forecast, disk_bytes, forecast
from phi_scaffold.new.catalog import base_shape
from phi_scaffold.show import progress as show_progress
from phi_scaffold.show.terminal import console, prose, table

if TYPE_CHECKING:
    from phi_runtime.config.overrides import Overrides
    from phi_runtime.models.shape import Shape

_PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "fixed")


def dry_run(
    project: ProjectFolder,
    workflow: Workflow,
    overrides: Overrides,
    *,
    names: Sequence[str],
    force: set[str],
    step: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print the plan of the stages `names`; with `step`, try a training step of each stage that would train.

    A step that runs out of memory is a result; any other error of it is raised.
    """
    rows = planned_stages([s for s in plan(workflow, project) if s.name in names], project, force)
    trains = [row["name"] for row in rows if row["would_run"] and row["name"] in workflow.trainings]
    shape = base_shape(workflow, project)
    disk = disk_bytes(workflow, project, shape) if shape else {}
    free_bytes = shutil.disk_usage(project.root).free
    if not as_json:
        _print_stages(rows, disk)
        if trains and disk:
            needed = size(disk["checkpoints"])
            kept = f", kept activations up to {size(disk['activations'])}" if disk["activations"] else ""
            prose(f"\nCheckpoints take up to {needed} during training{kept}; {size(free_bytes)} are free on the disk.")
    estimates, steps = [], []
    for name in trains:
        estimate = forecast(workflow, project, name, shape)
        why = _why_skipped(project, workflow, estimate) if step else "--no-step"
        result = {"stage": name, "skipped": why} if why else _try_step(project, overrides, name, quiet or as_json)
        if not why:  # the step has tokenized the rows, so that the longest is known
            estimate = forecast(workflow, project, name, shape)
        estimates += [_as_dict(estimate)] if estimate else []
        steps.append(result)
        if not as_json:
            if estimate:
                _print_forecast(estimate)
            else:
                reason = "the base model is not downloaded and not in the catalog; run `phi-scaffold fetch` first"
                prose(f"\n{name}: no estimate: {reason}")
            _print_step(result)
    calibrations = _calibrations(workflow, rows, shape) if shape else []
    if not as_json:
        for calibration in calibrations:
            _print_calibration(calibration)
    if as_json:
        sizes = {f"{name}_bytes": needed for name, needed in disk.items()} | {"free_bytes": free_bytes}
        tried = [s if isinstance(s, dict) else asdict(s) for s in steps]
        content = {"stages": rows, "estimates": estimates, "disk": sizes, "steps": tried}
        print(json.dumps(content | ({"calibrations": calibrations} if calibrations else {})))


def planned_stages(stages: Sequence[Stage], project: ProjectFolder, force: set[str]) -> list[dict[str, Any]]:
    """Return whether a run would run each stage, and why."""
    rows = []
    running: set[str] = set()
    for stage in stages:
        runs = stage.state not in ("cached", "deleted") or stage.name in force or not running.isdisjoint(stage.after)
        running |= {stage.name} if runs else set()
        why = "forced" if stage.name in force else stage.why or {"missing": "never run"}.get(stage.state, "")
        if runs and stage.state == "cached" and stage.name not in force:
            why = "if its input changes"
        shown = project.shown(stage.target)
        rows.append({"name": stage.name, "type": stage.type, "would_run": runs, "why": why, "output": shown})
    return rows


def _calibrations(workflow: Workflow, rows: Sequence[Mapping[str, Any]], shape: Shape) -> list[dict[str, Any]]:
    """Estimate memory and time of the exports that would calibrate their weights."""
    exports = {
        name: step for name, step in workflow.passes.items() if isinstance(step, ExportPass) and step.is_calibrated
    }
    return [
        {
            "stage": row["name"],
            "tokens": (tokens := exports[row["name"]].calibration.tokens),
            "total_bytes": calibration_bytes(shape, tokens),
            "seconds": round(calibration_s(shape, tokens, usable_cores())),
        }
        for row in rows
        if row["would_run"] and row["name"] in exports
    ]


def _why_skipped(project: ProjectFolder, workflow: Workflow, estimate: Forecast | None) -> str:
    if workflow.remote:
        return f"it runs on `{workflow.remote}`"
    if present(workflow.input_model, project) is None:
        return "the base model is not downloaded (`phi-scaffold fetch`)"
    if not adapter_is_present(workflow.input_model, project):
        return "the adapter is not downloaded (`phi-scaffold fetch`)"
    return "it is not likely to fit" if estimate and estimate.fits is False else ""


def _try_step(project: ProjectFolder, overrides: Overrides, name: str, quiet: bool) -> Rehearsal | dict[str, str]:
    with show_progress.display(quiet=quiet) as emit:
        emit(Event("stage-started", name, {"index": 1, "count": 1}))
        emit(progress_message(name, "trying a step on the longest batch"))
        try:
            return rehearse_apart(project, name, overrides, emit)
        except OutOfResources as e:
            return {"stage": name, "failed": e.what, "fix": e.fix}


def _print_step(result: Rehearsal | dict[str, str]) -> None:
    if isinstance(result, Rehearsal):
        _print_rehearsal(result)
    elif "failed" in result:
        prose(f"\n{result['stage']}: {result['failed']}\n  {result['fix']}")
    elif result["skipped"] != "--no-step":
        prose(f"\n{result['stage']}: no step was tried: {result['skipped']}")


def _as_dict(estimate: Forecast) -> dict[str, Any]:
    job = estimate.job
    return {
        "stage": estimate.stage,
        "method": job.method,
        "device": job.device,
        "dtype": estimate.dtype,
        "batch_rows": job.batch,
        "row_tokens": job.tokens,
        "row_tokens_known": estimate.longest,
        **estimate.estimate.as_dict(),
        "available_bytes": estimate.available_bytes,
        "fits": estimate.fits,
        "settings": estimate.settings,
        "advice": "" if estimate.fits is not False else estimate.advice,
    }


# -- text ---------------------------------------------------------------------------------------------------------------------


def _print_stages(rows: Sequence[Mapping[str, Any]], disk: Mapping[str, int]) -> None:
    """Print the stages; `disk` is the estimated size in bytes of each stage's output."""
    stages = table("!stage", "!action", "why", "!output", "!>disk")
    for row in rows:
        needed = f"about {size(disk[row['name']])}" if row["name"] in disk and row["would_run"] else ""
        action = "run" if row["would_run"] else "keep"
        stages.add_row(row["name"], action, escape(row["why"]), row["output"], needed)
    console().print(stages)


def _print_forecast(estimate: Forecast) -> None:
    """Print the estimated memory of a stage, by part."""
    job, needed = estimate.job, estimate.estimate.as_dict()
    at_most = "" if estimate.longest else "at most "
    rows = f"{count(job.batch, 'row')} of {at_most}{job.tokens:,} tokens"
    memory = "GPU memory" if job.device == "gpu" else "memory"
    total = size(estimate.estimate.total_bytes)
    prose(f"\n{estimate.stage}: about {total} of {memory} ({rows} a step, in {estimate.dtype})")
    parts = [f"{part} {size(needed[f'{part}_bytes'])}" for part in _PARTS if needed[f"{part}_bytes"]]
    prose(f"  {', '.join(parts)}")
    if estimate.available_bytes is not None:
        verdict = "it fits" if estimate.fits else f"it is not likely to fit; {estimate.advice}"
        prose(f"  {size(estimate.available_bytes)} are free: {verdict}")


def _print_calibration(calibration: Mapping[str, Any]) -> None:
    """Print the estimated memory and time of a calibration."""
    memory, time = size(calibration["total_bytes"]), duration(calibration["seconds"])
    tokens = f"up to {calibration['tokens']:,} tokens"
    prose(f"\n{calibration['stage']}: about {memory} of memory to calibrate the weights on {tokens}, in roughly {time}")


def _print_rehearsal(rehearsal: Rehearsal) -> None:
    """Print the measurements of the training step that was tried."""
    lines, tokens = rehearsal.batch
    peak = f", {size(rehearsal.peak_bytes)} of memory at its peak" if rehearsal.peak_bytes else ""
    prose(f"\n{rehearsal.stage}: tried a step on the longest batch ({lines} × {tokens:,} tokens, in {rehearsal.dtype})")
    prose(f"  {duration(rehearsal.step_s)}{peak}")
    prose(f"  {count(rehearsal.steps, 'step')} take about {duration(rehearsal.stage_s)}, without validation")
