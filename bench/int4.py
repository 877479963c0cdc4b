"""What the int4 export loses of a tuned model: `new` with LoRA and with QLoRA, with and without `int4_aware`.

    python bench/int4.py [MODEL_FOLDER] [--seeds 42,1] [VARIANT …]

MODEL_FOLDER is a model-cache/smollm2-135m that exists already, so that it is not converted again. A variant is one of the
projects below. Each seed is another split, order of rows and adapter; the last line of a variant is for all its seeds together.
Intervals are of 95 %: Wilson's for the accuracy, the paired one for the difference, with the rows lost and gained.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phi_runtime.evaluation.intervals import Interval, compare_counts, wilson

AWARE, EXPORT = "passes.finetune.int4_aware", "passes.export"
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "lora": ("lora", {}),
    "lora, not aware": ("lora", {AWARE: False}),
    "qlora": ("qlora", {}),
    "qlora, nf4": ("qlora", {AWARE: False}),
    "lora, blocks of 64": ("lora", {f"{EXPORT}.int4_block_size": 64}),
    "qlora, blocks of 64": ("qlora", {f"{EXPORT}.int4_block_size": 64}),
}
"""Method of `new`, and settings, by name."""


@dataclass(frozen=True)
class Loss:
    """Right answers of the adapter and of int4, and the answers that only one of merged model and int4 has right."""

    rows: int
    adapter: int
    int4: int
    lost: int
    gained: int

    def __str__(self) -> str:
        both = self.int4 - self.gained
        difference = compare_counts(both, self.lost, self.gained, self.rows - both - self.lost - self.gained)
        counts = f"{100 * difference.value:+.1f} % {_points(difference.interval)} (-{self.lost} +{self.gained})"
        return f"{self._share(self.adapter)}  {self._share(self.int4)}  {counts} of {self.rows}"

    def _share(self, right: int) -> str:
        return f"{100 * right / self.rows:5.1f} % {_points(wilson(right, self.rows)):13}"


def _points(interval: Interval | None) -> str:
    return f"{100 * interval.low:.1f} … {100 * interval.high:.1f}" if interval else ""


def main(model: Path | None, seeds: Sequence[int], names: Sequence[str]) -> None:
    print(f"{'variant':20} {'seed':>6}  {'adapter':21}  {'int4':21}  int4 - merged (rows lost, gained)")
    for name in names:
        losses = []
        for seed in seeds:
            with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
                losses.append(measured(Path(temporary) / "project", model, *VARIANTS[name], seed))
            print(f"{name:20} {seed:6}  {losses[-1]}", flush=True)
        if len(losses) > 1:
            print(
                f"{name:20} {'all':>6}  {Loss(*map(sum, zip(*(vars(loss).values() for loss in losses), strict=True)))}"
            )


def measured(folder: Path, model: Path | None, method: str, settings: dict[str, object], seed: int) -> Loss:
    """Create the project, run it and return what its int4 model lost."""
    phi = [sys.executable, "-m", "phi_scaffold"]
    subprocess.run([*phi, "new", str(folder), "--method", method, "--yes", "--no-git", "--quiet"], check=True)
    if model:
        shutil.copytree(model, folder / "model-cache" / "smollm2-135m")
    options = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    options += [
        f"--set=passes.finetune.training_args.seed={seed}",
        f"--set={EXPORT}.gate=null",
    ]  # it would stop a bad one
    command = [*phi, "run", "--quiet", "--project", str(folder), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((folder / "gen-model" / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    models, rows = {each["name"]: each for each in result["models"]}, result["rows"]
    right = [round(rows * models[name]["metrics"]["accuracy"]) for name in ("adapter", "onnx-int4")]
    versus = models["onnx-int4"]["versus"]
    return Loss(rows, *right, versus["lost"], versus["gained"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="42,1")
    parser.add_argument("arguments", nargs="*", metavar="MODEL_FOLDER or VARIANT")
    given = parser.parse_intermixed_args()
    folders = [Path(each).absolute() for each in given.arguments if each not in VARIANTS]
    chosen = [each for each in given.arguments if each in VARIANTS]
    main(folders[0] if folders else None, [int(seed) for seed in given.seeds.split(",")], chosen or list(VARIANTS))
