"""A pass declares the devices that it runs on; `validate` compares them with `host`."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi_runtime.passes.lora import LoRA
from tests.phi_runtime.config.test_refused import refused


def test_a_pass_that_needs_a_gpu_is_refused_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoRA, "devices", ("gpu",))
    findings = refused(tmp_path, dict.copy)[0]
    assert [(f.rule, f.key) for f in findings if f.severity == "error"] == [("device", "passes.lora.type")]
