"""Adapters in the upper layers, with and without kept activations, compared with adapters in all layers: time and accuracy.

    python bench/upper_layers.py PROJECT [EPOCHS [VARIANT …]]

PROJECT is a set-up project with a LoRA pass `finetune`, such as that of `make demo`; it is copied. Each variant trains EPOCHS (3)
in a task of its own, is merged and built in int4, and compared on the same validation rows. The time is that of `run --until
finetune` with the data tokenized, which includes loading the model and the validation loss after each epoch. Variants without
`-no-cache` keep the activations below the first adapted layer; each starts without kept ones.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from phi_runtime.evaluation.metrics import headline

UPPER: dict[str, Any] = {"target_modules": ["all-linear"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "all-layers": {},
    "all-layers-all-linear": UPPER,
    "upper-half-no-cache": UPPER | {"layers": "upper-half", "activation_cache_gb": 0},
    "upper-half": UPPER | {"layers": "upper-half"},
    "upper-third-no-cache": UPPER | {"layers": "upper-third", "activation_cache_gb": 0},
    "upper-third": UPPER | {"layers": "upper-third"},
}


def main(source: Path, epochs: int, variants: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
        project = Path(temporary) / source.name
        shutil.copytree(source, project, ignore=shutil.ignore_patterns(".venv", "gen-model"))
        phi(project, "data", "check")  # tokenizes the rows
        print(f"{'variant':24} {'train':>7} {'rows/s':>7} {'adapter':>9} {'int4':>8} {'rows':>5}")
        for name in variants:
            shutil.rmtree(project / "gen-model" / ".activations", ignore_errors=True)
            settings = VARIANTS[name] | {"training_args.num_train_epochs": epochs}
            options = [f"--set=passes.finetune.{key}={json.dumps(value)}" for key, value in settings.items()]
            started = time.monotonic()
            phi(project, "run", "--until", "finetune", "--task-name", name, *options)
            wall_s = time.monotonic() - started
            phi(project, "run", "--task-name", name, *options)
            output = project / "gen-model" / name
            result = json.loads((output / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
            facts = json.loads((output / "adapter" / "manifest.json").read_text(encoding="utf-8"))["facts"]
            scores = {model["name"]: model["metrics"][headline(result["task"])] for model in result["models"]}
            rate = facts["sequences"] * epochs / wall_s
            int4 = scores.get("onnx-int4", float("nan"))
            print(
                f"{name:24} {wall_s:5.0f} s {rate:7.1f} {100 * scores['adapter']:7.1f} % {100 * int4:6.1f} % {result['rows']:5}",
                flush=True,
            )


def phi(project: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "phi_scaffold", *arguments, "--project", str(project)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 3, sys.argv[3:] or list(VARIANTS))
