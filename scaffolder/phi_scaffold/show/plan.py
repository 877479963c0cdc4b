"""Output of `run --dry-run`: stages, memory, disk, and the training step that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phi_scaffold.show.terminal import console, duration, size, table

if TYPE_CHECKING:
    from phi_runtime.pipeline.rehearsal import Rehearsal
    from phi_runtime.training.forecast import Forecast

_PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "fixed")


def plan(rows: Sequence[Mapping[str, Any]], disk: Mapping[str, int]) -> None:
    """Print the stages; `disk` is the estimated size in bytes of each stage's output."""
    stages = table("stage", "type", "action", "why", "output", ">disk")
    for row in rows:
        needed = f"about {size(disk[row['name']])}" if row["name"] in disk and row["would_run"] else ""
        action = "run" if row["would_run"] else "keep"
        stages.add_row(row["name"], row["type"], action, row["why"], row["output"], needed)
    console().print(stages)


def checkpoints(needed_bytes: int, free_bytes: int) -> None:
    """Print the disk space that checkpoints take during training."""
    print(f"\nCheckpoints take up to {size(needed_bytes)} during training; {size(free_bytes)} are free on the disk.")


def forecast(estimate: Forecast) -> None:
    """Print the estimated memory of a stage, by part."""
    job, needed = estimate.job, estimate.estimate.as_dict()
    at_most = "" if estimate.longest else "at most "
    rows = f"{job.batch} row{'s' if job.batch > 1 else ''} of {at_most}{job.tokens:,} tokens"
    memory = "GPU memory" if job.device == "gpu" else "memory"
    total = size(estimate.estimate.total_bytes)
    print(f"\n{estimate.stage}: about {total} of {memory} ({rows} a step, in {estimate.dtype})")
    parts = [f"{part} {size(needed[f'{part}_bytes'])}" for part in _PARTS if needed[f"{part}_bytes"]]
    print(f"  {', '.join(parts)}")
    if estimate.available_bytes is not None:
        verdict = "it fits" if estimate.fits else f"it is not likely to fit; {estimate.advice}"
        print(f"  {size(estimate.available_bytes)} are free: {verdict}")


def unknown(stage: str) -> None:
    """Report that the memory of a stage cannot be estimated."""
    print(
        f"\n{stage}: no estimate: the base model is not downloaded and not in the catalog; run `phi-scaffold fetch` first"
    )


def step(rehearsal: Rehearsal) -> None:
    """Print the measurements of the training step that was tried."""
    lines, tokens = rehearsal.batch
    peak = f", {size(rehearsal.peak_bytes)} of memory at its peak" if rehearsal.peak_bytes else ""
    print(f"\n{rehearsal.stage}: tried a step on the longest batch ({lines} × {tokens:,} tokens, in {rehearsal.dtype})")
    print(f"  {duration(rehearsal.step_s)}{peak}")
    steps = f"{rehearsal.steps:,} step{'s' if rehearsal.steps > 1 else ''}"
    print(f"  {steps} take about {duration(rehearsal.stage_s)}, without validation")


def skipped_step(stage: str, why: str) -> None:
    """Report that no step was tried."""
    print(f"\n{stage}: no step was tried: {why}")


def failed_step(stage: str, problem: str, fix: str) -> None:
    """Report that the step failed."""
    print(f"\n{stage}: {problem}\n  {fix}")
