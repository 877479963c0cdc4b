"""Draws the catalogue of models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phi_runtime.hardware.machine import gpus, has_bfloat16, memory_bytes
from phi_runtime.models.memory import estimate, inference_bytes, longest_that_fits, onnx_bytes
from phi_scaffold.show.terminal import console, size

if TYPE_CHECKING:
    from phi_scaffold.new.catalog import Model

_WAYS = {"lora": "LoRA", "qlora": "QLoRA", "full": "full"}


def models(known: Sequence[Model], *, as_json: bool, single: bool) -> None:
    """The catalogue, with estimates for one row of 2048 tokens a step, and whether this machine's memory holds them."""
    cards = gpus()
    device = "gpu" if cards else "cpu"
    training = cards[0].memory_bytes if cards else memory_bytes()
    number_bytes = 2 if has_bfloat16(device) else 4
    rows = [_row(m, device, number_bytes, training) for m in known]
    dtype = "bfloat16" if number_bytes == 2 else "float32"
    if as_json:
        facts = {"memory_bytes": memory_bytes(), "device": device, "device_memory_bytes": training, "dtype": dtype}
        print(json.dumps({"models": rows, **facts}))
        return
    has = f"{cards[0].name} with {size(training)}" if cards else f"machine with {size(training)} of memory"
    if single:
        _one(rows[0], f"on this {has}, in {dtype}")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True)
    for name in ("parameters", "context", "licence", *_WAYS.values(), "int4 answers"):
        table.add_column(name, justify="left" if name == "licence" else "right")
    for m, row in zip(known, rows, strict=True):
        cells = [
            f"[{'green' if row['fits'][key] else 'red'}]{size(row[f'{key}_bytes'])}[/]"
            for key in (*_WAYS, "int4_inference")
        ]
        licence = m.licence + (" (gated)" if m.gated else "") + (" ?" if "licence" in m.unverified else "")
        table.add_row(m.id, f"{m.parameters / 1e9:.2f} B", f"{m.context // 1024}k", licence, *cells)
    out = console()
    out.print(table)
    green = "; green fits into it" if out.is_terminal else ""
    out.print(f"\nMemory is estimated for this {has}, in {dtype}, one row of 2048 tokens a step{green}.")
    out.print("A `?` marks what was not verified.")


def _row(m: Model, device: str, number_bytes: int, training_bytes: int) -> dict[str, Any]:
    from phi_scaffold.new.catalog import METHODS

    shape, jobs = m.shape, {method: m.training(method, device, number_bytes) for method in METHODS}
    needed = {method: estimate(shape, job) for method, job in jobs.items()}
    answers = inference_bytes(shape, min(4096, m.context))
    fits = {method: found.total_bytes <= training_bytes for method, found in needed.items()}
    return {
        "id": m.id,
        "description": m.about,
        "parameters": m.parameters,
        "context_tokens": m.context,
        "license": m.licence,
        "gated": m.gated,
        "architecture": m.architecture,
        "prompt_format": m.prompt_format,
        "target_modules": list(m.target_modules),
        **{f"{method}_bytes": found.total_bytes for method, found in needed.items()},
        "int4_inference_bytes": answers,
        "int4_size_bytes": onnx_bytes(shape),
        "fits": {**fits, "int4_inference": answers <= memory_bytes()},
        "max_row_tokens": {n: longest_that_fits(shape, job, training_bytes, m.context) for n, job in jobs.items()},
        "memory": {method: found.as_dict() for method, found in needed.items()},
        "unverified": list(m.unverified),
    }


def _one(row: dict[str, Any], where: str) -> None:
    """All that is known of one model."""
    told = {k: v for k, v in row.items() if not k.endswith("_bytes") and k not in ("fits", "max_row_tokens", "memory")}
    for key, value in told.items():
        print(f"{key.replace('_', ' '):18} {', '.join(value) if isinstance(value, list) else value}")
    print(f"{'int4 model':18} {size(row['int4_size_bytes'])} on disk, {size(row['int4_inference_bytes'])} to answer")
    print(f"\nTraining {where}, one row of 2048 tokens a step (estimated):\n")
    for method, name in _WAYS.items():
        longest = row["max_row_tokens"][method]
        fits = "fits" if row["fits"][method] else "does not fit"
        rows = f"rows of up to {longest:,} tokens fit" if longest else "no row is short enough"
        print(f"  {name:6} {size(row[f'{method}_bytes']):>8}, {fits}; {rows}")
    if not any(row["max_row_tokens"].values()):
        print("\nThis machine is too small to train it: `phi-scaffold models` shows the smaller ones.")
