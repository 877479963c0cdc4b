"""Speed, memory and losses of LoRA training, beside Microsoft Olive 0.13.0: the same model, rows, steps, batches and adapter.

    PHI_OLIVE_PYTHON=/path/to/python python bench/training.py DATA.jsonl MODEL_FOLDER [DTYPE …]

Two works, each in every DTYPE that a config can name (bfloat16 and float32; a CPU without bfloat16 instructions computes float32 here
whatever is named, and that is part of the comparison):

- tokens: rows joined to four sequences of 512 tokens, all tokens trained, ten steps over all four, so that the order of the rows does
  not matter and the losses of both can be compared step by step;
- rows: DATA line by line in batches of 16, ten steps; we train on the completions, Olive, which cannot, on whole rows.

Time is that between the first and the last step; memory the peak of the whole process with its children. The share of the limit is
that of the matrix products which a step cannot do without (4 · parameters · tokens: Kaplan et al. 2020, without the gradients of
frozen weights) in what this machine reaches on large float32 matrices.
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
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
STEPS, BLOCKS, BLOCK, BATCH = 10, 4, 512, 16


@dataclass(frozen=True)
class Ran:
    """`step_s` is the median of the steps after the first."""

    step_s: float
    losses: list[float]
    peak_bytes: int


def main(data: Path, model: Path, dtypes: list[str]) -> None:
    limit = matrix_flops()
    parameters = sum(f.stat().st_size for f in model.glob("*.safetensors")) // 4
    print(f"{model.name}: {parameters / 1e6:.0f} M parameters; float32 matrices: {limit / 1e9:.0f} GFLOP/s", flush=True)
    for dtype in dtypes:
        for work in ("tokens", "rows"):
            with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
                ours, olive = (run(side, work, dtype, data, model, Path(temporary)) for side in ("ours", "olive"))
            show(work, dtype, ours, olive, parameters, limit)


def show(work: str, dtype: str, ours: Ran, olive: Ran, parameters: int, limit: float) -> None:
    unit, count = ("tokens", BLOCKS * BLOCK) if work == "tokens" else ("rows", BATCH)
    print(f"\n{work}, {dtype}")
    for name, ran in (("ours", ours), ("Olive", olive)):
        share = f", {4 * parameters * count / ran.step_s / limit:.0%} of the limit" if work == "tokens" else ""
        print(f"  {name:5} {count / ran.step_s:7.1f} {unit}/s, peak {ran.peak_bytes / 1e6:.0f} MB{share}")
        print(f"        losses {' '.join(f'{loss:.3f}' for loss in ran.losses)}")
    print(f"  speed x {olive.step_s / ours.step_s:.2f}, memory x {ours.peak_bytes / olive.peak_bytes:.2f}", end="")
    apart = max(abs(a - b) for a, b in zip(ours.losses, olive.losses, strict=False))
    print(f", losses at most {apart:.3f} apart" if work == "tokens" else "", flush=True)


def config(work: str, dtype: str, data: Path, model: Path) -> dict[str, Any]:
    """What both are given. Special tokens are left out where the tokens must be the same: Olive writes them with blanks."""
    cpu = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    joined = {"strategy": "join", "max_seq_len": BLOCK, "max_samples": BLOCKS, "add_special_tokens": False}
    single = {"strategy": "line-by-line", "max_seq_len": 128, "pad_to_max_len": False}
    batch = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": BLOCKS}
    if work == "rows":
        batch = {"per_device_train_batch_size": BATCH, "gradient_accumulation_steps": 1}
    return {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "systems": {"local": {"type": "LocalSystem", "accelerators": [cpu]}},
        "data_configs": [
            {
                "name": "train",
                "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_name": "json", "data_files": str(data), "split": "train"},
                "pre_process_data_config": {"text_template": TEMPLATE, **(joined if work == "tokens" else single)},
            }
        ],
        "passes": {
            "lora": {
                "type": "LoRA",
                "target_modules": ["o_proj", "qkv_proj"],
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
                    "max_steps": STEPS,
                    "logging_steps": 1,
                    **batch,
                },
            }
        },
        "host": "local",
        "target": "local",
        "evaluate_input_model": False,
    }


def run(side: str, work: str, dtype: str, data: Path, model: Path, folder: Path) -> Ran:
    place = folder / side / "fine-tuning"
    place.mkdir(parents=True)
    path = place / "olive-config.json"
    given = config(work, dtype, data, model)
    if side == "olive":
        given |= {"cache_dir": str(folder / "cache"), "output_dir": str(folder / "out")}
        command = [os.environ["PHI_OLIVE_PYTHON"], "-m", "olive", "run", "--config", str(path)]
    else:
        phi = Path(sys.executable).parent / "phi-scaffold"
        command = [str(phi), "run", "--json", "--until", "lora", "--config", str(path)]
    path.write_text(json.dumps(given))
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "OLIVE_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        command, env=os.environ | quiet, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peak = Peak(process.pid)
    assert process.stdout is not None
    tail: list[str] = []
    ticks, losses = steps_of(side, process.stdout, tail)
    if process.wait() or len(losses) < STEPS:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(tail[-30:])}")
    return Ran(statistics.median(b - a for a, b in pairwise(ticks)), losses, peak.stop())


def steps_of(side: str, lines: Iterable[str], tail: list[str]) -> tuple[list[float], list[float]]:
    """When each step ended, and its loss."""
    ticks: list[float] = []
    losses: list[float] = []
    for line in lines:
        tail.append(line)
        found = None
        if side == "ours" and line.startswith("{"):
            event = json.loads(line)
            found = event.get("loss") if event["event"] == "metric" and "step" in event else None
        elif side == "olive" and "'loss':" in line:
            with suppress(SyntaxError, ValueError):
                found = ast.literal_eval(line[line.index("{") : line.rindex("}") + 1]).get("loss")
        if found is not None:
            ticks.append(time.monotonic())
            losses.append(float(found))
    return ticks, losses


class Peak:
    """Looks ten times a second how much memory a process and its children have."""

    def __init__(self, pid: int) -> None:
        self.process, self.bytes, self.done = psutil.Process(pid), 0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.done.wait(0.1):
            with suppress(psutil.Error):
                family = [self.process, *self.process.children(recursive=True)]
                self.bytes = max(self.bytes, sum(p.memory_info().rss for p in family))

    def stop(self) -> int:
        self.done.set()
        self.thread.join()
        return self.bytes


def matrix_flops() -> float:
    """Multiplications and additions a second of torch on large float32 matrices, the best of five."""
    import torch

    from phi_runtime.hardware.device import usable_cores

    torch.set_num_threads(usable_cores())
    a = torch.randn(2048, 2048)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    if len(sys.argv) < 3 or "PHI_OLIVE_PYTHON" not in os.environ:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute(), sys.argv[3:] or ["bfloat16", "float32"])
