"""How several processes share the training of a workflow, and whether they can.

What a step trains on, `per_device_train_batch_size` times `gradient_accumulation_steps` rows, is what the config says, and the
processes divide it. So their number decides how fast a run is and not what comes of it: a run that was interrupted with one number
goes on with another, and what one number made need not be made again with another.
"""

from __future__ import annotations

from math import gcd

from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.core.errors import UsageError
from phi_runtime.core.events import Emit, Event
from phi_runtime.hardware.device import usable_cores


def share(rows: int, accumulation: int, processes: int) -> tuple[int, int]:
    """Rows of a batch and batches of a step for each of the `processes`, of what is `rows` and `accumulation` in one.

    The batches are divided, as long as that goes; then the rows of a batch. Raises UsageError where that cannot be done evenly.
    """
    fewer = gcd(accumulation, processes)
    smaller = processes // fewer
    if rows % smaller:
        raise UsageError(
            f"{processes} processes cannot share a step of {rows} rows × {accumulation} batches evenly",
            fix=f"make gradient_accumulation_steps a multiple of {processes}, or choose another --nproc",
        )
    return rows // smaller, accumulation // fewer


def check_processes(workflow: Workflow, count: int, emit: Emit) -> None:
    """Raises UsageError where `count` processes cannot train the passes of `workflow` here; warns where they should not."""
    steps = {name: step for name, step in workflow.passes.items() if isinstance(step, FinetunePass)}
    for name, step in steps.items():
        _check_step(name, step, count)
    if count == 1:
        return
    if workflow.host_device == "gpu":
        import torch

        gpus = torch.cuda.device_count()
        if count > gpus:
            have = f"{gpus} GPU{'' if gpus == 1 else 's'} that processes can share" if gpus else "no GPU for them"
            raise UsageError(f"--nproc {count}: this machine has {have}", fix=f"give --nproc {max(gpus, 1)} at most")
    elif count > (cores := usable_cores()):
        message = f"--nproc {count}: this machine has {cores} cores, on which more processes only wait for one another"
        emit(Event("warning", "", {"message": message}))


def _check_step(name: str, step: FinetunePass, count: int) -> None:
    given = step.training_args
    share(given.per_device_train_batch_size, given.gradient_accumulation_steps, count)
    if given.fsdp and given.deepspeed:
        raise UsageError(f"`{name}` has both fsdp and deepspeed in its training_args", fix="take one of them out")
    if not given.fsdp:
        return
    if step.rounds_base:
        raise UsageError(
            f"`{name}` has int4_aware and fsdp: weights that are cut to pieces cannot be exchanged for rounded ones",
            fix="take training_args.fsdp out, or set int4_aware to false",
        )
    if step.quantized_base:
        raise UsageError(
            f"`{name}` has fsdp, which cannot cut the 4-bit weights of QLoRA",
            fix="take training_args.fsdp out, or train with LoRA",
        )
