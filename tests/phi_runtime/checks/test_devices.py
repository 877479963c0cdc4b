"""A pass declares the devices that it runs on; `validate` compares them with `host`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.passes.lora import LoRA
from tests.phi_runtime.config.test_refused import refused


def test_a_pass_that_needs_a_gpu_is_refused_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoRA, "devices", ("gpu",))
    findings = refused(tmp_path, dict.copy)[0]
    assert [(f.rule, f.key) for f in findings if f.severity == "error"] == [("device", "passes.lora.type")]


@pytest.mark.parametrize("gpu", [True, False])
def test_a_host_with_a_gpu_is_reported_on_a_machine_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr("phi_runtime.checks.cross_check.has_gpu", lambda: gpu)

    def on_a_gpu(config: dict[str, Any]) -> None:
        accelerator = {"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}
        config["systems"]["local"]["accelerators"] = [accelerator]

    found = [f for f in refused(tmp_path, on_a_gpu)[0] if f.rule == "no-gpu"]
    assert [(f.severity, f.key) for f in found] == ([] if gpu else [("warning", "systems.local.accelerators.0.device")])
    assert all("--on local" in f.fix for f in found)
