"""Verdicts of the export's gate on good builds and on models that rounding has ruined.

    python bench/gate.py PROJECT [FILE [PART …]]

PROJECT is one that `run` has finished, with validation rows. Simulated roundings of its merged model's linear weights (to
nearest, 4, 3 and 2 bits in blocks of 32, part of the way, or in some of the modules) are compared with the model as the gate compares
an export, and so are real builds with the builder's options, of the merged model and of its base model (on the sample text).
Lost are right answers to the validation rows, less those gained. A model that has lost a tenth of them or more must be stopped; a
real build that has lost at most a twentieth must pass, as must each of the base model. To save time, the 60 validation rows with the
fewest tokens are read. Figures are kept in FILE (default: gate-bench.jsonl), from which a second call prints the table with the
current limits. PART picks some of roundings, tuned and untuned.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import torch

from phi_runtime.config.schema.export import GATE_MAX_KL
from phi_runtime.core.events import silent
from phi_runtime.core.project import find_project
from phi_runtime.data.dataset import data_context, load_dataset
from phi_runtime.export.gate import compare, source_predictions
from phi_runtime.export.gate_comparison import GateComparison, Predictions, compare_predictions
from phi_runtime.export.gate_limits import GateLimits
from phi_runtime.export.gate_rows import GateRow, sample_rows, validation_rows
from phi_runtime.models.load import load_reference, quiet_libraries
from phi_runtime.models.place import base_model_path
from phi_runtime.models.reference import ModelRef
from phi_runtime.passes.model_builder import ModelBuilder
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.workers.process import Worker, python

ROWS = 60
BLOCK = 32
PARTS = ("roundings", "tuned", "untuned")
RUINED, GOOD = 0.1, 0.05  # shares of the right answers that are lost, at least and at most
MIXED = {"matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"}
LAYERS = {"matmul_mixed_precision": "mixed_layers:int8"}
RTN = {"algo_config": "rtn"}
BUILDS: dict[str, tuple[str, dict[str, Any]]] = {
    "int4": ("int4", {}),
    "int4, mixed": ("int4", MIXED),
    "int4, head in 8 bits": ("int4", {"matmul_mixed_precision": "last_matmul:int8"}),
    "int4, layers in 8 bits": ("int4", LAYERS),
    "int4, block 16": ("int4", {"block_size": 16}),
    "int4, block 64": ("int4", {"block_size": 64}),
    "int4, block 128": ("int4", {"block_size": 128}),
    "int4, block 64, layers in 8 bits": ("int4", {"block_size": 64, **LAYERS}),
    "int4, block 64, mixed": ("int4", {"block_size": 64, **MIXED}),
    "int4, block 128, layers in 8 bits": ("int4", {"block_size": 128, **LAYERS}),
    "int4, block 128, mixed": ("int4", {"block_size": 128, **MIXED}),
    "int4, rtn": ("int4", RTN),
    "int4, rtn, mixed": ("int4", {**RTN, **MIXED}),
    "int4, zero points": ("int4", {**RTN, "is_symmetric": False}),
    "int4, k_quant": ("int4", {"algo_config": "k_quant"}),
    "int4, k_quant, mixed": ("int4", {"algo_config": "k_quant_mixed"}),
    "int8": ("int8", {}),
    "fp32": ("fp32", {}),
}


@dataclass(frozen=True)
class Rounding:
    """A simulated rounding: `way` is the part of the way to the rounded weights, `layers` the share of rounded modules."""

    bits: int
    way: float = 1.0
    layers: float = 1.0
    seed: int = 0

    def __str__(self) -> str:
        way = f", {self.way:g} of the way" if self.way < 1 else ""
        layers = f", {100 * self.layers:.0f} % of the modules, seed {self.seed}" if self.layers < 1 else ""
        return f"{self.bits} bits{way}{layers}"


ROUNDINGS = (
    Rounding(8),
    Rounding(4),
    *(Rounding(3, way) for way in (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1)),
    *(Rounding(2, way) for way in (0.2, 0.25, 0.275, 0.3, 0.325, 0.35, 0.4, 0.45, 0.5, 0.55)),
    *(Rounding(4, 1, 0.5, seed) for seed in (1, 2)),
    *(Rounding(3, 1, share, seed) for share in (0.2, 0.4, 0.6, 0.8) for seed in (1, 2, 3)),
    *(Rounding(2, 1, share, seed) for share in (0.02, 0.05, 0.1, 0.15) for seed in (1, 2, 3)),
)


def main(project: Path, file: Path, parts: list[str]) -> None:
    quiet_libraries()
    found = {(case["kind"], case["name"]): case for case in map(json.loads, _lines(file))}
    with file.open("a", encoding="utf-8") as log:
        for case in _measured(project, set(found), parts or list(PARTS)):
            log.write(json.dumps(case) + "\n")
            log.flush()
            print(case["kind"], case["name"], GateComparison(**case["figures"]).summary, flush=True)
            found[case["kind"], case["name"]] = case
    show(list(found.values()))


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _measured(folder: Path, known: set[tuple[str, str]], parts: list[str]) -> Iterator[dict[str, Any]]:
    project = find_project(folder)
    workflow = load_workflow(project.config)
    training = next(step for step in workflow.passes.values() if step.rows)
    merged = ModelRef(project.gen_model / "merged", "hf", "merged")
    dataset = load_dataset(workflow, training.rows, data_context(project, merged), silent, "bench")
    rows = sorted(validation_rows(dataset, merged), key=lambda row: len(row.ids))[:ROWS]
    if "roundings" in parts:
        yield from _roundings(merged, rows, known)
    base = ModelRef(base_model_path(workflow.input_model, project), "hf", "base")
    for kind, source, compared in ("tuned", merged, rows), ("untuned", base, sample_rows(base)):
        for name, (precision, options) in BUILDS.items():
            if kind in parts and (kind, name) not in known:
                yield {"kind": kind, "name": name, "figures": asdict(_built(source, precision, options, compared))}


def _roundings(source: ModelRef, rows: list[GateRow], known: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    missing = [rounding for rounding in ROUNDINGS if ("rounding", str(rounding)) not in known]
    if not missing:
        return
    model = load_reference(source, torch.float32, "cpu").eval()
    linear = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    weights = [module.weight.detach().clone() for module in linear]
    exact = list(source_predictions(model, rows))
    for rounding in missing:
        chosen = random.Random(rounding.seed).choices(
            (True, False), (rounding.layers, 1 - rounding.layers), k=len(linear)
        )
        with torch.no_grad():
            for module, weight, is_rounded in zip(linear, weights, chosen, strict=True):
                module.weight.copy_(rounded(weight, rounding) if is_rounded else weight)
        others: Iterable[Predictions] = source_predictions(model, rows)
        comparison = compare_predictions(rows, exact, others, "validation rows", "whole")
        yield {"kind": "rounding", "name": str(rounding), "figures": asdict(comparison)}
    del model
    gc.collect()


def rounded(weight: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    """Return weights rounded to nearest, symmetrically in blocks of 32, as far as `way` goes."""
    blocks = weight.reshape(weight.shape[0], -1, BLOCK)
    top = 2 ** (rounding.bits - 1) - 1
    scale = blocks.abs().amax(-1, keepdim=True) / top
    nearest = (blocks / scale).round().clamp(-top - 1, top) * scale
    return blocks.lerp(nearest, rounding.way).reshape_as(weight)


def _built(source: ModelRef, precision: str, options: dict[str, Any], rows: list[GateRow]) -> GateComparison:
    folder = Path(tempfile.mkdtemp(prefix="phi-bench-"))
    try:
        request = {
            "source": str(source.path),
            "out": str(folder / "onnx"),
            "cache": str(folder / "cache"),
            "precision": precision,
            "execution_provider": "cpu",
            "options": options,
        }
        with Worker(python("phi_runtime.export.builder_process"), "the builder", log=folder / "log") as worker:
            worker.send(request)
            worker.result(silent)
        return compare(source, folder / "onnx", rows, "validation rows")
    finally:
        shutil.rmtree(folder)


def _limits(name: str) -> GateLimits:
    """Return the default limits of the precision `name`, of int4 for a simulated rounding."""
    precision = name if name in GATE_MAX_KL else "int4"
    return GateLimits.from_pass(ModelBuilder.model_validate({"type": "ModelBuilder", "precision": precision}))


def show(cases: list[dict[str, Any]]) -> None:
    print("\n| model | answers lost | KL | same most likely token | perplexity | gate |\n|---|---|---|---|---|---|")
    stopped, passed = [], []  # verdicts on ruined models, and on good builds
    for case in sorted(cases, key=lambda case: (case["kind"], case["figures"]["kl"])):
        found = GateComparison(**case["figures"])
        lost = (found.lost - found.gained) / found.answers if found.answers else None
        violation = _limits(case["name"].split(",")[0]).violation(found)
        if lost is not None and lost >= RUINED:
            stopped.append(violation is not None)
        elif case["kind"] != "rounding" and (lost or 0) <= GOOD:
            passed.append(violation is None)
        cells = [
            f"{case['kind']}: {case['name']}",
            "" if lost is None else f"{found.lost} − {found.gained} of {found.answers} = {100 * lost:.1f} %",
            f"{found.kl:.3f}",
            f"{100 * found.top1:.0f} %",
            f"{found.source_perplexity:.3f} → {found.perplexity:.3f} ({100 * found.perplexity_increase:+.0f} %)",
            f"stops: {violation.text}" if violation else "passes",
        ]
        print(f"| {' | '.join(cells)} |")
    print(f"\nmodels that lost at least {100 * RUINED:.0f} %, stopped: {sum(stopped)} of {len(stopped)}")
    print(f"builds that lost at most {100 * GOOD:.0f} %, and of free text, passed: {sum(passed)} of {len(passed)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "gate-bench.jsonl"), sys.argv[3:])
