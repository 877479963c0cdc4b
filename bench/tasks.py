"""Every task of `new` with its sample data and the default model: what the base model answers, and what the tuned ones do.

    python bench/tasks.py [MODEL_FOLDER] [TASK …]

MODEL_FOLDER is a model-cache/smollm2-135m that exists already, so that it is not converted again for each task.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from phi_runtime.config.tasks import TASKS
from phi_runtime.evaluation.metrics import headline


def main(model: Path | None, tasks: list[str]) -> None:
    phi = str(Path(sys.executable).parent / "phi-scaffold")
    print(f"{'task':20} {'metric':10} {'base':>7} {'adapter':>8} {'merged':>7} {'int4':>7} {'run':>7}")
    for task in tasks:
        with tempfile.TemporaryDirectory(prefix="phi-bench-") as temporary:
            folder = Path(temporary) / task
            subprocess.run([phi, "new", str(folder), "--task", task, "--yes", "--no-git", "--quiet"], check=True)
            if model:
                shutil.copytree(model, folder / "model-cache" / "smollm2-135m")
            started = time.monotonic()
            subprocess.run([phi, "run", "--quiet"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            wall_s = time.monotonic() - started
            command = [phi, "evaluate", "--json"]
            done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
            found = {model["name"]: model["metrics"] for model in json.loads(done.stdout)["models"]}
            metric = headline(task)
            scores = [100 * found[name][metric] for name in ("base", "adapter", "merged", "onnx-int4")]
            base, adapter, merged, int4 = (f"{score:.1f} %" for score in scores)
            line = f"{task:20} {metric:10} {base:>7} {adapter:>8} {merged:>7} {int4:>7} {wall_s:5.0f} s"
            print(line, flush=True)


if __name__ == "__main__":
    given = [a for a in sys.argv[1:] if a not in TASKS]
    main(Path(given[0]).absolute() if given else None, [a for a in sys.argv[1:] if a in TASKS] or list(TASKS))
