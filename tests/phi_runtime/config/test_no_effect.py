"""Keys that have no effect here are named once per file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.dialects.json_schema import schema_of
from phi_runtime.pipeline.load import check_file
from tests.phi_runtime.config.test_load import CONFIG, write

write = write  # the fixture


def no_effect(path: Path) -> list[Finding]:
    return [f for f in check_file(path).findings if f.rule == "no-effect"]


def test_all_of_them_are_one_warning_at_the_first(write: Callable[[dict[str, Any]], Path]) -> None:
    config = copy.deepcopy(CONFIG)
    config["data_configs"][0]["pre_process_data_config"]["pad_to_max_len"] = False
    config.update(log_to_file=True, cache_dir="cache", clean_cache=False)  # the last two are the defaults
    (finding,) = no_effect(write(config))
    assert (finding.severity, finding.rule) == ("warning", "no-effect")
    assert finding.key == "data_configs.0.pre_process_data_config.pad_to_max_len"
    assert finding.message.endswith(f": `{finding.key}`, `log_to_file`")


def test_keys_of_older_forms_are_named_as_they_are_written(write: Callable[[dict[str, Any]], Path]) -> None:
    config = copy.deepcopy(CONFIG)
    config["engine"] = {"log_severity_level": 0}
    assert [f.key for f in no_effect(write(config))] == ["engine.log_severity_level"]


def test_defaults_and_keys_that_are_not_set_are_not_reported(write: Callable[[dict[str, Any]], Path]) -> None:
    assert no_effect(write(CONFIG)) == []


def test_the_json_schema_marks_them() -> None:
    properties = schema_of("workflow")["properties"]
    assert [key for key, field in properties.items() if field.get("noEffect")] == [
        "cache_dir",
        "output_dir",
        "log_severity_level",
        "ort_log_severity_level",
        "ort_py_log_severity_level",
        "log_to_file",
        "clean_cache",
        "workflow_id",
        "evaluate_input_model",
    ]
