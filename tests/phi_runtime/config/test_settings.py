"""`--set KEY=VALUE`: typed by the schema, checked, and located as the option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import parse_config
from phi_runtime.config.reading.source import read_source
from phi_runtime.core.errors import UsageError
from tests.phi_runtime.config.test_load import CONFIG

ARGUMENTS = "passes.lora.training_args"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "olive-config.json"
    path.write_text(json.dumps(CONFIG, indent=2))
    return path


def errors(path: Path, **settings: str) -> list[Finding]:
    return parse_config(read_source(path), Overrides(settings=settings)).errors


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        (f"{ARGUMENTS}.max_steps", "100", 100),
        (f"{ARGUMENTS}.learning_rate", "1e-4", 1e-4),
        (f"{ARGUMENTS}.gradient_checkpointing", "true", True),
        (f"{ARGUMENTS}.gradient_checkpointing", "False", False),
        (f"{ARGUMENTS}.eval_strategy", "no", "no"),
        (f"{ARGUMENTS}.eval_steps", "null", None),
        ("passes.lora.target_modules", '["q_proj", "v_proj"]', ["q_proj", "v_proj"]),
        ("passes.lora.target_modules", "[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("passes.build.extra_options", '{"prune_lm_head": true}', {"prune_lm_head": True}),
        ("passes.build.extra_options.prune_lm_head", "true", True),
        ("input_model.model_path", "microsoft/phi-2", "microsoft/phi-2"),
        ("data_configs.train.load_dataset_config.split", "train[:90%]", "train[:90%]"),
        ("data_configs.train.pre_process_data_config.text_template", "{q} # {a}", "{q} # {a}"),
        ("data_configs.train.pre_process_data_config.text_template", "{q}: {a}", "{q}: {a}"),
        ("data_configs.train.pre_process_data_config.text_template", "{q}", "{q}"),
        ("systems.local.accelerators.0.device", "gpu", "gpu"),
        ("workflow_id", "2024", "2024"),
    ],
)
def test_text_becomes_the_value_that_the_schema_accepts(path: Path, key: str, text: str, value: object) -> None:
    parsed = parse_config(read_source(path), Overrides(settings={key: text}))
    actual: Any = parsed.value
    for name in key.replace("data_configs.train", "data_configs.0").split("."):
        actual = actual[int(name) if isinstance(actual, list) else name]
    assert actual == value
    assert type(actual) is type(value)
    assert parsed.errors == []


@pytest.mark.parametrize(
    ("key", "text", "rule", "suggestion"),
    [
        (f"{ARGUMENTS}.max_stepps", "100", "unknown-key", "max_steps"),
        ("passes.lora.training_arg.max_steps", "100", "unknown-key", "training_args"),
        ("passe.lora.r", "4", "unknown-key", "passes"),
        (f"{ARGUMENTS}.max_steps", "many", "wrong-type", ""),
        (f"{ARGUMENTS}.learning_rate", "-1", "out-of-range", ""),
        ("passes.build.precision", "int44", "unknown-value", "int4"),
    ],
)
def test_an_error_is_located_at_the_option(path: Path, key: str, text: str, rule: str, suggestion: str) -> None:
    [error] = errors(path, **{key: text})
    assert (error.rule, error.suggestion) == (rule, suggestion)
    assert str(error.where) == f"--set {key}={text}"


@pytest.mark.parametrize(
    ("key", "meant"),
    [("passes.lorra.r", "lora"), ("data_configs.trian.name", "train"), ("passes.lora.r.x", ""), ("host.x", "")],
)
def test_a_path_through_something_that_does_not_exist_is_refused(path: Path, key: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean `{meant}`" if meant else "has no settings"):
        errors(path, **{key: "1"})


def test_an_error_next_to_the_option_keeps_its_place_in_the_file(path: Path) -> None:
    config = json.loads(path.read_text())
    config["passes"]["lora"]["alhpa"] = 1
    path.write_text(json.dumps(config, indent=2))
    [error] = errors(path, **{"passes.lora.r": "4"})
    assert (error.where.path, error.key) == (path, "passes.lora.alhpa")


def test_a_setting_reaches_a_key_that_the_file_writes_in_an_older_form(path: Path) -> None:
    config = json.loads(path.read_text())
    config["passes"]["lora"] = {"type": "LoRA", "config": {"lora_r": 8, "train_data_config": "train"}}
    path.write_text(json.dumps(config))
    parsed = parse_config(read_source(path), Overrides(settings={"passes.lora.r": "4"}))
    assert parsed.errors == []
    assert parsed.value["passes"]["lora"]["r"] == 4


@pytest.mark.parametrize(
    ("key", "text", "current", "value"),
    [
        ("passes.lora.lora_r", "4", "r", 4),
        ("passes.lora.config.lora_alpha", "4", "alpha", 4),
        (f"{ARGUMENTS}.evaluation_strategy", "no", "training_args.eval_strategy", "no"),
    ],
)
def test_an_older_key_of_a_pass_sets_the_current_one(
    path: Path, key: str, text: str, current: str, value: object
) -> None:
    parsed = parse_config(read_source(path), Overrides(settings={key: text}))
    assert parsed.errors == []
    actual: Any = parsed.value["passes"]["lora"]
    for name in current.split("."):
        actual = actual[name]
    assert actual == value
    [error] = errors(path, **{"passes.lora.lora_r": "-4"})
    assert (error.rule, str(error.where)) == ("unknown-key", "--set passes.lora.lora_r=-4")


def test_the_values_of_a_trial_replace_a_setting(path: Path) -> None:
    parsed = parse_config(read_source(path), Overrides(settings={"passes.lora.r": "4"}, values={"passes.lora.r": 2}))
    assert parsed.value["passes"]["lora"]["r"] == 2
