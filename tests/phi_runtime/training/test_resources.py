"""Resource samples of a training run; a failure of the monitor never reaches the training."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from phi_runtime.training.resources import FILE, ResourceMonitor


def lines(record: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (record / FILE).read_text(encoding="utf-8").splitlines()]


def test_each_sample_is_a_line_with_the_cores_and_the_memory(tmp_path: Path) -> None:
    with ResourceMonitor(tmp_path, "finetune", every_s=0.001) as resources:
        while len(resources.latest()) == 0:
            sum(range(1000))
    found = lines(tmp_path)
    assert found[-1].keys() >= {"time", "stage", "cpu_share", "rss_bytes"}
    assert found[-1]["stage"] == "finetune"
    assert {k: found[-1][k] for k in resources.latest()} == resources.latest()
    assert all(0 <= line["cpu_share"] <= 1 for line in found)  # type: ignore[operator]
    assert resources.peaks()["rss_bytes"] == max(line["rss_bytes"] for line in found)  # type: ignore[type-var]
    mean = sum(line["cpu_share"] for line in found) / len(found)  # type: ignore[misc]
    assert resources.means() == {"cpu_share": pytest.approx(mean, abs=1e-4)}


def test_a_run_shorter_than_the_distance_of_samples_has_one(tmp_path: Path) -> None:
    with ResourceMonitor(tmp_path, every_s=3600):
        pass
    assert len(lines(tmp_path)) == 1


def test_the_thread_ends_with_the_run_also_when_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="training failed"), ResourceMonitor(tmp_path):
        raise ValueError("training failed")
    assert not [t for t in threading.enumerate() if t.name == "resources"]


def test_a_record_that_cannot_be_written_stops_only_the_writing(tmp_path: Path) -> None:
    with ResourceMonitor(tmp_path / "gone") as resources:
        pass
    assert resources.latest()["rss_bytes"] > 0


def test_without_a_record_nothing_is_written_and_the_figures_are_there() -> None:
    with ResourceMonitor(None) as resources:
        pass
    assert resources.means().keys() == {"cpu_share"}


def test_without_psutil_there_are_no_figures_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with ResourceMonitor(tmp_path) as resources:
        pass
    assert (resources.latest(), resources.means(), resources.peaks()) == ({}, {}, {})
    assert not (tmp_path / FILE).exists()


def a_card(utilization: object) -> SimpleNamespace:
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 2,
        memory_reserved=lambda device: [3_000, 0][device],
        memory_allocated=lambda device: [2_000, 0][device],
        utilization=utilization,
    )
    return SimpleNamespace(cuda=cuda)


def test_a_card_is_counted_by_what_lies_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", a_card(lambda device: [80, 0][device]))
    with ResourceMonitor(tmp_path) as resources:
        pass
    figures = resources.latest()
    assert (figures["gpu_memory_bytes"], figures["gpu_allocated_bytes"], figures["gpu_share"]) == (3_000, 2_000, 0.8)
    assert resources.means()["gpu_share"] == 0.8


def test_without_the_drivers_library_the_use_of_the_card_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_: int) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setitem(sys.modules, "torch", a_card(absent))
    with ResourceMonitor(tmp_path) as resources:
        pass
    assert "gpu_share" not in resources.latest()
    assert resources.latest()["gpu_memory_bytes"] == 3_000
