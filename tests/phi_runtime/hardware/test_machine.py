"""What the machine says of its memory, and what a container says over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi_runtime.hardware import machine


def test_free_memory_is_no_more_than_there_is() -> None:
    assert 0 < machine.available_bytes() <= machine.memory_bytes()


@pytest.mark.parametrize(("version", "files"), list(enumerate(machine._LIMITS)))
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


def test_bfloat16_is_known_without_torch_as_torch_finds_it() -> None:
    from phi_runtime.hardware.device import has_bfloat16

    assert machine.has_bfloat16("cpu") in (None, has_bfloat16("cpu"))


def test_cards_are_read_from_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771, 143000, 9.0'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.gpus() == (machine.Gpu("NVIDIA H200", 143771 << 20, 143000 << 20, 9.0),)
    assert machine.has_bfloat16("gpu") is True
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.gpus() == ()
    assert machine.has_bfloat16("gpu") is None
