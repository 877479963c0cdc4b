"""Energy of a part of a run: counters of the processors (RAPL of Linux) and of the NVIDIA GPUs (NVML).

They count what the machine uses, with all programs that run on it. What cannot be read is not estimated: most systems let only root
read RAPL, and virtual machines have none.
"""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from phi_runtime.hardware.machine import of_gpus

POWERCAP = Path("/sys/class/powercap")
_READ_EVERY_S = 30.0
"""A counter starts again at 0 after 65 kJ or more, which a processor of 400 W uses in less than three minutes."""


class EnergyMeter:
    """Measure the energy between entering and leaving a `with` block.

    Attributes:
        cpu_j: Of all processor packages, in joules; None if it is not measured.
        gpu_j: Of all GPUs that this process may use, in joules; None if it is not measured.
    """

    cpu_j: float | None = None
    gpu_j: float | None = None

    def __init__(self, powercap: Path | None = None, read_every_s: float = _READ_EVERY_S) -> None:
        self._powercap, self._read_every_s = powercap or POWERCAP, read_every_s

    def __enter__(self) -> Self:
        self._packages = [PackageCounter(folder) for folder in package_folders(self._powercap)]
        self._gpus_mj = _gpus_mj()
        self._end = Event()
        self._reader = Thread(target=self._read, daemon=True) if self._packages else None
        if self._reader:
            self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._reader:
            self._reader.join()
            used = [package.read() for package in self._packages]
            self.cpu_j = None if None in used else sum(uj or 0 for uj in used) / 1e6
        gpus_mj = _gpus_mj()
        if self._gpus_mj is not None and gpus_mj is not None:
            self.gpu_j = (gpus_mj - self._gpus_mj) / 1e3

    def _read(self) -> None:
        while not self._end.wait(self._read_every_s):
            for package in self._packages:
                package.read()

    def figures(self) -> dict[str, float | None]:
        """Return the energy as it is recorded, in joules."""
        figures = {"cpu_energy_j": self.cpu_j, "gpu_energy_j": self.gpu_j}
        return {name: None if joules is None else round(joules, 1) for name, joules in figures.items()}


class PackageCounter:
    """The counter of a processor package, which starts again at 0 after its largest value."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._total_uj: int | None = 0
        self._last_uj = self._value("energy_uj")

    def read(self) -> int | None:
        """Return the microjoules since the start; None once the counter could not be read.

        It must be called at least once in the time in which the counter starts again at 0.
        """
        now_uj, last_uj = self._value("energy_uj"), self._last_uj
        used_uj = None if now_uj is None or last_uj is None else now_uj - last_uj
        if used_uj is not None and used_uj < 0:
            largest_uj = self._value("max_energy_range_uj")
            used_uj = None if largest_uj is None else used_uj + largest_uj
        self._total_uj = None if used_uj is None or self._total_uj is None else self._total_uj + used_uj
        self._last_uj = now_uj
        return self._total_uj

    def _value(self, name: str) -> int | None:
        try:
            return int((self._folder / name).read_text())
        except (OSError, ValueError):
            return None


def package_folders(powercap: Path) -> list[Path]:
    """Return the folders of the processor packages.

    Other domains are not counted: those of a package are parts of it, and `psys` has the packages as parts.
    """
    return [folder for folder in sorted(powercap.glob("intel-rapl:*")) if _name(folder).startswith("package")]


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text()
    except (OSError, ValueError):
        return ""


def _gpus_mj() -> int | None:
    """Return the millijoules of the GPUs since their driver was loaded; None without a GPU that counts them."""
    return sum(of_gpus(lambda nvml, gpu: int(nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)))) or None
