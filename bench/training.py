"""Speed, memory and losses of LoRA training, compared with Microsoft Olive 0.13.0: same model, rows, steps, batches and adapter.

    PHI_OLIVE_PYTHON=/path/to/python python bench/training.py DATA.jsonl MODEL_FOLDER [DTYPE …]

Two workloads, each in every DTYPE (default: bfloat16 and float32; a CPU without AMX instructions always computes in float32, and
that is part of the comparison):

- tokens: rows joined to four sequences of 512 tokens, all tokens trained, ten steps over all four, so that the order of the rows does
  not matter and the losses can be compared step by step;
- rows: DATA line by line in batches of 16, ten steps; we train on the completions, Olive on complete rows, as it has no other way;
- upper third: the same rows three times, with adapters in the linear layers of the upper third, compared with Olive's rows/s on all
  layers: the layers below are computed in the first epoch alone.

Time is measured between the first and the last step, memory as the peak of the process with its children. "Share of the limit" is the
time of the matrix products that a step needs (4 · parameters · tokens: Kaplan et al. 2020, without gradients of frozen weights), at
the rate that this machine reaches on large float32 matrices.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
STEPS, BLOCKS, BLOCK, BATCH, EPOCHS = 10, 4, 512, 16, 3
UPPER = "upper third"


@dataclass(frozen=True)
class Result:
    """Measurements of one run; `step_s` is the median of the steps after the first, over several epochs their mean."""

    step_s: float
    losses: list[float]
    peak_bytes: int


def main(data: Path, model: Path, dtypes: list[str]) -> None:
    limit = matrix_flops("cpu", "float32", 2048)
    parameters = sum(f.stat().st_size for f in model.glob("*.safetensors")) // 4
    print(f"{model.name}: {parameters / 1e6:.0f} M parameters; float32 matrices: {limit / 1e9:.0f} GFLOP/s", flush=True)
    for dtype in dtypes:
        for workload in ("tokens", "rows"):
            with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
                ours, olive = (run(side, workload, dtype, data, model, Path(temporary)) for side in ("ours", "olive"))
            show(workload, dtype, ours, olive, parameters, limit)
        with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
            ours = run("ours", UPPER, dtype, data, model, Path(temporary))
        show(UPPER, dtype, ours, olive, parameters, limit)


def show(workload: str, dtype: str, ours: Result, olive: Result, parameters: int, limit: float) -> None:
    unit, count = ("tokens", BLOCKS * BLOCK) if workload == "tokens" else ("rows", BATCH)
    print(f"\n{workload}, {dtype}")
    for name, result in (("ours", ours), ("Olive", olive)):
        share = f", {4 * parameters * count / result.step_s / limit:.0%} of the limit" if workload == "tokens" else ""
        print(f"  {name:5} {count / result.step_s:7.1f} {unit}/s, peak {result.peak_bytes / 1e6:.0f} MB{share}")
        print(f"        losses {' '.join(f'{loss:.3f}' for loss in result.losses)}")
    print(f"  speed x {olive.step_s / ours.step_s:.2f}, memory x {ours.peak_bytes / olive.peak_bytes:.2f}", end="")
    difference = max(abs(a - b) for a, b in zip(ours.losses, olive.losses, strict=False))
    print(f", losses differ by at most {difference:.3f}" if workload == "tokens" else "", flush=True)


def config(workload: str, dtype: str, data: Path, model: Path) -> dict[str, Any]:
    """Return the config for both. Joined rows have no special tokens, as Olive separates them by spaces."""
    cpu = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    joined = {"strategy": "join", "max_seq_len": BLOCK, "max_samples": BLOCKS, "add_special_tokens": False}
    single: dict[str, Any] = {"strategy": "line-by-line", "max_seq_len": 128, "pad_to_max_len": False}
    batch = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": BLOCKS}
    adapted: dict[str, Any] = {"target_modules": ["o_proj", "qkv_proj"]}
    if workload != "tokens":
        batch = {"per_device_train_batch_size": BATCH, "gradient_accumulation_steps": 1}
    if workload == UPPER:
        single["max_samples"] = STEPS * BATCH
        adapted = {"target_modules": ["all-linear"], "layers": "upper-third"}
    return {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "systems": {"local": {"type": "LocalSystem", "accelerators": [cpu]}},
        "data_configs": [
            {
                "name": "train",
                "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_name": "json", "data_files": str(data), "split": "train"},
                "pre_process_data_config": {"text_template": TEMPLATE, **(joined if workload == "tokens" else single)},
            }
        ],
        "passes": {
            "lora": {
                "type": "LoRA",
                **adapted,
                "r": 16,
                "alpha": 32,
                "lora_dropout": 0.0,
                "torch_dtype": dtype,
                "train_data_config": "train",
                "training_args": {
                    "seed": 0,
                    "data_seed": 42,
                    "gradient_checkpointing": False,
                    "learning_rate": 3e-4,
                    "max_steps": steps_in(workload),
                    "logging_steps": 1,
                    **batch,
                },
            }
        },
        "host": "local",
        "target": "local",
        "evaluate_input_model": False,
    }


def steps_in(workload: str) -> int:
    return STEPS * EPOCHS if workload == UPPER else STEPS


def run(side: str, workload: str, dtype: str, data: Path, model: Path, folder: Path) -> Result:
    place = folder / side / "fine-tuning"
    place.mkdir(parents=True)
    path = place / "olive-config.json"
    settings = config(workload, dtype, data, model)
    if side == "olive":
        settings |= {"cache_dir": str(folder / "cache"), "output_dir": str(folder / "out")}
        command = [os.environ["PHI_OLIVE_PYTHON"], "-m", "olive", "run", "--config", str(path)]
    else:
        phi = Path(sys.executable).parent / "phi-scaffold"
        command = [str(phi), "run", "--json", "--until", "lora", "--config", str(path)]
    path.write_text(json.dumps(settings))
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "OLIVE_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        command, env=os.environ | quiet, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peak = Peak(partial(resident_bytes, process.pid))
    assert process.stdout is not None
    tail: list[str] = []
    ticks, losses = steps_of(side, process.stdout, tail)
    if process.wait() or len(losses) < steps_in(workload):
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(tail[-30:])}")
    middle = statistics.mean if workload == UPPER else statistics.median
    return Result(middle([b - a for a, b in pairwise(ticks)]), losses, peak.stop())


def steps_of(side: str, lines: Iterable[str], tail: list[str]) -> tuple[list[float], list[float]]:
    """Return the time at which each step ended, and its loss."""
    ticks: list[float] = []
    losses: list[float] = []
    for line in lines:
        tail.append(line)
        loss = None
        if side == "ours" and line.startswith("{"):
            event = json.loads(line)
            loss = event.get("loss") if event["event"] == "metric" and "step" in event else None
        elif side == "olive" and "'loss':" in line:
            with suppress(SyntaxError, ValueError):
                loss = ast.literal_eval(line[line.index("{") : line.rindex("}") + 1]).get("loss")
        if loss is not None:
            ticks.append(time.monotonic())
            losses.append(float(loss))
    return ticks, losses


class Peak:
    """The largest value of `read`, which is called ten times a second."""

    def __init__(self, read: Callable[[], int]) -> None:
        self.read, self.bytes, self.done = read, 0, threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()

    def _sample(self) -> None:
        while not self.done.wait(0.1):
            self.bytes = max(self.bytes, self.read())

    def stop(self) -> int:
        self.done.set()
        self.thread.join()
        return self.bytes


def resident_bytes(pid: int) -> int:
    """Return the memory of a process and its children; 0 if it has ended."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
    return 0


def matrix_flops(device: str, dtype: str, size: int) -> float:
    """Return the FLOP/s of torch on large matrices, the best of ten runs."""
    import torch

    from phi_runtime.hardware.device import usable_cores

    torch.set_num_threads(usable_cores())
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    if len(sys.argv) < 3 or "PHI_OLIVE_PYTHON" not in os.environ:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute(), sys.argv[3:] or ["bfloat16", "float32"])
