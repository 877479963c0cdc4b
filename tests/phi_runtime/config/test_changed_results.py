"""Translations that change the result of an older config are marked; respellings are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi_runtime.config.dialects.migrate import migrate
from phi_runtime.pipeline.load import check_file

CASES = Path(__file__).parent / "dialects"


@pytest.mark.parametrize(
    ("case", "keys"),
    [
        ("toolkit-local-lora.json", []),
        ("v03-hf-training-args.json", []),
        ("toolkit-chain-qlora.json", ["passes.ModelBuilder.metadata_only"]),
        ("v06-lora-straight-into-model-builder.json", ["passes.builder"]),
        ("v09-search-over-ranks.json", ["passes.lora.r", "passes.lora.alpha"]),
    ],
)
def test_a_change_of_the_result_is_marked(case: str, keys: list[str], tmp_path: Path) -> None:
    findings = check_file(CASES / case).findings
    assert [f.key for f in findings if f.changes_result] == keys
    assert [f.as_dict()["key"] for f in findings if f.as_dict()["changes_result"]] == keys
    changes = migrate(CASES / case, tmp_path / case).changes
    assert len([c for c in changes if c.as_dict()["changes_result"]]) == len(keys)
