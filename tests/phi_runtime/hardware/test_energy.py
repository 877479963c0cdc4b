"""Energy of counters: files as sysfs has them, and a stand-in for the driver of the GPUs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from phi_runtime.core.units import energy
from phi_runtime.hardware.energy import EnergyMeter, PackageCounter, package_folders
from tests.phi_runtime.hardware.test_machine import H200, OLD, driver

LARGEST_UJ = 262_143_328_850


def domain(powercap: Path, folder: str, name: str, energy_uj: int, largest_uj: int = LARGEST_UJ) -> Path:
    path = powercap / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{largest_uj}\n")
    count(path, energy_uj)
    return path


def count(path: Path, energy_uj: int) -> None:
    """Set a counter in one step, as the kernel does."""
    (path / "next").write_text(f"{energy_uj}\n")
    (path / "next").replace(path / "energy_uj")


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Counters of two packages, with the domains that are parts of them or of which they are parts; no GPU."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    domain(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    domain(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    domain(tmp_path, "intel-rapl:1", "package-1-die-0", 7_000_000)
    domain(tmp_path, "intel-rapl:2", "psys", 30_000_000)
    domain(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    (tmp_path / "intel-rapl").mkdir()
    return tmp_path


def test_the_energy_is_that_of_all_packages_and_of_no_part_twice(powercap: Path) -> None:
    assert [folder.name for folder in package_folders(powercap)] == ["intel-rapl:0", "intel-rapl:1"]
    with EnergyMeter(powercap) as meter:
        for folder in powercap.glob("*/name"):
            path = folder.parent
            count(path, int((path / "energy_uj").read_text()) + 2_250_000)
    assert meter.figures() == {"cpu_energy_j": 4.5, "gpu_energy_j": None}


def test_a_counter_that_starts_again_at_0_goes_on(powercap: Path) -> None:
    path = domain(powercap, "intel-rapl:3", "package-2", LARGEST_UJ - 1_000_000)
    counter = PackageCounter(path)
    count(path, 500_000)
    assert counter.read() == 1_500_000
    for energy_uj in (LARGEST_UJ - 1, 3):  # and again
        count(path, energy_uj)
        total = counter.read()
    assert total == 1_500_000 + LARGEST_UJ - 500_000 + 3
    (path / "max_energy_range_uj").unlink()
    count(path, 1)
    assert counter.read() is None


def test_a_long_stage_is_read_often_enough_to_see_each_start_at_0(powercap: Path) -> None:
    path, other = powercap / "intel-rapl:0", powercap / "intel-rapl:1"
    (path / "max_energy_range_uj").write_text("6000000")
    with EnergyMeter(powercap, read_every_s=0.005) as meter:
        for energy_uj in (5_900_000, 4_000_000, 5_950_000, 4_500_000):
            count(path, energy_uj)
            time.sleep(0.3)
        count(other, 7_500_000)
    assert meter.cpu_j == pytest.approx(0.9 + 4.1 + 1.95 + 4.55 + 0.5)


@pytest.mark.parametrize("unreadable", ["energy_uj", "name"])
def test_what_cannot_be_read_is_not_measured(powercap: Path, unreadable: str) -> None:
    for folder in package_folders(powercap):
        (folder / unreadable).unlink()
        (folder / unreadable).mkdir()  # an OSError, which root gets, too
        if unreadable == "energy_uj":
            break  # the other package alone is not the machine
    with EnergyMeter(powercap) as meter:
        pass
    assert meter.figures() == {"cpu_energy_j": None, "gpu_energy_j": None}


def test_a_counter_that_becomes_unreadable_leaves_no_sum(powercap: Path) -> None:
    counter = PackageCounter(powercap / "intel-rapl:0")
    (powercap / "intel-rapl:0" / "energy_uj").rename(powercap / "kept")
    assert counter.read() is None
    (powercap / "kept").rename(powercap / "intel-rapl:0" / "energy_uj")
    assert [counter.read(), counter.read()] == [None, None]


def test_a_machine_without_counters_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with EnergyMeter(tmp_path / "none") as meter:
        pass
    assert meter.figures() == {"cpu_energy_j": None, "gpu_energy_j": None}


def test_the_meter_ends_with_a_stage_that_fails(powercap: Path) -> None:
    meter = EnergyMeter(powercap)
    with pytest.raises(ValueError, match="stage"), meter:
        raise ValueError("stage")
    assert meter._reader is not None
    assert not meter._reader.is_alive()


def test_the_energy_of_the_gpus_is_that_of_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml, counters = driver(H200, OLD), {H200: 9_000_000_000, OLD: 1_000}
    nvml.nvmlDeviceGetTotalEnergyConsumption = counters.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with EnergyMeter(tmp_path) as meter:
        counters[H200] += 700_000
        counters[OLD] += 50_000
    assert meter.figures() == {"cpu_energy_j": None, "gpu_energy_j": 750.0}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with EnergyMeter(tmp_path) as meter:
        counters[H200] += 700_000
    assert meter.gpu_j == 0

    def not_supported(_: object) -> int:
        raise nvml.NVMLError

    nvml.nvmlDeviceGetTotalEnergyConsumption = not_supported  # type: ignore[attr-defined]
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.gpu_j is None


def test_energy_is_shown_in_watt_hours() -> None:
    assert energy({"cpu_energy_j": None}) == ""
    assert energy({"cpu_energy_j": 4_500.0}) == "CPU 1.25 Wh"
    assert energy({"cpu_energy_j": 90.0, "gpu_energy_j": 5_400_000.0}) == "CPU 0.03 Wh, GPU 1.50 kWh"
    assert energy({"cpu_energy_j": None, "gpu_energy_j": 111_600.0}) == "GPU 31.0 Wh"
