"""Seconds and tokens of each entry of a comparison: where `phi-scaffold evaluate` spends its time.

    python bench/evaluate.py PROJECT [NAME …]

PROJECT is one that `run` has finished; it is only read. The models of its comparison (or those with a NAME) are measured in turn,
each in a separate process, a copy of this one where `evaluate` copies one. An entry is a set of prompts of a model, such as
`base, few-shot`. Calls of the model, and the tokens that they read with padding, are the same in each run; seconds of a busy
machine say little.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.stage_names import EVALUATE, evaluation_stages
from phi_runtime.core.events import Emit, silent
from phi_runtime.core.project import find_project
from phi_runtime.evaluation import comparison, model_processes, worker
from phi_runtime.inference.onnx import OnnxSequence
from phi_runtime.inference.transformers import TransformersGenerator
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.compare import Comparison
from phi_runtime.pipeline.graph import existing_models
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.stage import evaluation_stage

counts = {"calls": 0, "tokens": 0}


def count_calls() -> None:
    """Count the calls of models in this process, and their tokens."""

    def counted(function: Any, tokens_of: Any) -> Any:
        def call(self: Any, *args: Any, **options: Any) -> Any:
            counts["calls"] += 1
            counts["tokens"] += tokens_of(*args)
            return function(self, *args, **options)

        return call

    kinds: list[tuple[Any, str, Any]] = [
        (TransformersGenerator, "forward", lambda rows, *_: len(rows) * len(rows[0])),
        (OnnxSequence, "prefill", lambda ids: len(ids)),
        (OnnxSequence, "append", lambda _: 1),
        (OnnxSequence, "step", lambda *_: 1),
    ]
    for kind, name, tokens_of in kinds:
        setattr(kind, name, counted(getattr(kind, name), tokens_of))


def measure(task: worker.ModelTask) -> worker.ModelResults:
    """Do the work of `task` and print a line per entry; the first is loading and the measurement of speed."""
    count_calls()
    started, cpu, entries = time.perf_counter(), time.process_time(), task.rows

    def line(name: str) -> None:
        nonlocal started, cpu
        now, now_cpu = time.perf_counter(), time.process_time()
        print(
            f"| {name} | {now - started:.1f} | {now_cpu - cpu:.1f} | {counts['calls']} | {counts['tokens']} |",
            flush=True,
        )
        started, cpu = now, now_cpu
        counts.update(calls=0, tokens=0)

    def work(generator: Any, _: worker.ModelTask) -> dict[str, Any]:
        line(f"{task.name}: load, speed, memory")
        results = {}
        for name, rows in entries.items():
            results[name] = worker._work_on_rows(generator, rows, task)
            line(name)
        return results

    worker.work_on = work
    return worker.load_and_work(task)


class Processes:
    """ModelProcesses with copies of this process, in which calls are counted."""

    def __init__(self, _models: list[ModelRef], _device: str, _folder: Path) -> None:
        started, cpu = time.perf_counter(), time.process_time()
        model_processes.import_libraries()
        print(f"| import | {time.perf_counter() - started:.1f} | {time.process_time() - cpu:.1f} | | |")

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def work(self, task: worker.ModelTask, _log: Path, _emit: Emit) -> worker.ModelResults:
        method = "spawn" if task.ref.kind == "onnx" else "fork"
        with multiprocessing.get_context(method).Pool(1) as pool:
            return pool.apply(measure, (task,))


def main(folder: Path, names: list[str]) -> None:
    project = find_project(folder)
    workflow = load_workflow(project.config)
    models = existing_models(workflow, project)
    stage = evaluation_stage(workflow, project, EVALUATE, models)
    training = evaluation_stages(workflow)[EVALUATE]
    assert training

    comparison.ModelProcesses = Processes
    plain = comparison.evaluate

    def evaluate(workflow: Any, training: str, models: Any, *args: Any, **options: Any) -> dict[str, Any]:
        return plain(workflow, training, [m for m in models if not names or m[0] in names], *args, **options)

    comparison.evaluate = evaluate
    print("| entry | s | CPU s | calls | tokens |\n|---|---|---|---|---|")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        Comparison(workflow, project, Overrides(), training, stage, models, silent).measure(Path(out))
    print(f"| all | {time.perf_counter() - started:.1f} | | | |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
