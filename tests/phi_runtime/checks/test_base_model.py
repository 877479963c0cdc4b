"""`validate` refuses a base model that no run could find, and accepts what `fetch` downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.schema import InputModel
from phi_runtime.core.project import project_of
from phi_runtime.models.place import download_id
from tests.phi_runtime.config.test_refused import refused


def errors_on(tmp_path: Path, written: str) -> list[Finding]:
    def change(config: dict[str, Any]) -> None:
        config["input_model"]["model_path"] = written

    return [f for f in refused(tmp_path, change)[0] if f.severity == "error"]


@pytest.mark.parametrize(
    ("written", "rule", "suggestion"),
    [
        ("models/mine/v1", "model-not-found", ""),
        ("../model-cache/smollm2-153m", "model-not-found", "smollm2-135m"),
        ("Phi-3-mini-4k-instuct", "model-not-found", "microsoft/Phi-3-mini-4k-instruct"),
        ("C:\\models\\phi-2b", "model-not-found", "microsoft/phi-2"),
        ("microsoft/phi-2/main", "model-not-found", ""),
        ("<model-download-location>", "placeholder", ""),
    ],
)
def test_a_model_that_cannot_be_found_is_an_error(tmp_path: Path, written: str, rule: str, suggestion: str) -> None:
    found = errors_on(tmp_path, written)
    assert [(f.rule, f.key, f.suggestion) for f in found] == [(rule, "input_model.model_path", suggestion)]


LONG_NAMES = [
    "a" * 5000,
    "org/" + "x" * 5000,
    "../model-cache/" + "a" * 5000,
    "model-cache/" + "a/" * 3000,
    "ä/" * 5000,
]


@pytest.mark.parametrize("written", [*LONG_NAMES, "a\0b", "../model-cache/a\0b"], ids=lambda text: repr(text[:16]))
@pytest.mark.parametrize("key", ["model_path", "adapter_path"])
def test_a_text_that_can_be_no_path_is_an_error_at_its_place(tmp_path: Path, key: str, written: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["input_model"][key] = written

    found = [f for f in refused(tmp_path, change)[0] if f.severity == "error"]
    rule = "model-not-found" if key == "model_path" else "file-not-found"
    assert [(f.key, f.rule) for f in found] == [(f"input_model.{key}", rule)]
    assert len(found[0].message) < 2000


def test_a_folder_needs_a_config_of_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "model"
    folder.mkdir(parents=True)
    assert [f.rule for f in errors_on(folder.parent, str(folder))] == ["model-not-found"]
    (folder / "config.json").write_text("{}")
    (tmp_path / "b").mkdir()
    assert errors_on(tmp_path / "b", str(folder)) == []


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ("microsoft/phi-2", "microsoft/phi-2"),
        ("acme/tiny-lm", "acme/tiny-lm"),
        ("phi-2", "microsoft/phi-2"),
        ("smollm2-135m", "smollm2-135m"),
        ("../model-cache/smollm2-135m", "smollm2-135m"),
        ("../model-cache/PHI-2", "microsoft/phi-2"),
        ("model-cache/acme/tiny-lm", "acme/tiny-lm"),
        ("..\\model-cache\\acme\\tiny-lm", "acme/tiny-lm"),
    ],
)
def test_an_id_of_the_hub_or_the_catalog_is_downloaded(tmp_path: Path, written: str, source: str) -> None:
    assert errors_on(tmp_path, written) == []
    model = InputModel(type="HfModel", model_path=written)
    assert download_id(model, project_of(tmp_path / "fine-tuning" / "olive-config.json")) == source
