"""Translations that change the result of an older config are marked; older forms that keep it are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.dialects.migrate import migrate
from phi_runtime.pipeline.load import check_file
from tests.phi_runtime.config.test_refused import refused

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


@pytest.mark.parametrize(("value", "changes_result"), [("checkpoints/old", True), (False, False), (None, False)])
def test_a_checkpoint_of_another_run_is_not_ignored_in_silence(
    tmp_path: Path, value: object, changes_result: bool
) -> None:
    def change(config: dict[str, Any]) -> None:
        config["passes"]["lora"].setdefault("training_args", {})["resume_from_checkpoint"] = value

    (found,) = refused(tmp_path, change)[0]
    assert (found.rule, found.changes_result) == ("ignored", changes_result)
