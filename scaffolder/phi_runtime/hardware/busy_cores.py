"""Threads for the cores that other programs leave.

The threads of a matrix product wait for each other, spinning. If another program takes one of two cores, they wait for its time
slices at each product: a training step takes 3 to 15 times as long. With one thread on the free core it takes twice as long.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

import psutil  # type: ignore[import-untyped]

from phi_runtime.hardware.device import CORES, OMP_THREADS, usable_cores

_EVERY_S = 1.0
_BUSY = 0.4
"""Share of a core from which it counts as taken: a program that shares a core with one of our threads gets half of it."""


class AdaptedThreads:
    """Sets the number of torch's threads to the cores that other programs leave.

    Does nothing if the user or a parent process has set the number (`--threads`, OMP_NUM_THREADS), or there is one core only.

    Args:
        report: Receives a line at the first change.

    Attributes:
        fewest: Fewest threads so far.
    """

    def __init__(self, report: Callable[[str], None] = lambda _: None) -> None:
        self.report, self.cores = report, usable_cores()
        self.fewest = self.cores
        self._probe: Callable[[], tuple[float, float, int]] | None = None
        if self.cores > 1 and not any(os.environ.get(name) for name in (CORES, OMP_THREADS)):
            self._probe = _probe()
        self._previous = self._probe() if self._probe else (0.0, 0.0, 0)
        self._since = time.monotonic()

    def adapt(self) -> None:
        """Measure the load of other programs since the last measurement, at most once a second, and set the threads."""
        now = time.monotonic()
        if self._probe is None or now - self._since < _EVERY_S:
            return
        import torch

        busy, own, cpus = self._probe()
        others = (busy - self._previous[0] - (own - self._previous[1])) / (now - self._since)
        self._previous, self._since = (busy, own, cpus), now
        threads = free_threads(others, cpus, self.cores)
        if threads == torch.get_num_threads():
            return
        torch.set_num_threads(threads)
        is_first = threads < self.fewest == self.cores
        self.fewest = min(self.fewest, threads)
        if is_first:
            self.report(
                f"other programs use {others:.1f} of {cpus} cores: computing with {threads} of {self.cores} threads while they do; "
                f"--threads {self.cores} keeps all"
            )

    def close(self) -> None:
        """Use all threads again."""
        if self._probe is not None:
            import torch

            torch.set_num_threads(self.cores)


def free_threads(others: float, cpus: int, cores: int) -> int:
    """Return the threads for a machine of `cpus` cores of which other programs use `others`, and this one may use `cores`."""
    return max(1, min(cores, math.floor(cpus - others + _BUSY)))


def _probe() -> Callable[[], tuple[float, float, int]] | None:
    """Return a function that reads the CPU seconds of all programs and of this one, and the number of cores; None if it cannot.

    Programs of low priority (`nice`) do not count, as they leave a core to others.
    """
    process = psutil.Process()
    is_nice = hasattr(os, "nice") and os.nice(0) > 0

    def probe() -> tuple[float, float, int]:
        allowed = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
        cpus = [each for cpu, each in enumerate(psutil.cpu_times(percpu=True)) if allowed is None or cpu in allowed]
        busy = sum(each.user + each.system + (getattr(each, "nice", 0.0) if is_nice else 0.0) for each in cpus)
        own = process.cpu_times()
        return busy, own.user + own.system, len(cpus)

    try:
        probe()
    except (OSError, NotImplementedError, psutil.Error):
        return None
    return probe
