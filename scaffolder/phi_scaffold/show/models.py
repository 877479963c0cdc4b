"""Output of `models`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phi_runtime.core.units import size
from phi_runtime.hardware.machine import gpus, has_bfloat16, memory_bytes
from phi_runtime.models.memory import (
    CONTEXT_TOKENS,
    NEW_PROJECT_IN_8_BITS,
    estimate,
    inference_bytes,
    longest_that_fits,
    onnx_bytes,
)
from phi_scaffold.show import terminal
from phi_scaffold.show.terminal import console

if TYPE_CHECKING:
    from phi_runtime.models.memory import Method
    from phi_scaffold.new.catalog import CatalogModel

_METHOD_NAMES: dict[Method, str] = {"lora": "LoRA", "qlora": "QLoRA", "full": "full"}


@dataclass(frozen=True)
class _Trainer:
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


def _trainer() -> _Trainer:
    cards = gpus()
    device = "gpu" if cards else "cpu"
    available = cards[0].memory_bytes if cards else memory_bytes()
    name = f"{cards[0].name} with {size(available)}" if cards else f"machine with {size(available)} of memory"
    return _Trainer(name, device, available, 2 if has_bfloat16(device) else 4)


def table(models: Sequence[CatalogModel], *, as_json: bool, quiet: bool) -> None:
    """Print the catalog, with memory estimates for one row of 2048 tokens per step; unless `quiet`, explain them."""
    trainer = _trainer()
    rows = [_facts(model, trainer) for model in models]
    if as_json:
        print(json.dumps({"models": rows, **trainer.as_dict()}))
        return
    numbers = (f">{name}" for name in (*_METHOD_NAMES.values(), "int4 answers"))
    result = terminal.table("!id", ">parameters", ">context", "license", *numbers)
    for model, row in zip(models, rows, strict=True):
        cells = [
            f"[{'green' if row['fits'][key] else 'red'}]{size(row[f'{key}_bytes'])}[/]"
            for key in (*_METHOD_NAMES, "int4_inference")
        ]
        license_ = model.license + (" (gated)" if model.gated else "") + (" ?" if "license" in model.unverified else "")
        result.add_row(model.id, f"{model.parameters / 1e9:.2f} B", f"{model.context // 1024}k", license_, *cells)
    out = console()
    out.print(result)
    if not quiet:
        green = "; green fits" if out.is_terminal else ""
        out.print(
            f"\nMemory is estimated for this {trainer.name}, in {trainer.dtype}, one row of 2048 tokens a step{green}."
        )
        out.print(f"int4 answers: memory of a process that only runs the int4 model, with {CONTEXT_TOKENS:,} tokens.")
        out.print("A `?` marks what is not verified.")


def single(model: CatalogModel, *, as_json: bool, quiet: bool) -> None:
    """Print all facts of one model; unless `quiet`, with the memory that training takes on this machine."""
    trainer = _trainer()
    facts = _facts(model, trainer)
    if as_json:
        print(json.dumps({"models": [facts], **trainer.as_dict()}))
        return
    hidden = ("fits", "max_row_tokens", "memory")
    for key, value in facts.items():
        if key not in hidden and not key.endswith("_bytes"):
            print(f"{key.replace('_', ' '):18} {', '.join(value) if isinstance(value, list) else value}")
    print(f"{'int4 size':18} {size(facts['int4_size_bytes'])} with its tokenizer")
    tokens = min(CONTEXT_TOKENS, model.context)
    print(
        f"{'int4 memory':18} {size(facts['int4_inference_bytes'])} of a process that only runs it, with {tokens:,} tokens"
    )
    if quiet:
        return
    print(f"\nTraining on this {trainer.name}, in {trainer.dtype}, one row of 2048 tokens a step (estimated):\n")
    for method, name in _METHOD_NAMES.items():
        longest = facts["max_row_tokens"][method]
        fits = "fits" if facts["fits"][method] else "does not fit"
        rows = f"rows of up to {longest:,} tokens fit" if longest else "no row is short enough"
        print(f"  {name:6} {size(facts[f'{method}_bytes']):>8}, {fits}; {rows}")
    if not any(facts["max_row_tokens"].values()):
        print("\nThis machine is too small to train it: `phi-scaffold models` shows smaller ones.")


def _facts(model: CatalogModel, trainer: _Trainer) -> dict[str, Any]:
    shape = model.shape
    jobs = {method: model.training(method, trainer.device, trainer.number_bytes) for method in _METHOD_NAMES}
    estimates = {method: estimate(shape, job) for method, job in jobs.items()}
    int4_size = onnx_bytes(shape, in_8_bits=NEW_PROJECT_IN_8_BITS)
    inference = inference_bytes(shape, int4_size, min(CONTEXT_TOKENS, model.context))
    fits = {method: needed.total_bytes <= trainer.memory_bytes for method, needed in estimates.items()}
    return {
        "id": model.id,
        "description": model.about,
        "parameters": model.parameters,
        "context_tokens": model.context,
        "license": model.license,
        "gated": model.gated,
        "architecture": model.architecture,
        "prompt_format": model.prompt_format,
        "target_modules": list(model.target_modules),
        **{f"{method}_bytes": needed.total_bytes for method, needed in estimates.items()},
        "int4_inference_bytes": inference,
        "int4_size_bytes": int4_size,
        "fits": {**fits, "int4_inference": inference <= memory_bytes()},
        "max_row_tokens": {
            method: longest_that_fits(shape, job, trainer.memory_bytes, model.context) for method, job in jobs.items()
        },
        "memory": {method: needed.as_dict() for method, needed in estimates.items()},
        "unverified": list(model.unverified),
    }
