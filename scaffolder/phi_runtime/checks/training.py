"""Check the settings of a training run against each other, which transformers does late or not at all."""

from __future__ import annotations

from collections.abc import Iterator

from phi_runtime.checks.sections import Checks
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import FinetunePass, TrainingArgs
from phi_runtime.core.suggestions import nearest

_PLATEAU = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps")
SCHEDULER_SETTINGS: dict[str, tuple[str, ...]] = {
    "constant": (),
    "constant_with_warmup": (),
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": (
        "num_decay_steps",
        "num_stable_steps",
        "warmup_type",
        "decay_type",
        "min_lr_ratio",
        "num_cycles",
    ),
    "reduce_lr_on_plateau": _PLATEAU,
    "greedy": (*_PLATEAU, "warmup", "max_lr", "verbose", "smooth", "window_size", "reset_start"),
}
"""Keys of lr_scheduler_kwargs: the parameters of transformers.optimization.get_…_schedule (5.23)."""

SCHEDULER_NEEDS = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
    "greedy": ("min_lr",),  # its default, 1e-3, is above most learning rates
}
"""Keys of lr_scheduler_kwargs of which a scheduler needs one."""

_METRIC_SCHEDULERS = ("reduce_lr_on_plateau", "greedy")


def check_training(c: Checks, at: KeyPath, step: FinetunePass) -> Iterator[Finding]:
    """Yield the settings of `step`, the pass at `at`, that exclude each other or need another one."""
    args = step.training_args
    args_at = (*at, "training_args")
    yield from _validation(c, at, step)
    yield from _needed_settings(c, args_at, args)
    yield from _scheduler(c, args_at, args)
    if args.deepspeed is not None and args.fsdp:
        message = "`deepspeed` and `fsdp` both shard the model: remove one"
        yield c.error((*args_at, "deepspeed"), "contradiction", message)
    if args.use_liger_kernel and c.host and c.host.accelerators[0].device == "cpu":
        message = "`use_liger_kernel` needs CUDA, but `host` is a CPU: remove it"
        yield c.error((*args_at, "use_liger_kernel"), "contradiction", message)


def _validation(c: Checks, at: KeyPath, step: FinetunePass) -> Iterator[Finding]:
    """Yield the settings that need a validation loss, where none is measured."""
    args = step.training_args
    if step.has_validation_rows and args.eval_strategy != "no":
        return
    reason = (
        "`eval_strategy` is `no`"
        if step.has_validation_rows
        else "there are no validation rows: set eval_dataset_size or eval_data_config"
    )
    if step.early_stopping_patience is not None:
        message = f"`early_stopping_patience` needs a validation loss, but {reason}"
        yield c.error((*at, "early_stopping_patience"), "contradiction", message)
    if args.load_best_model_at_end:
        message = f"`load_best_model_at_end` needs a validation loss, but {reason}"
        yield c.error((*at, "training_args", "load_best_model_at_end"), "contradiction", message)
    if args.lr_scheduler_type in _METRIC_SCHEDULERS:
        message = f"`lr_scheduler_type` `{args.lr_scheduler_type}` needs a validation loss, but {reason}"
        yield c.error((*at, "training_args", "lr_scheduler_type"), "contradiction", message)
    at_strategy = (*at, "training_args", "eval_strategy")
    if not step.has_validation_rows and args.eval_strategy != "no" and c.draft.has(at_strategy):
        message = f"`eval_strategy` is `{args.eval_strategy}`, but {reason}; nothing is evaluated"
        yield c.warning(at_strategy, "no-effect", message)
    if args.save_strategy == "best":
        message = f"`save_strategy` is `best`, but {reason}; only the end of the run is saved"
        yield c.warning((*at, "training_args", "save_strategy"), "contradiction", message)


def _needed_settings(c: Checks, at: KeyPath, args: TrainingArgs) -> Iterator[Finding]:
    """Yield the settings that have no effect, or that a library refuses, without another one."""
    workers = ("`dataloader_num_workers` of 1 or more", args.dataloader_num_workers > 0)
    low_rank = args.optim.startswith(("galore", "apollo"))
    needs = {
        "dataloader_prefetch_factor": workers,
        "dataloader_persistent_workers": workers,
        "dataloader_multiprocessing_context": workers,
        "torch_compile_backend": ("`torch_compile`: true", args.torch_compile),
        "torch_compile_mode": ("`torch_compile`: true", args.torch_compile),
        "liger_kernel_config": ("`use_liger_kernel`: true", args.use_liger_kernel),
        "fsdp_config": ("`fsdp`: true", bool(args.fsdp)),
        "optim_target_modules": ("an optimizer whose name starts with galore or apollo", low_rank),
    }
    for key, (setting, is_set) in needs.items():
        if getattr(args, key) not in (None, False) and not is_set:
            yield c.error((*at, key), "contradiction", f"`{key}` needs {setting}")
    if low_rank and args.optim_target_modules is None:
        message = f"`{args.optim}` needs optim_target_modules, such as all-linear"
        yield c.error((*at, "optim"), "contradiction", message)


def _scheduler(c: Checks, at: KeyPath, args: TrainingArgs) -> Iterator[Finding]:
    """Yield the keys of lr_scheduler_kwargs that the scheduler does not know, and those that it needs."""
    name, settings = args.lr_scheduler_type, args.lr_scheduler_kwargs or {}
    known = SCHEDULER_SETTINGS[name]
    for key in settings:
        if key not in known:
            message = f"`{name}` has no setting `{key}` (known: {', '.join(known) or 'none'})"
            yield c.error((*at, "lr_scheduler_kwargs", key), "unknown-key", message, nearest(key, known))
    needed = SCHEDULER_NEEDS.get(name, ())
    if needed and not any(key in settings for key in needed):
        message = f"`{name}` needs {' or '.join(f'`{key}`' for key in needed)} in lr_scheduler_kwargs"
        yield c.error((*at, "lr_scheduler_type"), "missing-key", message)
    if "min_lr" in settings and "min_lr_rate" in settings:
        message = "`min_lr` and `min_lr_rate` both set the lowest learning rate: remove one"
        yield c.error((*at, "lr_scheduler_kwargs", "min_lr"), "contradiction", message)


def check_lengths(c: Checks) -> Iterator[Finding]:
    """Yield a warning for trained data whose rows may exceed the length at which the base model switches its rotary factors."""
    from phi_runtime.models.stored import rope_switch

    switch = rope_switch(c.stored)
    trained = {name for step in c.steps.values() if isinstance(step, FinetunePass) for name in step.data_names}
    for i, data in enumerate(c.parts.data_configs):
        if switch and data and data.name in trained and data.pre_process_data_config.max_seq_len > switch:
            message = (
                f"`max_seq_len` is {data.pre_process_data_config.max_seq_len}, but above {switch} tokens the model uses "
                "other rotary factors (LongRoPE) for the whole batch, so that short and long rows train different models. "
                f"Set max_seq_len to {switch}, or make sure that all rows are longer"
            )
            yield c.warning(("data_configs", i, "pre_process_data_config", "max_seq_len"), "long-rope", message)
