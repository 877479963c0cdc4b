"""Calibrated int4 next to the builder's own and the template's, from the merged model of a finished project on a CPU.

    python bench/calibrated.py PROJECT [ROUNDS [TOKENS]] [NAME …]

Each build is made once, and compared with the merged model: on the rows of the project that no build has seen, validation and test
rows together (right answers lost, with the paired 95 % interval, KL and perplexity over the decisions), and on the English and code
of `bench/export.py`. The calibration reads TOKENS (8192) of the training rows; its time and peak memory are of a separate process.
Speeds are those of `bench/export.py`, in ROUNDS (15) that take turns. The columns "gap" are perplexity above that of the merged
model, as shares of the builder's own. NAME picks some of the builds.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from export import Build, gap, made, measure, ratio, text_rows

from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import folder_bytes
from phi_runtime.core.events import silent
from phi_runtime.core.project import find_project
from phi_runtime.data.dataset import load_dataset
from phi_runtime.export.build import options_of
from phi_runtime.export.calibrated import round_source
from phi_runtime.export.gate import compare
from phi_runtime.export.gate_comparison import GateComparison
from phi_runtime.export.gate_rows import GateRow, validation_rows
from phi_runtime.models.load import quiet_libraries
from phi_runtime.models.reference import ModelRef
from phi_runtime.passes.model_builder import ModelBuilder
from phi_runtime.pipeline.graph import existing_models
from phi_runtime.pipeline.load import load_workflow

MIXED = {"matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"}
FUSED = {"prune_lm_head": True, "fuse_mlp_gate_up": True}
GPTQ = {"int4_algo_config": "gptq"}
BUILDS: dict[str, dict[str, Any]] = {
    "builder's int4": {},
    "calibrated": GPTQ,
    "template": {"extra_options": {**MIXED, **FUSED}},
    "calibrated, template without 8 bits": {**GPTQ, "extra_options": FUSED},
    "calibrated, template": {**GPTQ, "extra_options": {**MIXED, **FUSED}},
    "calibrated, blocks of 64": {**GPTQ, "int4_block_size": 64},
    "calibrated, blocks of 128": {**GPTQ, "int4_block_size": 128},
}


def main(root: Path, rounds: int, tokens: int, names: list[str]) -> None:
    quiet_libraries()
    project = find_project(root)
    workflow = load_workflow(project.config)
    models = existing_models(workflow, project)
    merged = next(models[name] for name, step in workflow.passes.items() if step.produces == "hf")
    name = next(name for name, step in workflow.passes.items() if step.produces == "onnx")
    text = text_rows(merged)
    builds: dict[str, tuple[Build, GateComparison]] = {}
    sources: dict[Any, Path] = {}  # calibrated, by rounding
    with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
        folder = Path(temporary)
        context = PassContext(name, workflow.passes[name], merged, folder, folder, workflow, project, silent)
        unseen = unseen_rows(context)
        for number, (title, settings) in enumerate(BUILDS.items()):
            if names and title not in names and title != "builder's int4":
                continue
            print(f"building {title}", file=sys.stderr, flush=True)
            if settings.get("int4_algo_config") == "gptq":
                settings = {**settings, "int4_calibration": {"tokens": tokens}}
            step = ModelBuilder.model_validate({"type": "ModelBuilder", "precision": "int4", **settings})
            source, key = merged.path, (step.int4_rounding, step.rounds_head)
            if step.is_calibrated and key not in sources:
                sources[key] = folder / f"{number}-calibrated"
                wall_s, peak_bytes = apart(root, name, settings, sources[key])
                print(f"{title}: calibrated in {wall_s:.0f} s, peak {peak_bytes / 1e9:.2f} GB", flush=True)
            source = sources[key] if step.is_calibrated else source
            build = made(source, folder / str(number), "int4", options_of(step))
            assert build is not None
            compared = {"text": text, "unseen rows": unseen}
            found = {kind: measured(merged, source, build.folder, step, rows) for kind, rows in compared.items()}
            for kind, comparison in found.items():
                print(f"{title}, {kind}: {comparison.summary}", flush=True)
            build.quality = found["text"]
            builds[title] = build, found["unseen rows"]
        if rounds:
            measure({title: build for title, (build, _) in builds.items()}, rounds)
        show(builds)


def unseen_rows(context: PassContext[Any]) -> list[GateRow]:
    """The validation and test rows of the project."""
    workflow = context.workflow
    training = workflow.passes[next(iter(workflow.trainings))]
    assert training.rows
    dataset = load_dataset(workflow, training.rows, context.data, silent, context.name)
    rows = validation_rows(dataset, context.source)
    if len(dataset.test):
        rows += validation_rows(replace(dataset, validation=dataset.test), context.source)
    return rows


def apart(root: Path, name: str, settings: dict[str, Any], out: Path) -> tuple[float, int]:
    """Calibrate in a new process; seconds and its peak memory in bytes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(calibrate, (root, name, settings, out))


def calibrate(root: Path, name: str, settings: dict[str, Any], out: Path) -> tuple[float, int]:
    quiet_libraries()
    project = find_project(root)
    workflow = load_workflow(project.config)
    models = existing_models(workflow, project)
    merged = next(models[n] for n, step in workflow.passes.items() if step.produces == "hf")
    step = ModelBuilder.model_validate({"type": "ModelBuilder", "precision": "int4", **settings})
    start = time.perf_counter()
    round_source(PassContext(name, step, merged, out, out, workflow, project, silent), out)
    return time.perf_counter() - start, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(merged: ModelRef, source: Path, folder: Path, step: ModelBuilder, rows: list[GateRow]) -> GateComparison:
    """How far the build is from the merged model; a pruned head has no logits to compare, so its twin is built."""
    if not step.extra_options.prune_lm_head:
        return compare(merged, folder, rows, "bench")
    twin = Path(f"{folder}-complete")
    if not twin.exists():
        made(source, twin, "int4", {**options_of(step), "prune_lm_head": False})
    return compare(merged, twin, rows, "bench")


def show(builds: dict[str, tuple[Build, GateComparison]]) -> None:
    own, own_answers = builds["builder's int4"]
    columns = ("build", "MB", "× prefill", "× decode", "answers lost", "KL", "perplexity", "gap ×")
    print(f"\n| {' | '.join(columns)} | text: KL | perplexity | gap × |")
    print("|---" * 11 + "|")
    for title, (build, answers) in builds.items():
        assert build.quality is not None
        difference = answers.right_answers.interval
        interval = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f} points" if difference else ""
        cells = [
            title,
            f"{folder_bytes(build.folder) / 1e6:.0f}",
            f"{ratio(build.prefill, own.prefill):.2f}" if build.prefill else "",
            f"{ratio(build.decode, own.decode):.2f}" if build.decode else "",
            f"{answers.lost} − {answers.gained} of {answers.answers} ({interval})",
            f"{answers.kl:.4f}",
            f"{answers.perplexity:.4f}",
            f"{increase(answers) / increase(own_answers):.2f}",
            f"{build.quality.kl:.3f}",
            f"{build.quality.perplexity:.2f}",
            f"{gap(build) / gap(own):.2f}",
        ]
        print(f"| {' | '.join(cells)} |")
    assert own.quality
    print(
        f"\nmerged: perplexity {own_answers.source_perplexity:.4f} over {own_answers.decisions} decisions of "
        f"{own_answers.compared_rows} rows, {own.quality.source_perplexity:.2f} over {own.quality.decisions} tokens of text"
    )
    if own.decode:
        print(f"builder's int4: {statistics.median(own.prefill):.0f} and {statistics.median(own.decode):.0f} tokens/s")


def increase(comparison: GateComparison) -> float:
    return comparison.perplexity - comparison.source_perplexity


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument not in BUILDS]
    chosen = [argument for argument in sys.argv[1:] if argument in BUILDS]
    numbers = [int(argument) for argument in given[1:]]
    rounds, tokens = [*numbers, *(15, 8192)[len(numbers) :]]
    main(Path(given[0]).absolute(), rounds, tokens, chosen)
