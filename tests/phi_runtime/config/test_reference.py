"""docs/config.md is the reference of every key."""

from __future__ import annotations

from pathlib import Path

from phi_runtime.config.reference import reference
from phi_runtime.config.schema import LoadKwargs, TrainingArgs

DOCS = Path(__file__).resolve().parents[3] / "docs" / "config.md"


def test_the_docs_carry_the_reference() -> None:
    command = "python -m phi_runtime.config.reference > docs/config.md"
    assert DOCS.read_text(encoding="utf-8") == reference(), f"run {command}"


def test_every_key_has_a_row_with_a_default_and_a_description() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert all(row.rstrip(" |").count(" | ") >= 3 for row in rows)
    assert any(row.startswith("| `learning_rate` | number | `0.0002` | Peak learning rate") for row in rows)
    assert any(row.startswith("| `device_map` (no effect)") for row in rows)
    for model in (TrainingArgs, LoadKwargs):
        assert all(any(row.startswith(f"| `{key}`") for row in rows) for key in model.model_fields)
