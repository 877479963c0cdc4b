"""transformers' TrainingArguments for a pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phi_runtime.config.schema import TrainingArgs
from phi_runtime.config.schema.training_basics import ADAMW_OF_BITSANDBYTES, OPTIMIZER_PACKAGES
from phi_runtime.core.artifacts import versions
from phi_runtime.core.errors import MissingDependency
from phi_runtime.training.distributed.shares import share
from phi_runtime.training.process_group import world_size
from phi_runtime.training.rows import FinetuneContext, TrainingData

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

_MIN_LIGER = "0.8.5"  # earlier ones miscompute rotary embeddings of a part of the head, as in Phi-4-mini


def training_arguments(
    context: FinetuneContext, data: TrainingData, dtype: torch.dtype, optimizer: str, trackers: Sequence[str]
) -> TrainingArguments:
    """Build the arguments of the Trainer.

    Args:
        context: The pass.
        data: Rows of the run.
        dtype: Type to compute in.
        optimizer: transformers' name, from `resolve_optimizer`.
        trackers: Experiment trackers, from `configure_trackers`.

    Raises:
        MissingDependency: Liger is requested and not installed.
    """
    import torch
    from transformers import TrainingArguments

    settings = context.config.training_args
    values = settings.model_dump(exclude=set(TrainingArgs.OURS), exclude_none=True)
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        **{"dataloader_pin_memory": cuda, **_per_process(values), **_liger(context)},
        **_evaluation(settings, bool(len(data.validation))),
        **_saving(settings, total_steps(settings, len(data.training))),
        optim=optimizer,
        data_seed=settings.order_seed,
        output_dir=str(context.work / "checkpoints"),
        report_to=list(trackers) or "none",
        use_cpu=context.workflow.host_device == "cpu",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        tf32=context.config.allow_tf32 if cuda else None,
        logging_nan_inf_filter=False,  # Trainer's default logs a running mean where the loss is not finite
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    if arguments.n_gpu > 1:
        # Trainer would use all of them in one process (DataParallel), with a copy of the model on each.
        context.info(f"training on one of {arguments.n_gpu} GPUs; use all with `run --nproc {arguments.n_gpu}`")
        arguments._n_gpu = 1  # private (transformers 5.23): there is no public way to set it
    return arguments


def _per_process(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` with the batch of one of the processes that train together."""
    rows, batches = "per_device_train_batch_size", "gradient_accumulation_steps"
    shares = share(values[rows], values[batches], world_size())
    no_fsdp = {"fsdp": None, "fsdp_config": None} if world_size() == 1 else {}
    # Every trained weight gets a gradient in each step; that of the head comes from outside of the model's forward pass
    # (training/loss.py), where DDP would not look for it.
    return {"ddp_find_unused_parameters": False, **values, **no_fsdp, **dict(zip((rows, batches), shares, strict=True))}


def total_steps(settings: TrainingArgs, sequences: int) -> int:
    """Return the number of optimizer steps of a run over `sequences`."""
    batches = math.ceil(sequences / settings.per_device_train_batch_size)
    steps_per_epoch = math.ceil(batches / settings.gradient_accumulation_steps)
    return settings.max_steps if settings.max_steps > 0 else math.ceil(settings.num_train_epochs * steps_per_epoch)


def _saving(settings: TrainingArgs, steps: int) -> dict[str, Any]:
    """Return when to save checkpoints, in addition to those of the best states, which the trainer requests."""
    strategy = "no" if settings.save_strategy == "best" else settings.save_strategy
    return {"save_strategy": strategy, "save_steps": settings.save_steps or max(1, steps // 10)}


def resolve_optimizer(context: FinetuneContext) -> str:
    """Return the optimizer of the config, or its replacement on a CPU.

    Raises:
        MissingDependency: Its package is not installed.
    """
    name = str(context.config.training_args.optim)
    if context.workflow.host_device == "cpu" and name in ADAMW_OF_BITSANDBYTES:
        context.warn(f"optimizer `{name}` needs CUDA; using `adamw_torch` instead (same updates, more memory)")
        return "adamw_torch"
    package = OPTIMIZER_PACKAGES.get(name)
    if package and not versions((package,)):
        raise MissingDependency(f"optimizer `{name}` needs {package}", fix=f"run `pip install {package}` in .venv")
    return name


def _liger(context: FinetuneContext) -> dict[str, Any]:
    """Return the settings of Liger's layers, which need a GPU; its losses are off, as ours replaces them."""
    settings = context.config.training_args
    if not settings.use_liger_kernel:
        return {}
    from packaging.version import Version

    version = versions(("liger-kernel",)).get("liger-kernel")
    if version is None or Version(version) < Version(_MIN_LIGER):
        raise MissingDependency(
            f"use_liger_kernel needs liger-kernel {_MIN_LIGER} or later; installed: {version or 'none'}",
            fix=f"run `pip install 'liger-kernel>={_MIN_LIGER}'` in .venv",
        )
    no_losses = {"fused_linear_cross_entropy": False, "cross_entropy": False}
    return {"liger_kernel_config": {**(settings.liger_kernel_config or {}), **no_losses}}


def _evaluation(settings: TrainingArgs, has_validation: bool) -> dict[str, Any]:
    """Return when to measure the validation loss."""
    strategy = settings.eval_strategy or ("steps" if settings.eval_steps else "epoch")
    if not has_validation or strategy == "no":
        return {"eval_strategy": "no", "eval_on_start": False}
    eval_steps = settings.eval_steps or settings.logging_steps
    return {"eval_strategy": strategy, "eval_steps": eval_steps, "eval_on_start": settings.eval_on_start}
