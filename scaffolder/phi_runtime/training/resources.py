"""What a training run takes of the machine, sampled beside it once a second: cores, memory, GPU."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from phi_runtime.hardware.device import usable_cores

FILE = "resources.jsonl"
EVERY_S = 1.0

Figures = dict[str, float]


class Resources:
    """Samples this process while it is open, in a thread of its own, and writes each sample as a line of `record`/resources.jsonl:

    - cpu_share: use of the cores that this process may use, 0 to 1, since the sample before
    - rss_bytes: resident memory
    - gpu_memory_bytes, gpu_allocated_bytes: what torch holds of the CUDA devices of this process, and what of it is in use
    - gpu_share: mean use of these devices, 0 to 1; left out where the driver's library (nvidia-ml-py) is not installed

    Nothing that goes wrong here reaches the training: what cannot be sampled is left out, what cannot be written is not written.

        with Resources(context.record, context.name) as resources:
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

    def __enter__(self) -> Resources:
        try:
            self._look = _looks()
        except Exception:
            return self  # no psutil, or a system that it does not know
        self._thread = threading.Thread(target=self._watch, name="resources", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def latest(self) -> Figures:
        """The last sample; empty before the first."""
        return dict(self._last)

    def means(self) -> Figures:
        """The mean of each share over the run; empty when nothing was sampled."""
        return {k: round(total / self._counts[k], 4) for k, total in self._sums.items() if k.endswith("_share")}

    def peaks(self) -> Figures:
        """The largest sample of each figure. Memory may have been higher between two samples."""
        return dict(self._peaks)

    def _watch(self) -> None:
        while True:
            stopped = self._stop.wait(self.every_s)
            self._sample()
            if stopped:
                return

    def _sample(self) -> None:
        try:
            figures = self._look()
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


def _looks() -> Callable[[], Figures]:
    """A function that looks at this process; the use of its cores counts from here on."""
    import psutil  # type: ignore[import-untyped]

    process, cores = psutil.Process(), usable_cores()
    process.cpu_percent()  # of no time: the next one counts from now
    gpu_share = _GpuShare()

    def look() -> Figures:
        figures: Figures = {
            "cpu_share": round(min(process.cpu_percent() / 100 / cores, 1.0), 4),
            "rss_bytes": process.memory_info().rss,
        }
        if (cuda := _cuda()) is not None:
            devices = range(cuda.device_count())
            figures["gpu_memory_bytes"] = sum(cuda.memory_reserved(d) for d in devices)
            figures["gpu_allocated_bytes"] = sum(cuda.memory_allocated(d) for d in devices)
            figures |= gpu_share(cuda)
        return figures

    return look


def _cuda() -> Any | None:
    """torch.cuda where the training has started it; asking would start it, which takes memory."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


class _GpuShare:
    """Asks for the use of the GPUs until it is once not told."""

    def __init__(self) -> None:
        self.told = True

    def __call__(self, cuda: Any) -> Figures:
        if not self.told:
            return {}
        try:
            devices = [d for d in range(cuda.device_count()) if cuda.memory_reserved(d)]
            return {"gpu_share": round(sum(cuda.utilization(d) for d in devices) / 100 / len(devices), 4)}
        except ZeroDivisionError:  # nothing lies on a device yet
            return {}
        except Exception:  # no nvidia-ml-py, or a driver without it
            self.told = False
            return {}
