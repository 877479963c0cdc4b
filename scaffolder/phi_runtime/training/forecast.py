"""Forecast the memory of a training stage and the disk space of all stages. Loads no model and imports no torch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from typing import Any

from phi_runtime.config.pass_graph import INPUT_ADAPTER, sources
from phi_runtime.config.paths import data_paths
from phi_runtime.config.schema import DataConfig, FinetunePass, Workflow
from phi_runtime.core.artifacts import folder_bytes, read_manifest
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.hardware.machine import available_bytes, gpus, has_bfloat16
from phi_runtime.models.memory import SUGGESTED_RANK, Fit, MemoryEstimate, TrainingJob, estimate, what_fits
from phi_runtime.models.peft_folder import read_peft_folder
from phi_runtime.models.place import base_model_path, input_adapter_path
from phi_runtime.models.shape import Shape, shape_of
from phi_runtime.training.continued import completed
from phi_runtime.training.pass_bases import AdapterPass, LayeredAdapter, TrainingPass
from phi_runtime.training.placement import exceeds_one, trained_bytes


@dataclass(frozen=True)
class Forecast:
    """The memory estimate of a stage that trains.

    Attributes:
        stage: Name of the pass.
        job: The training job that the config describes.
        dtype: Number type of the matrix products, as far as it is known.
        longest: True if `job.tokens` is the longest row of the data; False if it is only the limit for it.
        estimate: Peak memory of a step.
        available_bytes: Free memory of this machine; None if it is unknown or the stage runs elsewhere.
        fit: The nearest job that fits, if this one does not.
        settings: Values that turn the job into `fit`, by dotted config key.
    """

    stage: str
    job: TrainingJob
    dtype: str
    longest: bool
    estimate: MemoryEstimate
    available_bytes: int | None
    fit: Fit | None
    settings: dict[str, Any]

    @property
    def fits(self) -> bool | None:
        """True if there is enough memory; None if that is unknown."""
        return None if self.available_bytes is None else self.estimate.total_bytes <= self.available_bytes

    @property
    def advice(self) -> str:
        """The settings to change, as text."""
        if self.fit is None:
            return "no batch size, length or method fits: use a smaller base model"
        changes = ", ".join(f"{key} to {json.dumps(value)}" for key, value in self.settings.items())
        merge = self.job.method == "full" != self.fit.job.method
        then = ", and add a MergeAdapterWeights pass after it" if merge else ""
        return f"set {changes}{then} (about {self.fit.estimate.total_bytes / 1e9:.1f} GB)"


def forecast(
    workflow: Workflow, project: ProjectFolder, stage: str, shape: Shape | None = None, processes: int = 1
) -> Forecast | None:
    """Return the forecast for a stage that trains; None if the shape of the base model is unknown.

    Args:
        workflow: The config.
        project: Its project.
        stage: Name of a pass that trains.
        shape: Shape of the base model until it is downloaded.
        processes: Number of processes that train; a single one may use all GPUs.
    """
    step = _as_trained(workflow, project, stage)
    shape = shape_of(base_model_path(workflow.input_model, project)) or shape
    if shape is None:
        return None
    device = workflow.host_device
    number_bytes, dtype = _number(step, device)
    tokens, longest, _ = _longest_row(workflow.data_config(step.train_data_config), project)
    eager = workflow.input_model.load_kwargs.attn_implementation == "eager"
    job = replace(job_of(step, shape, tokens), device=device, number_bytes=number_bytes, eager=eager)
    needed = estimate(shape, job)
    spread_bytes = trained_bytes(step, shape, number_bytes) if step.device_map == "auto" and processes == 1 else 0
    free = None if workflow.remote else free_bytes(device, spread_bytes)
    fit = what_fits(shape, job, free) if free is not None and needed.total_bytes > free else None
    settings = _settings(stage, step, fit) if fit else {}
    return Forecast(stage, job, dtype, longest, needed, free, fit, settings)


def _as_trained(workflow: Workflow, project: ProjectFolder, stage: str) -> TrainingPass:
    """Return the pass `stage`, with the settings of the input adapter if it trains that further."""
    step = workflow.passes[stage]
    assert isinstance(step, TrainingPass)
    folder = input_adapter_path(workflow.input_model, project)
    if folder is None or not isinstance(step, AdapterPass) or sources(workflow.passes)[stage] != INPUT_ADAPTER:
        return step
    try:
        return completed(step, read_peft_folder(folder))
    except UsageError:  # not downloaded yet
        return step


def check_fits(workflow: Workflow, project: ProjectFolder, stage: str, processes: int = 1) -> str | None:
    """Return a warning if the stage is likely to exceed the free memory, otherwise None. Takes milliseconds."""
    result = forecast(workflow, project, stage, processes=processes)
    if result is None or result.fits is not False:
        return None
    assert result.available_bytes is not None
    needed, free = result.estimate.total_bytes / 1e9, result.available_bytes / 1e9
    return f"training is likely to run out of memory (about {needed:.1f} GB of {free:.1f} GB): {result.advice}"


def free_bytes(device: str, spread_bytes: float) -> int | None:
    """Return the free memory of the device, in bytes; None if it is unknown.

    Args:
        device: cpu or gpu. That of all GPUs counts if the model is spread over them.
        spread_bytes: Weights that are spread over all GPUs if they exceed the first.
    """
    if device == "gpu" and sys.platform != "darwin":  # its GPU shares the memory of the machine
        cards = gpus()
        used = cards if exceeds_one([card.memory_bytes for card in cards], spread_bytes) else cards[:1]
        return sum(card.free_bytes for card in used) if cards else None
    return available_bytes()


def job_of(step: TrainingPass, shape: Shape, tokens: int) -> TrainingJob:
    """Return the job of `step` on rows of `tokens` tokens, on a CPU in 16-bit numbers."""
    settings = step.training_args
    validates = step.has_validation_rows and settings.eval_strategy != "no"
    checkpointing = settings.gradient_checkpointing_kwargs
    job = TrainingJob(
        method=step.memory_method,
        batch=settings.per_device_train_batch_size,
        tokens=tokens,
        evaluation_batch=settings.per_device_eval_batch_size if validates else 0,
        accumulation=settings.gradient_accumulation_steps,
        checkpointing=settings.gradient_checkpointing,
        every=checkpointing.every_n_layers if checkpointing else 1,
        optimizer=settings.optim,
    )
    return step.memory_job(job, shape)


def _number(step: FinetunePass, device: str) -> tuple[int, str]:
    """Return size and name of the number type of matrix products: hardware.device.compute_dtype without torch."""
    dtype = step.compute_type
    if dtype == "float32" or (dtype == "float16" and device == "cpu"):
        return 4, "float32"
    if dtype == "float16":
        return 2, dtype
    supported = has_bfloat16(device)
    if supported is None:
        return 4, f"float32 or {dtype}"
    return (2, dtype) if supported else (4, "float32")


def _longest_row(data: DataConfig, project: ProjectFolder) -> tuple[int, bool, int]:
    """Return the tokens of the longest row, True if it is known, and the tokens of all rows (0: unknown).

    They are known if the rows were tokenized since they last changed.
    """
    limit = data.pre_process_data_config.max_seq_len
    files = [file.path for file in data_paths(data, project.config)]
    if not files or not all(file.is_file() for file in files) or not project.token_cache.is_dir():
        return limit, False, 0
    import numpy as np

    from phi_runtime.data.store import ROWS, SURVEY

    changed = max(file.stat().st_mtime for file in files)
    stores = [
        folder
        for folder in project.token_cache.iterdir()
        if (rows := folder / ROWS).is_file()
        and rows.stat().st_mtime >= changed
        and (manifest := read_manifest(folder)) is not None
        and manifest.facts.get("files") == [str(file) for file in files]
    ]
    if not stores:
        return limit, False, 0
    newest = max(stores, key=lambda folder: (folder / SURVEY).stat().st_mtime)
    tokens = np.load(newest / ROWS, mmap_mode="r")["tokens"]
    if "join" in data.pre_process_data_config.strategy:
        return min(limit, int(tokens.sum())), True, int(tokens.sum())
    return min(limit, int(tokens.max(initial=0))) or limit, True, int(np.minimum(tokens, limit).sum())


# -- config settings and disk space --------------------------------------------------------------------------------------

_TRAINING_ARGS = {
    "batch": "per_device_train_batch_size",
    "evaluation_batch": "per_device_eval_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "checkpointing": "gradient_checkpointing",
}


def _settings(stage: str, step: FinetunePass, fit: Fit) -> dict[str, Any]:
    """Return the settings that turn the config of `step` into `fit`, by dotted key."""
    settings: dict[str, Any] = {}
    for name, value in fit.changes.items():
        if name in _TRAINING_ARGS:
            settings[f"passes.{stage}.training_args.{_TRAINING_ARGS[name]}"] = value
        elif name == "tokens":
            rows = value - step.virtual_tokens
            settings[f"data_configs.{step.train_data_config}.pre_process_data_config.max_seq_len"] = rows
        elif name == "method":
            settings[f"passes.{stage}.type"] = "QLoRA" if value == "qlora" else "LoRA"
            if "adapter" in fit.changes:
                settings[f"passes.{stage}.r"] = SUGGESTED_RANK
        elif name in ("double_quant", "int4_aware"):
            settings[f"passes.{stage}.{name}"] = value
    return settings


def disk_bytes(workflow: Workflow, project: ProjectFolder, shape: Shape) -> dict[str, int]:
    """Estimate the disk space of each stage in bytes, of `checkpoints`, and of the `activations` that are kept.

    A checkpoint is written before the oldest is removed.
    """
    base = base_model_path(workflow.input_model, project)
    sizes = {"fetch": folder_bytes(base) if base.is_dir() else shape.stored_bytes * shape.parameters}
    stored, checkpoints, activations = sizes["fetch"], 0, 0
    for name, step in workflow.passes.items():
        sizes[name] = step.output_bytes(shape, stored)
        stored = sizes[name] if step.produces == "hf" else stored
        if isinstance(step, TrainingPass):
            job = job_of(step, shape, 1)
            trained = shape.parameters if job.method == "full" else job.adapter + job.saved
            checkpoints = max(checkpoints, 12 * trained * (step.training_args.save_total_limit + 1))
            activations = max(activations, _kept_activations(workflow, project, step, job, shape))
    return {**sizes, "checkpoints": checkpoints, "activations": activations}


def _kept_activations(
    workflow: Workflow, project: ProjectFolder, step: TrainingPass, job: TrainingJob, shape: Shape
) -> int:
    """Estimate the size of the activation cache of `step`; its limit if the rows are not tokenized."""
    epochs = 2 if step.training_args.max_steps > 0 else step.training_args.num_train_epochs
    device = workflow.host_device
    if not (job.frozen_layers and isinstance(step, LayeredAdapter) and step.keeps_activations(device, epochs)):
        return 0
    limit = step.activation_limit_bytes
    tokens = _longest_row(workflow.data_config(step.train_data_config), project)[2]
    needed = tokens * shape.hidden * _number(step, device)[0] * (2 if step.rounds_base else 1)
    return min(needed or limit, limit)
