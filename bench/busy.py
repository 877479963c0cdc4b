"""Time of a training step while another program keeps a core busy, with the runtime's threads and with plain torch's.

    python bench/busy.py MODEL_FOLDER [STEPS]

Both sides run the same forward and backward passes of the same model, in processes of their own, in turn: on a quiet machine, and
next to a program that computes without a pause. The figures are medians of the steps after the first three.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROWS, TOKENS, WARM_UP = 16, 40, 3
BUSY = "while True: pass"


def steps(model_folder: Path, count: int, *, adapts: bool) -> list[float]:
    """Return the seconds of each step."""
    import torch
    from transformers import AutoModelForCausalLM

    from phi_runtime.hardware.busy_cores import AdaptedThreads
    from phi_runtime.hardware.device import usable_cores

    torch.set_num_threads(usable_cores())
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    ids = torch.randint(5, model.config.vocab_size, (ROWS, TOKENS))
    threads = AdaptedThreads()
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        if adapts:
            threads.adapt()
        model(input_ids=ids, labels=ids).loss.backward()
        seconds.append(time.perf_counter() - started)
    return seconds


def measure(model_folder: Path, count: int, side: str, *, busy: bool) -> float:
    """Return the median step of a side."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PHI_SCAFFOLD_CORES")
    }
    others = [subprocess.Popen([sys.executable, "-c", BUSY])] if busy else []
    try:
        command = [sys.executable, __file__, str(model_folder), str(count), side]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    finally:
        for each in others:
            each.kill()
            each.wait()
    return statistics.median(map(float, done.stdout.split()[WARM_UP:]))


def main(model_folder: Path, count: int) -> None:
    """Print the table."""
    figures = {
        (side, busy): measure(model_folder, count, side, busy=busy)
        for busy in (False, True)
        for side in ("plain", "adapted")
    }
    quiet = figures["plain", False]
    print("| threads | quiet | a busy core | ÷ quiet |\n|---|---:|---:|---:|")
    for side in ("plain", "adapted"):
        alone, busy = figures[side, False], figures[side, True]
        print(f"| {side} | {alone:.2f} s ({alone / quiet:.2f} ×) | {busy:.2f} s | {busy / alone:.1f} × |")


if __name__ == "__main__":
    folder, number = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 15
    if len(sys.argv) > 3:
        print(*steps(folder, number, adapts=sys.argv[3] == "adapted"))
    else:
        main(folder, number)
