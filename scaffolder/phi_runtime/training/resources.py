"""Use of cores, memory and GPUs during training, sampled once a second in a thread."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

from phi_runtime.hardware.device import usable_cores

FILE = "resources.jsonl"
EVERY_S = 1.0

Figures = dict[str, float]


class ResourceMonitor:
    """Samples this process while it is open, and appends each sample as a line to `record`/resources.jsonl.

    - cpu_share: use of the cores that this process may use, 0 to 1, since the previous sample
    - rss_bytes: resident memory
    - gpu_memory_bytes, gpu_allocated_bytes: memory that torch reserves on the CUDA devices, and the part of it in use
    - gpu_share: mean use of these devices, 0 to 1; absent without the driver's library (nvidia-ml-py)

    No failure here reaches the training: what cannot be sampled or written is skipped.

        with ResourceMonitor(context.record, context.name) as resources:
            trainer.train()  # its progress events may carry resources.latest()
        facts |= resources.means()
    """

    def __init__(self, record: Path | None, stage: str = "", every_s: float = EVERY_S) -> None:
        self.file, self.stage, self.every_s = record / FILE if record else None, stage, every_s
        self._last: Figures = {}
        self._sums: Figures = {}
        self._peaks: Figures = {}
        self._counts: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ResourceMonitor:
        try:
            self._measure = _process_probe()
        except Exception:
            return self  # psutil is missing, or does not support this system
        self._thread = threading.Thread(target=self._run, name="resources", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def latest(self) -> Figures:
        """Return the last sample; empty before the first."""
        return dict(self._last)

    def means(self) -> Figures:
        """Return the mean of each share; empty if nothing was sampled."""
        return {k: round(total / self._counts[k], 4) for k, total in self._sums.items() if k.endswith("_share")}

    def peaks(self) -> Figures:
        """Return the maximum of each figure over the samples; memory may have been higher between two of them."""
        return dict(self._peaks)

    def _run(self) -> None:
        while True:
            stopped = self._stop.wait(self.every_s)
            self._sample()
            if stopped:
                return

    def _sample(self) -> None:
        try:
            figures = self._measure()
        except Exception:
            return
        self._last = figures
        self._counts.update(figures.keys())
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0) + value
            self._peaks[name] = max(self._peaks.get(name, 0), value)
        if self.file is None:
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "stage": self.stage, **figures}
        try:
            with self.file.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(line) + "\n")
        except OSError:
            self.file = None


def _process_probe() -> Callable[[], Figures]:
    """Return a function that measures this process; the use of its cores counts from now on."""
    import psutil  # type: ignore[import-untyped]

    process, cores = psutil.Process(), usable_cores()
    process.cpu_percent()  # the next call measures from here

    def measure() -> Figures:
        figures: Figures = {
            "cpu_share": round(min(process.cpu_percent() / 100 / cores, 1.0), 4),
            "rss_bytes": process.memory_info().rss,
        }
        if (cuda := _cuda()) is not None:
            devices = range(cuda.device_count())
            figures["gpu_memory_bytes"] = sum(cuda.memory_reserved(d) for d in devices)
            figures["gpu_allocated_bytes"] = sum(cuda.memory_allocated(d) for d in devices)
            figures |= _gpu_share(cuda)
        return figures

    return measure


def _cuda() -> Any | None:
    """Return torch.cuda if the training has initialized it; initializing it here would take GPU memory."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _gpu_share(cuda: Any) -> Figures:
    """Return the mean use of the devices that torch uses; empty if there is none yet, or without nvidia-ml-py and a driver."""
    with suppress(Exception):
        used = [device for device in range(cuda.device_count()) if cuda.memory_reserved(device)]
        return {"gpu_share": round(fmean(cuda.utilization(device) for device in used) / 100, 4)}
    return {}
