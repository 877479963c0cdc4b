"""Divide the training of a workflow among several processes.

The rows of a step are `per_device_train_batch_size` × `gradient_accumulation_steps`, whatever the number of processes, which
divide them. So that number changes the speed of a run and not its result: an interrupted run can be resumed with another
number, and the cache does not depend on it.
"""

from __future__ import annotations

from math import gcd

from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.core.errors import UsageError
from phi_runtime.core.events import Emit, Event
from phi_runtime.hardware.device import usable_cores


def share(rows: int, accumulation: int, processes: int) -> tuple[int, int]:
    """Divide a step of `rows` × `accumulation` batches among `processes`: the batches first, then the rows of a batch.

    Returns:
        Rows of a batch and batches of a step, of one process.

    Raises:
        UsageError: The rows cannot be divided evenly.
    """
    batch_split = gcd(accumulation, processes)
    row_split = processes // batch_split
    if rows % row_split:
        raise UsageError(
            f"{processes} processes cannot share a step of {rows} rows × {accumulation} batches evenly",
            fix=f"make gradient_accumulation_steps a multiple of {processes}, or choose another --nproc",
        )
    return rows // row_split, accumulation // batch_split


def check_processes(workflow: Workflow, count: int, emit: Emit, machines: int = 1) -> None:
    """Raise UsageError if `count` processes on each of `machines` machines cannot train `workflow`.

    Warns if this machine has fewer cores than processes.
    """
    check_shares(workflow, count * machines)
    if count == 1:
        return
    if workflow.host_device == "gpu":
        import torch

        gpus = torch.cuda.device_count()
        if count > gpus:
            available = f"{gpus} GPU{'' if gpus == 1 else 's'}" if gpus else "no GPU"
            fix = f"use --nproc {max(gpus, 1)} at most"
            raise UsageError(f"--nproc {count} needs one GPU per process; this machine has {available}", fix=fix)
    elif count > (cores := usable_cores()):
        message = f"--nproc {count}: this machine has {cores} cores; more processes slow the training down"
        emit(Event("warning", "", {"message": message}))


def check_shares(workflow: Workflow, count: int) -> None:
    """Raise UsageError if the batches of `workflow` cannot be shared by `count` processes."""
    for name, step in workflow.passes.items():
        if isinstance(step, FinetunePass):
            _check_step(name, step, count)


def _check_step(name: str, step: FinetunePass, count: int) -> None:
    settings = step.training_args
    share(settings.per_device_train_batch_size, settings.gradient_accumulation_steps, count)
    if not settings.fsdp:
        return
    if step.rounds_base:
        raise UsageError(
            f"`{name}` has int4_aware and fsdp: sharded weights cannot be replaced by rounded ones",
            fix="remove training_args.fsdp, or set int4_aware to false",
        )
    if step.quantized_base:
        raise UsageError(
            f"`{name}` has fsdp, which cannot shard the 4-bit weights of QLoRA",
            fix="remove training_args.fsdp, or train with LoRA",
        )
