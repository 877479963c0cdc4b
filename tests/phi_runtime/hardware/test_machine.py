"""Memory of the machine and of a container, GPUs from their driver, and number types."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from phi_runtime.hardware import machine
from phi_runtime.hardware.device import has_nvidia_gpu


def test_free_memory_is_no_more_than_there_is() -> None:
    assert 0 < machine.available_bytes() <= machine.memory_bytes()


@pytest.mark.parametrize(("version", "files"), list(enumerate(machine._LIMIT_FILES)))
def test_a_container_has_the_memory_that_it_is_allowed(
    version: int, files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    for file, text in zip(files, ("2000000\n", "1500000\n", "anon 1\ninactive_file 300000\n"), strict=True):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    assert (machine.memory_bytes(), machine.available_bytes()) == (2_000_000, 800_000)
    (tmp_path / files[0]).write_text("max\n" if version == 0 else "9223372036854771712\n")
    assert machine.memory_bytes() > 2_000_000


def test_bfloat16_is_known_without_torch_as_torch_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from phi_runtime.hardware.device import has_bfloat16

    for chosen in ("0", "1"):
        monkeypatch.setenv("PHI_SCAFFOLD_BFLOAT16", chosen)
        assert machine.has_bfloat16("cpu") is has_bfloat16("cpu") is (chosen == "1")
    monkeypatch.delenv("PHI_SCAFFOLD_BFLOAT16")
    assert machine.has_bfloat16("cpu") in (None, has_bfloat16("cpu"))


def driver(*cards: tuple[str, int, int, tuple[int, int]], version: str = "580.65.06") -> ModuleType:
    """A stand-in for nvidia-ml-py, with its functions and their types."""
    nvml = ModuleType("pynvml")
    nvml.NVMLError = type("NVMLError", (Exception,), {})  # type: ignore[attr-defined]
    functions: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: version,
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": lambda index: cards[index],
        "nvmlDeviceGetHandleByUUID": lambda uuid: cards[int(uuid.decode().removeprefix("GPU-"))],
        "nvmlDeviceGetName": lambda card: card[0],
        "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(total=card[1], free=card[2]),
        "nvmlDeviceGetCudaComputeCapability": lambda card: card[3],
    }
    for name, function in functions.items():
        setattr(nvml, name, function)
    return nvml


H200, OLD = ("NVIDIA H200", 143771 << 20, 143000 << 20, (9, 0)), ("Tesla T4", 15360 << 20, 15000 << 20, (7, 5))


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["NVIDIA H200", "Tesla T4"]),
        ("1,0", ["Tesla T4", "NVIDIA H200"]),
        ("GPU-1", ["Tesla T4"]),
        ("", []),
        ("7", []),
        ("1, 7, 0", ["Tesla T4"]),  # CUDA ignores all after an entry that names no GPU
    ],
)
def test_cards_are_read_from_their_driver_in_the_order_in_which_cuda_counts_them(
    visible: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(H200, OLD))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card.name for card in machine.gpus()] == names


def test_a_card_has_its_memory_and_bfloat16_from_version_8_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", driver(H200))
    assert machine.gpus() == (machine.Gpu("NVIDIA H200", 143771 << 20, 143000 << 20, 9.0),)
    assert machine.has_bfloat16("gpu") is True
    monkeypatch.setitem(sys.modules, "pynvml", driver(OLD))
    assert machine.has_bfloat16("gpu") is False


def test_without_a_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert machine.gpus() == ()
    assert machine.has_bfloat16("gpu") is None


@pytest.mark.parametrize(("visible", "found"), [(None, True), ("0", True), ("", False), ("-1", False)])
def test_a_hidden_gpu_is_none(monkeypatch: pytest.MonkeyPatch, visible: str | None, found: bool) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert has_nvidia_gpu() is found
