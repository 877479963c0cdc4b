"""What a pass says of its training, in the words of transformers' Trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phi_runtime.config.schema import TrainingArgs
from phi_runtime.config.schema.training_basics import ADAMW_OF_BITSANDBYTES, OPTIMIZER_PACKAGES
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import versions
from phi_runtime.core.errors import MissingDependency
from phi_runtime.training.distributed.shares import share
from phi_runtime.training.processes import processes
from phi_runtime.training.rows import Rows

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments


def training_arguments(
    context: PassContext, rows: Rows, dtype: torch.dtype, optimizer: str, trackers: Sequence[str]
) -> TrainingArguments:
    """transformers' own settings for a run over `rows` that computes in `dtype` with `optimizer` and reports to `trackers`."""
    import torch
    from transformers import TrainingArguments

    given = context.config.training_args
    values = given.model_dump(exclude=set(TrainingArgs.OURS), exclude_none=True)
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        **{"dataloader_pin_memory": cuda, **_together(values), **_liger(context)},
        **_evaluation(given, bool(len(rows.validation))),
        **_saving(given, steps_of(given, len(rows.training))),
        optim=optimizer,
        data_seed=given.order_seed,
        output_dir=str(context.work / "checkpoints"),
        report_to=list(trackers) or "none",
        use_cpu=context.workflow.host_device == "cpu",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        tf32=context.config.allow_tf32 if cuda else None,
        logging_nan_inf_filter=False,  # Trainer's default shows a running mean where the loss is not a number
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    if arguments.n_gpu > 1:  # or Trainer would take them all, in one process with a copy of the model on each
        context.info(f"one of {arguments.n_gpu} GPUs trains: `run --nproc {arguments.n_gpu}` takes them all")
        arguments._n_gpu = 1
    return arguments


def _together(values: dict[str, Any]) -> dict[str, Any]:
    """`values` for one of the processes that train together."""
    rows, batches = "per_device_train_batch_size", "gradient_accumulation_steps"
    shares = share(values[rows], values[batches], processes())
    whole = {"fsdp": None, "fsdp_config": None} if processes() == 1 else {}  # nothing to cut the model for
    # All that is trained gets a gradient at each step; and that of the head comes from outside of the model's forward pass
    # (training/loss.py), where DDP would not look for it.
    return {"ddp_find_unused_parameters": False, **values, **whole, **dict(zip((rows, batches), shares, strict=True))}


def steps_of(given: TrainingArgs, sequences: int) -> int:
    """Optimizer steps of the whole run."""
    batches = math.ceil(sequences / given.per_device_train_batch_size)
    an_epoch = math.ceil(batches / given.gradient_accumulation_steps)
    return given.max_steps if given.max_steps > 0 else math.ceil(given.num_train_epochs * an_epoch)


def _saving(given: TrainingArgs, steps: int) -> dict[str, Any]:
    """When checkpoints are written beside those of the best states, which the trainer sees to."""
    strategy = "no" if given.save_strategy == "best" else given.save_strategy
    return {"save_strategy": strategy, "save_steps": given.save_steps or max(1, steps // 10)}


def optimizer_of(context: PassContext) -> str:
    """The optimizer that the config names, or what stands for it on a CPU. Raises MissingDependency when its package is not here."""
    wanted = str(context.config.training_args.optim)
    if context.workflow.host_device == "cpu" and wanted in ADAMW_OF_BITSANDBYTES:
        context.warn(f"{wanted} is made for CUDA: adamw_torch takes its place, which trains the same in more memory")
        return "adamw_torch"
    package = OPTIMIZER_PACKAGES.get(wanted)
    if package and not versions((package,)):
        raise MissingDependency(f"the optimizer {wanted} needs {package}", fix=f"pip install {package}, in .venv")
    return wanted


def _liger(context: PassContext) -> dict[str, Any]:
    """Liger's layers, which run on a GPU alone. Its losses are left out: ours takes their place, on trained tokens alone."""
    given = context.config.training_args
    if not given.use_liger_kernel:
        return {}
    found = versions(("liger-kernel",)).get("liger-kernel")
    # Before it, rotary embeddings of a part of the head, as Phi-4-mini has them, came out wrong.
    if found is None or tuple(map(int, found.split(".")[:3])) < (0, 8, 5):
        raise MissingDependency(
            f"use_liger_kernel needs liger-kernel 0.8.5, and {found or 'none'} is installed",
            fix="pip install 'liger-kernel>=0.8.5', in .venv",
        )
    left_out = {"fused_linear_cross_entropy": False, "cross_entropy": False}
    return {"liger_kernel_config": {**(given.liger_kernel_config or {}), **left_out}}


def _evaluation(given: TrainingArgs, validation: bool) -> dict[str, Any]:
    """When the validation loss is measured."""
    strategy = given.eval_strategy or ("steps" if given.eval_steps else "epoch")
    if not validation or strategy == "no":
        return {"eval_strategy": "no", "eval_on_start": False}
    every = given.eval_steps or given.logging_steps
    return {"eval_strategy": strategy, "eval_steps": every, "eval_on_start": given.eval_on_start}
