"""Settings of one training run that contradict each other, or lack what they need: transformers says so late, or not at all."""

from __future__ import annotations

from collections.abc import Iterator

from phi_runtime.checks.sections import Checks, warned
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import FinetunePass, TrainingArgs
from phi_runtime.core.suggestions import nearest

_PLATEAU = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps")
# What lr_scheduler_kwargs can hold (the parameters of transformers.optimization.get_…_schedule, 5.23).
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
# Settings of which a scheduler needs one.
SCHEDULER_NEEDS = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
    "greedy": ("min_lr",),  # its default, 1e-3, is above most learning rates
}
_FOLLOW_THE_METRIC = ("reduce_lr_on_plateau", "greedy")


def check_training(c: Checks, at: KeyPath, step: FinetunePass) -> Iterator[Finding]:
    """What is wrong with the settings of `step`, which stands at `at`, seen together."""
    given = step.training_args
    yield from _held_out(c, at, step)
    yield from _needs(c, (*at, "training_args"), given)
    yield from _scheduler(c, (*at, "training_args"), given)
    yield from _lengths(c, step)
    if given.deepspeed is not None and given.fsdp:
        message = "`deepspeed` and `fsdp` both spread the model over the devices; take one out"
        yield c.draft.finding((*at, "training_args", "deepspeed"), "contradiction", message)
    host = c.parts.systems.get(c.parts.host) if isinstance(c.parts.host, str) else None
    if given.use_liger_kernel and host and host.accelerators[0].device == "cpu":
        message = "`use_liger_kernel` needs CUDA, and the `host` is a CPU; take it out"
        yield c.draft.finding((*at, "training_args", "use_liger_kernel"), "contradiction", message)


def _held_out(c: Checks, at: KeyPath, step: FinetunePass) -> Iterator[Finding]:
    """What looks at held-out rows, where there are none or they are not measured."""
    given, there = step.training_args, bool(step.eval_data_config or step.eval_dataset_size)
    if there and given.eval_strategy != "no":
        return
    lack = "`eval_strategy` is `no`" if there else "no rows are held out: set eval_dataset_size or eval_data_config"
    looking = {
        (*at, "early_stopping_patience"): step.early_stopping_patience is not None,
        (*at, "training_args", "load_best_model_at_end"): given.load_best_model_at_end,
        (*at, "training_args", "lr_scheduler_type"): given.lr_scheduler_type in _FOLLOW_THE_METRIC,
    }
    for place, looks in looking.items():
        if looks:
            value = f" ({given.lr_scheduler_type})" if place[-1] == "lr_scheduler_type" else ""
            message = f"`{place[-1]}`{value} needs the loss of held-out rows, and {lack}"
            yield c.draft.finding(place, "contradiction", message)
    if given.save_strategy == "best":
        message = f"`save_strategy` is best, and {lack}: only the end of the run is saved"
        yield warned(c, (*at, "training_args", "save_strategy"), "contradiction", message)


def _needs(c: Checks, at: KeyPath, given: TrainingArgs) -> Iterator[Finding]:
    """Settings that mean nothing, or are refused by the libraries, without another one."""
    workers = given.dataloader_num_workers > 0
    low_rank = given.optim.startswith(("galore", "apollo"))
    without = {
        "dataloader_prefetch_factor": ("`dataloader_num_workers` of 1 or more", workers),
        "dataloader_persistent_workers": ("`dataloader_num_workers` of 1 or more", workers),
        "dataloader_multiprocessing_context": ("`dataloader_num_workers` of 1 or more", workers),
        "torch_compile_backend": ("`torch_compile`: true", given.torch_compile),
        "torch_compile_mode": ("`torch_compile`: true", given.torch_compile),
        "liger_kernel_config": ("`use_liger_kernel`: true", given.use_liger_kernel),
        "fsdp_config": ("`fsdp`: true", bool(given.fsdp)),
        "optim_target_modules": ("an optimizer whose name starts with galore or apollo", low_rank),
    }
    for key, (needed, there) in without.items():
        if getattr(given, key) not in (None, False) and not there:
            yield c.draft.finding((*at, key), "contradiction", f"`{key}` needs {needed}")
    if low_rank and given.optim_target_modules is None:
        message = f"`{given.optim}` needs optim_target_modules, such as all-linear"
        yield c.draft.finding((*at, "optim"), "contradiction", message)


def _scheduler(c: Checks, at: KeyPath, given: TrainingArgs) -> Iterator[Finding]:
    """lr_scheduler_kwargs against what the scheduler takes and needs."""
    name, settings = given.lr_scheduler_type, given.lr_scheduler_kwargs or {}
    known = SCHEDULER_SETTINGS[name]
    for key in settings:
        if key not in known:
            what = f"it has {', '.join(known)}" if known else "it has none"
            message = f"`{name}` has no setting `{key}`; {what}"
            yield c.draft.finding((*at, "lr_scheduler_kwargs", key), "unknown-key", message, nearest(key, known))
    needed = SCHEDULER_NEEDS.get(name, ())
    if needed and not any(key in settings for key in needed):
        wanted = " or ".join(f"`{key}`" for key in needed)
        message = f"`{name}` needs {wanted} in lr_scheduler_kwargs"
        yield c.draft.finding((*at, "lr_scheduler_type"), "missing-key", message)
    if "min_lr" in settings and "min_lr_rate" in settings:
        message = "`min_lr` and `min_lr_rate` both give the lowest learning rate; take one out"
        yield c.draft.finding((*at, "lr_scheduler_kwargs", "min_lr"), "contradiction", message)


def _lengths(c: Checks, step: FinetunePass) -> Iterator[Finding]:
    """Rows on both sides of the length at which the base model turns to other rotary factors."""
    from phi_runtime.models.stored import rope_switch, stored_config

    switch = rope_switch(stored_config(c.parts.input_model, c.path)) if c.parts.input_model else None
    if switch is None:
        return
    for i, data in enumerate(c.parts.data_configs):
        if data and data.name in step.data_names and data.pre_process_data_config.max_seq_len > switch:
            message = (
                f"`max_seq_len` is {data.pre_process_data_config.max_seq_len}, and past {switch} tokens the model turns to other "
                "rotary factors (LongRoPE), for the whole batch that a longer row is in: what it learns from short and from long "
                f"rows does not agree. Cap max_seq_len at {switch}, or take care that all rows are longer"
            )
            yield warned(c, ("data_configs", i, "pre_process_data_config", "max_seq_len"), "long-rope", message)
