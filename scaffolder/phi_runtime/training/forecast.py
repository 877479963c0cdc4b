"""What a training stage will take of this machine, and what to set where it has less. Nothing is loaded, torch is not imported."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, replace
from typing import Any

from phi_runtime.config.paths import data_paths
from phi_runtime.config.schema import DataConfig, FinetunePass, Workflow
from phi_runtime.core.artifacts import folder_bytes, read_manifest
from phi_runtime.core.project import Project
from phi_runtime.hardware.machine import available_bytes, gpus, has_bfloat16
from phi_runtime.models.memory import SUGGESTED_RANK, Estimate, Fit, Job, estimate, what_fits
from phi_runtime.models.place import base_model_path
from phi_runtime.models.shape import Shape, shape_of
from phi_runtime.training.pass_bases import TrainingPass

_ROWS, _SURVEY = "rows.npy", "survey.json"


@dataclass(frozen=True)
class Forecast:
    """The estimate for a stage that trains. `dtype` is what it will compute in, as far as that shows; `longest` whether `job.tokens`
    is the longest row of the data, and not only the limit for it. `available_bytes` is what is free on this machine, None where
    the stage runs elsewhere. `fit` is what would fit where the job does not."""

    stage: str
    job: Job
    dtype: str
    longest: bool
    estimate: Estimate
    available_bytes: int | None
    fit: Fit | None
    settings: dict[str, Any]

    @property
    def fits(self) -> bool | None:
        """Whether there is enough memory; None where that is not known."""
        return None if self.available_bytes is None else self.estimate.total_bytes <= self.available_bytes

    @property
    def advice(self) -> str:
        """What to set, in words."""
        if self.fit is None:
            return "no batch, length or method makes it fit: take a smaller base model"
        said = ", ".join(f"{key} to {json.dumps(value)}" for key, value in self.settings.items())
        merge = self.job.method == "full" != self.fit.job.method
        then = ", and put a MergeAdapterWeights pass after it" if merge else ""
        return f"set {said}{then} (about {self.fit.estimate.total_bytes / 1e9:.1f} GB)"


def forecast(workflow: Workflow, project: Project, stage: str, shape: Shape | None = None) -> Forecast | None:
    """The forecast for the stage `stage`, which trains. `shape` stands for the base model's while that is not here; None when
    nothing is known of it."""
    step = workflow.passes[stage]
    assert isinstance(step, TrainingPass)
    shape = shape_of(base_model_path(workflow.input_model, project)) or shape
    if shape is None:
        return None
    device = workflow.host_device
    number_bytes, dtype = _number(step, device)
    tokens, longest = _longest_row(workflow.data_config(step.train_data_config), project)
    eager = workflow.input_model.load_kwargs.attn_implementation == "eager"
    job = replace(job_of(step, shape, tokens), device=device, number_bytes=number_bytes, eager=eager)
    needed = estimate(shape, job)
    free = None if workflow.remote else free_bytes(device)
    fit = what_fits(shape, job, free) if free is not None and needed.total_bytes > free else None
    settings = _settings(stage, step, fit) if fit else {}
    return Forecast(stage, job, dtype, longest, needed, free, fit, settings)


def check_fits(workflow: Workflow, project: Project, stage: str) -> str | None:
    """A warning where the stage `stage`, which trains, is likely to take more memory than is free; None where it is not, or where
    that cannot be told. Takes milliseconds."""
    found = forecast(workflow, project, stage)
    if found is None or found.fits is not False:
        return None
    assert found.available_bytes is not None
    needs, free = found.estimate.total_bytes / 1e9, found.available_bytes / 1e9
    return f"this is likely to need more memory than is free (about {needs:.1f} GB of {free:.1f} GB): {found.advice}"


def free_bytes(device: str) -> int | None:
    """Free memory of the device; None where that does not show."""
    if device == "gpu" and sys.platform != "darwin":  # whose GPU has the memory of all
        cards = gpus()
        return cards[0].free_bytes if cards else None
    return available_bytes()


def job_of(step: TrainingPass, shape: Shape, tokens: int) -> Job:
    """Return the job of `step` on rows of `tokens` tokens, on a CPU in 16-bit numbers."""
    settings = step.training_args
    validates = (step.eval_data_config or step.eval_dataset_size) and settings.eval_strategy != "no"
    checkpointing = settings.gradient_checkpointing_kwargs
    job = Job(
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
    """Bytes and name of what is computed with (models/device.py::compute_dtype, without torch)."""
    wanted = step.compute_type
    if wanted == "float32" or (wanted == "float16" and device == "cpu"):
        return 4, "float32"
    if wanted == "float16":
        return 2, wanted
    able = has_bfloat16(device)
    if able is None:
        return 4, f"float32 or {wanted}"
    return (2, wanted) if able else (4, "float32")


def _longest_row(data: DataConfig, project: Project) -> tuple[int, bool]:
    """(tokens of the longest sequence, whether it is known): known where the rows have been tokenised since they changed last."""
    limit = data.pre_process_data_config.max_seq_len
    files = [found.path for found in data_paths(data, project.config)]
    if not files or not all(file.is_file() for file in files) or not project.token_cache.is_dir():
        return limit, False
    changed = max(file.stat().st_mtime for file in files)
    stores = [
        folder
        for folder in project.token_cache.iterdir()
        if (rows := folder / _ROWS).is_file()
        and rows.stat().st_mtime >= changed
        and (manifest := read_manifest(folder)) is not None
        and manifest.facts.get("files") == [str(file) for file in files]
    ]
    if not stores:
        return limit, False
    import numpy as np

    newest = max(stores, key=lambda folder: (folder / _SURVEY).stat().st_mtime)
    tokens = np.load(newest / _ROWS, mmap_mode="r")["tokens"]
    if "join" in data.pre_process_data_config.strategy:
        return min(limit, int(tokens.sum())), True
    return min(limit, int(tokens.max(initial=0))) or limit, True


# -- what to write into the config, and onto the disk ------------------------------------------------------------------------------

_TRAINING_ARGS = {
    "batch": "per_device_train_batch_size",
    "evaluation_batch": "per_device_eval_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "checkpointing": "gradient_checkpointing",
}


def _settings(stage: str, step: FinetunePass, fit: Fit) -> dict[str, Any]:
    """What to write into the config for `fit`, by dotted key."""
    found: dict[str, Any] = {}
    for name, value in fit.changes.items():
        if name in _TRAINING_ARGS:
            found[f"passes.{stage}.training_args.{_TRAINING_ARGS[name]}"] = value
        elif name == "tokens":
            rows = value - step.virtual_tokens
            found[f"data_configs.{step.train_data_config}.pre_process_data_config.max_seq_len"] = rows
        elif name == "method":
            found[f"passes.{stage}.type"] = "QLoRA" if value == "qlora" else "LoRA"
            if "adapter" in fit.changes:
                found[f"passes.{stage}.r"] = SUGGESTED_RANK
        elif name in ("double_quant", "int4_aware"):
            found[f"passes.{stage}.{name}"] = value
    return found


def disk_bytes(workflow: Workflow, project: Project, shape: Shape) -> dict[str, int]:
    """About what each stage leaves on the disk, and `checkpoints` while it trains (one is written before the last is removed)."""
    base = base_model_path(workflow.input_model, project)
    found = {"fetch": folder_bytes(base) if base.is_dir() else shape.stored_bytes * shape.parameters}
    stored, checkpoints = found["fetch"], 0
    for name, step in workflow.passes.items():
        found[name] = step.output_bytes(shape, stored)
        stored = found[name] if step.produces == "hf" else stored
        if isinstance(step, TrainingPass):
            job = job_of(step, shape, 1)
            trained = shape.parameters if job.method == "full" else job.adapter + job.saved
            checkpoints = max(checkpoints, 12 * trained * (step.training_args.save_total_limit + 1))
    return {**found, "checkpoints": checkpoints}


def free_disk_bytes(project: Project) -> int:
    return shutil.disk_usage(project.root).free
