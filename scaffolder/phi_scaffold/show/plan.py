"""Draws what a run would do: its stages, the memory and the disk that they take, and a step that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phi_scaffold.show.terminal import console, duration, size

if TYPE_CHECKING:
    from phi_runtime.pipeline.rehearsal import Rehearsal
    from phi_runtime.training.forecast import Forecast

_PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "fixed")


def plan(rows: Sequence[Mapping[str, Any]], disk: Mapping[str, int]) -> None:
    """The stages; `disk` is about how much each one's output takes, by its name."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("stage", "type", "would", "why", "output"):
        table.add_column(name)
    table.add_column("disk", justify="right")
    for row in rows:
        takes = f"about {size(disk[row['name']])}" if row["name"] in disk and row["would_run"] else ""
        would = "run" if row["would_run"] else "be kept"
        table.add_row(row["name"], row["type"], would, row["why"], row["output"], takes)
    console().print(table)


def checkpoints(needed_bytes: int, free_bytes: int) -> None:
    """What the disk has to hold beside the results."""
    print(f"\nCheckpoints take up to {size(needed_bytes)} while it trains; {size(free_bytes)} are free on the disk.")


def forecast(found: Forecast) -> None:
    """The memory that a stage will take, by part."""
    job, needed = found.job, found.estimate.as_dict()
    rows = (
        f"{job.batch} row{'s' if job.batch > 1 else ''} of {'' if found.longest else 'at most '}{job.tokens:,} tokens"
    )
    where = "GPU memory" if job.device == "gpu" else "memory"
    print(f"\n{found.stage}: about {size(found.estimate.total_bytes)} of {where} ({rows} a step, in {found.dtype})")
    parts = [f"{part} {size(needed[f'{part}_bytes'])}" for part in _PARTS if needed[f"{part}_bytes"]]
    print(f"  {', '.join(parts)}")
    if found.available_bytes is None:
        return
    free = f"{size(found.available_bytes)} are free"
    print(f"  {free}: it fits" if found.fits else f"  {free}: it is not likely to fit; {found.advice}")


def unknown(stage: str) -> None:
    """Nothing can be said of a stage."""
    print(
        f"\n{stage}: the base model is not here and not in the catalogue; after `phi-scaffold fetch` there is an estimate"
    )


def step(done: Rehearsal) -> None:
    """A step that was tried."""
    lines, tokens = done.batch
    peak = f", {size(done.peak_bytes)} of memory at its peak" if done.peak_bytes else ""
    print(f"\n{done.stage}: a step on the longest batch ({lines} × {tokens:,} tokens, in {done.dtype}) was tried")
    print(f"  {duration(done.step_s)}{peak}")
    steps = f"{done.steps:,} step{'s' if done.steps > 1 else ''}"
    print(f"  {steps} take about {duration(done.stage_s)}, held-out measurements apart")


def no_step(stage: str, why: str, fix: str = "") -> None:
    """A step that was not made, or not to its end."""
    print(f"\n{stage}: no step was tried: {why}" if not fix else f"\n{stage}: {why}\n  {fix}")
