"""Memory that training a base model takes, against the memory of this machine. Imports no ML library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from phi_runtime.core.project import CONFIG
from phi_runtime.core.units import size
from phi_runtime.hardware.machine import gpus, has_bfloat16, memory_bytes
from phi_runtime.models.memory import Method, TrainingJob, estimate, with_lora
from phi_runtime.models.shape import Shape
from phi_scaffold.new.answers import Answers
from phi_scaffold.new.catalog import BaseModel, catalog

METHOD_NAMES: dict[Method, str] = {"lora": "LoRA", "qlora": "QLoRA", "full": "full"}
ROW_TOKENS = 2048  # of the row that the estimates assume


@dataclass(frozen=True)
class Trainer:
    """The device of this machine that trains, and the number type that it computes in."""

    name: str
    device: str
    memory_bytes: int
    number_bytes: int

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.number_bytes == 2 else "float32"

    def as_dict(self) -> dict[str, Any]:
        return {
            "memory_bytes": memory_bytes(),
            "device": self.device,
            "device_memory_bytes": self.memory_bytes,
            "dtype": self.dtype,
        }

    def job(self, shape: Shape, context: int, method: Method) -> TrainingJob:
        """Return a training step on one row of at most 2048 tokens, with an adapter of rank 16 unless `full`."""
        tokens, double_quant = min(ROW_TOKENS, context), method == "qlora"
        job = TrainingJob(
            method, 1, tokens, device=self.device, number_bytes=self.number_bytes, double_quant=double_quant
        )
        return job if method == "full" else with_lora(job, shape.targets(None, all_linear=double_quant), rank=16)

    def needed_bytes(self, model: BaseModel, method: Method) -> int:
        """Return the memory that such a step takes."""
        return estimate(model.shape, self.job(model.shape, model.context, method)).total_bytes


def this_trainer(target: str | None = None) -> Trainer:
    """Return the device that trains a project for `target`; None: the fastest of this machine."""
    cards = gpus() if target in (None, "cuda") else ()
    device = "gpu" if cards else "cpu"
    available = cards[0].memory_bytes if cards else memory_bytes()
    name = f"{cards[0].name} with {size(available)}" if cards else f"machine with {size(available)} of memory"
    return Trainer(name, device, available, 2 if has_bfloat16(device) else 4)


def fit_notes(answers: Answers, model: BaseModel | None) -> list[str]:
    """Return warnings that this machine lacks the device or the memory to train as `answers` say, and what would fit."""
    notes = []
    if answers.target == "cuda" and not gpus():
        notes.append(
            "warning: this machine has no NVIDIA GPU; `run` needs one, or create the project with --target cpu"
        )
    elif answers.target == "azureml":
        notes.append(
            f"replace each `<…>` in {CONFIG} by the name of what is in your subscription; `phi-scaffold validate` lists them"
        )
    elif model and (warning := _memory_warning(answers, model)):
        notes.append(warning)
    if model and model.why_not_exportable:
        notes.append("warning: {}; {}".format(*model.why_not_exportable))
    if model and model.note:
        notes.append(f"{answers.model}: {model.note}")
    if model and model.gated:
        token = (
            "set `hf_token` and `keyvault_name` in the config"
            if answers.target == "azureml"
            else "set HF_TOKEN in .env"
        )
        notes.append(f"accept the license of {answers.model} on huggingface.co, and {token}")
    return notes


def _memory_warning(answers: Answers, model: BaseModel) -> str:
    trainer = this_trainer(answers.target)
    method: Method = answers.method  # type: ignore[assignment]
    needed = {name: trainer.needed_bytes(model, name) for name in get_args(Method)}
    if needed[method] <= trainer.memory_bytes:
        return ""
    fitting = [name for name in needed if needed[name] <= trainer.memory_bytes]
    if fitting:
        advice = f"--method {fitting[-1]} takes {size(needed[fitting[-1]])}"
    else:
        usable = (m for m in catalog().models.values() if m.why_not_exportable is None)
        smaller = [m for m in usable if trainer.needed_bytes(m, method) <= trainer.memory_bytes]
        best = max(smaller, key=lambda m: m.parameters, default=None)
        advice = f"--model {best.id} fits" if best else "no model of the catalog fits"
    return (
        f"warning: {METHOD_NAMES[method]} training of {answers.model} takes about {size(needed[method])}, "
        f"more than this {trainer.name}; {advice}"
    )
