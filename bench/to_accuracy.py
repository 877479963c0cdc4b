"""Wall time of training to an accuracy, compared with Microsoft Olive 0.13.0: one labeled data set, one model.

    PHI_OLIVE_PYTHON=/path/to/python python bench/to_accuracy.py DATA.jsonl MODEL_FOLDER [TARGET [RATES]]

DATA has the columns phrase and tone. Duplicate phrases are dropped, and 200 rows are test rows. Both train the same LoRA in the
fast type of this machine, at up to three constant learning rates each, as their documentation recommends: Olive joins the rows
to sequences of 512 tokens and trains on all of them; we train on completions, in batches of rows of similar length. The adapter is
saved every few steps. The first one that reaches TARGET (0.97, as logistic regression on the words does) is searched by bisection,
with our generator on all test rows and the prompt that each was trained with. The reported time is that of the steps up to it,
without loading and scoring.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
RATES = {"ours": (7e-4, 1e-3, 4e-4), "olive": (1e-3, 3e-4, 2e-3)}
STEPS = {"ours": 240, "olive": 57}  # Olive's take about ten minutes on two cores
EVERY = {"ours": 20, "olive": 3}
TEST_ROWS = 200


Checkpoints = list[tuple[int, float, Path]]
"""Optimizer steps, the time at which their checkpoint was complete, and the adapter."""


def main(data: Path, model: Path, target: float, rates: int) -> None:
    olive = Path(os.environ["PHI_OLIVE_PYTHON"])
    with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
        folder = Path(temporary)
        train, test = split(data, folder)
        dtype = fast_dtype()
        print(f"{train} training rows, {len(test)} test rows; {dtype}; target {100 * target:.0f} %", flush=True)
        best: dict[str, float] = {}
        for i in range(rates):
            for side in ("ours", "olive"):
                rate = RATES[side][i]
                place = folder / f"{side}-{i}"
                place.mkdir()
                kept = (
                    run_ours(place, model, rate, dtype)
                    if side == "ours"
                    else run_olive(place, olive, model, rate, dtype)
                )
                step_s = (kept[-1][1] - kept[0][1]) / (kept[-1][0] - kept[0][0])
                steps = first_to(target, kept, lambda adapter, side=side: score(model, adapter, test, side))
                reached = steps * step_s if steps else None
                result = f"{reached:.0f} s" if reached else "not reached"
                print(f"{side:5} lr {rate:.0e}: {step_s:.2f} s per step, {result}", flush=True)
                if reached:
                    best[side] = min(reached, best.get(side, reached))
                shutil.rmtree(place)
        if len(best) == 2:
            print(f"best: ours {best['ours']:.0f} s, Olive {best['olive']:.0f} s: {best['ours'] / best['olive']:.2f}")


def first_to(target: float, checkpoints: Checkpoints, score_adapter: Callable[[Path], float]) -> int | None:
    """Return the steps of the first adapter that scores `target`, by bisection; None if the last does not."""
    low, high, first = 0, len(checkpoints) - 1, None
    at = high
    while low <= high:
        step, _, adapter = checkpoints[at]
        accuracy = score_adapter(adapter)
        print(f"  step {step:3}: {100 * accuracy:5.1f} %", flush=True)
        if accuracy >= target:
            first, high = step, at - 1
        elif first is None:
            return None
        else:
            low = at + 1
        at = (low + high) // 2
    return first


def split(data: Path, folder: Path) -> tuple[int, list[dict[str, str]]]:
    rows = {}
    for line in data.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.setdefault(row["phrase"], {"phrase": row["phrase"], "tone": row["tone"]})
    order = list(rows.values())
    random.Random(0).shuffle(order)
    test, train = order[:TEST_ROWS], order[TEST_ROWS:]
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in train), encoding="utf-8")
    return len(train), test


def fast_dtype() -> str:
    from phi_runtime.hardware.device import compute_dtype

    return str(compute_dtype("bfloat16", "cpu")).removeprefix("torch.")


def config(model: Path, data: Path, process: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    cpu = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    return {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "systems": {"local": {"type": "LocalSystem", "accelerators": [cpu]}},
        "data_configs": [
            {
                "name": "train",
                "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_name": "json", "data_files": str(data), "split": "train"},
                "pre_process_data_config": {"text_template": TEMPLATE, **process},
            }
        ],
        "passes": {"lora": {"type": "LoRA", "target_modules": ["o_proj", "qkv_proj"], "r": 16, "alpha": 32, **step}},
        "host": "local",
        "target": "local",
    }


def run_ours(folder: Path, model: Path, rate: float, dtype: str) -> Checkpoints:
    step = {
        "lora_dropout": 0.0,
        "torch_dtype": dtype,
        "train_data_config": "train",
        "training_args": {
            "seed": 0,
            "per_device_train_batch_size": 8,
            "gradient_checkpointing": False,
            "learning_rate": rate,
            "max_steps": STEPS["ours"],
            "save_steps": EVERY["ours"],
        },
    }
    process = {"strategy": "line-by-line", "max_seq_len": 128}
    path = folder / "fine-tuning" / "olive-config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config(model, folder.parent / "train.jsonl", process, step)))
    phi = [
        str(Path(sys.executable).parent / "phi-scaffold"),
        "run",
        "--quiet",
        "--until",
        "lora",
        "--config",
        str(path),
    ]
    watched = folder / "gen-model" / ".work"
    return watch(phi, lambda: watched.glob("lora-*/checkpoints/checkpoint-*"), "manifest.json", folder / "kept")


def run_olive(folder: Path, python: Path, model: Path, rate: float, dtype: str) -> Checkpoints:
    checkpoints = folder / "checkpoints"
    step = {
        "torch_dtype": dtype,
        "train_data_config": "train",
        "training_args": {
            "seed": 0,
            "data_seed": 42,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 4,
            "gradient_checkpointing": False,
            "learning_rate": rate,
            "max_steps": STEPS["olive"],
            "save_strategy": "steps",
            "save_steps": EVERY["olive"],
            "save_total_limit": 100,
            "output_dir": str(checkpoints),
        },
    }
    process = {"strategy": "join", "max_seq_len": 512}
    settings = config(model, folder.parent / "train.jsonl", process, step)
    settings |= {"cache_dir": str(folder / "cache"), "output_dir": str(folder / "out"), "evaluate_input_model": False}
    path = folder / "olive.json"
    path.write_text(json.dumps(settings))
    command = [str(python), "-m", "olive", "run", "--config", str(path)]
    return watch(command, lambda: checkpoints.glob("checkpoint-*"), "trainer_state.json", folder / "kept")


def watch(command: list[str], list_checkpoints: Any, last_file: str, folder: Path) -> Checkpoints:
    """Run `command`, and copy the adapter of each checkpoint once its `last_file` exists."""
    quiet = {"HF_HUB_OFFLINE": "1", "OLIVE_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    log = folder.with_suffix(".log")
    folder.mkdir()
    kept: dict[int, tuple[float, Path]] = {}
    with log.open("w") as file:
        process = subprocess.Popen(command, env=os.environ | quiet, stdout=file, stderr=file)

        def copy_new() -> None:
            for path in list_checkpoints():
                step = int(path.name.rpartition("-")[2])
                if step in kept or not (path / last_file).is_file():
                    continue
                adapter = folder / str(step)
                adapter.mkdir()
                for name in ("adapter_model.safetensors", "adapter_config.json"):
                    shutil.copyfile(path / name, adapter / name)
                kept[step] = ((path / last_file).stat().st_mtime, adapter)

        while process.poll() is None:
            with suppress(FileNotFoundError):  # rotated away in the meantime
                copy_new()
            time.sleep(0.2)
    if process.returncode or len(kept) < 2:
        sys.exit(f"{command}: {log.read_text()[-2000:]}")
    return [(step, *kept[step]) for step in sorted(kept)]


def score(model: Path, adapter: Path, test: list[dict[str, str]], side: str) -> float:
    from phi_runtime.inference.generator import PromptTask
    from phi_runtime.inference.loading import open_generator
    from phi_runtime.models.reference import ModelRef

    base = ModelRef(model, "hf", "bench")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, adapter / name)
    generator = open_generator(ModelRef(adapter, "adapter", "bench", base))
    # Olive writes BOS and the end token into the text, separated by spaces.
    begin = f"{generator.tokenizer.bos_token} " if side == "olive" else ""
    prompts = [begin + TEMPLATE.partition("{tone}")[0].format(**row) for row in test]
    results = generator.run_prompts([PromptTask(generator.encode(prompt), max_new_tokens=6) for prompt in prompts], 50)
    return sum(found.answer.strip() == row["tone"] for found, row in zip(results, test, strict=True)) / len(test)


if __name__ == "__main__":
    if len(sys.argv) < 3 or "PHI_OLIVE_PYTHON" not in os.environ:
        sys.exit(__doc__)
    options = sys.argv[3:]
    target = float(options[0]) if options else 0.97
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute(), target, int(options[1]) if len(options) > 1 else 3)
