"""What `validate` says of passes that name the adapters they take, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.diagnostics import Finding
from tests.phi_runtime.config.test_refused import refused

Passes = dict[str, dict[str, Any]]
TRAIN: dict[str, Any] = {"train_data_config": "train"}
LORA: dict[str, Any] = {"type": "LoRA", **TRAIN}
MERGE: dict[str, Any] = {"type": "MergeAdapterWeights"}
PLAIN: dict[str, Any] = {"type": "ModelBuilder", "precision": "int4"}


def build(*adapters: str, **options: Any) -> dict[str, Any]:
    return {"type": "ModelBuilder", "precision": "int4", "adapters": list(adapters), **options}


def merge(*adapters: str) -> dict[str, Any]:
    return {**MERGE, "adapters": list(adapters)}


def findings_on(folder: Path, passes: Passes, provider: str = "CPUExecutionProvider") -> list[Finding]:
    def change(config: dict[str, Any]) -> None:
        config["passes"] = passes
        if provider != "CPUExecutionProvider":
            config["systems"]["local"]["accelerators"] = [{"device": "gpu", "execution_providers": [provider]}]

    return refused(folder, change)[0]


@pytest.mark.parametrize(
    "passes",
    [
        {"tone": LORA, "style": {**LORA, "type": "QLoRA"}, "build": build("tone", "style")},
        {"tone": LORA, "style": LORA, "build": build("style")},
        {"tone": LORA, "style": LORA, "both": merge("tone", "style"), "build": PLAIN},
        {"tone": LORA, "style": LORA, "apart": build("tone", "style"), "merge": MERGE, "one": PLAIN},
        {"tone": LORA, "merge": MERGE, "style": LORA, "build": build("style")},
        {"tone": {**LORA, "type": "DoRA"}, "one": merge("tone")},
    ],
)  # fmt: skip
def test_adapters_of_one_base_are_taken_apart_together_and_merged(tmp_path: Path, passes: Passes) -> None:
    assert findings_on(tmp_path, passes) == []


@pytest.mark.parametrize(
    ("passes", "key", "rule", "said"),
    [
        (
            {"tone": LORA, "merge": merge("tones"), "build": {**PLAIN, "int4_algo_config": "gptq"}},
            "merge.adapters.0",
            "unknown-reference",
            "before this: tone",
        ),
        ({"tone": LORA, "build": build("tones")}, "build.adapters.0", "unknown-reference", "before this: tone"),
        ({"tone": LORA, "build": build("tone", "tone")}, "build.adapters.1", "duplicate-name", "named twice"),
        ({"build": build("tone"), "tone": LORA}, "build.adapters.0", "pass-order", "comes after"),
        ({"tone": LORA, "merge": MERGE, "build": build("merge")}, "build.adapters.0", "pass-order", "makes no adapter"),
        ({"full": {**LORA, "type": "FullFinetune"}, "build": build("full")}, "build.adapters.0", "pass-order", "no adapter"),
        ({"tone": {**LORA, "type": "DoRA"}, "build": build("tone")}, "build.adapters.0", "adapter", "merge it instead"),
        ({"tone": {**LORA, "type": "LoHa"}, "build": build("tone")}, "build.adapters.0", "adapter", "merge it instead"),
        ({"tone": {**LORA, "type": "IA3"}, "build": build("tone")}, "build.adapters.0", "adapter", "only LoRA and QLoRA"),
        ({"tone": {**TRAIN, "type": "PromptTuning"}, "build": build("tone")}, "build.adapters.0", "adapter", "learned tokens"),
        ({"tone": {**LORA, "modules_to_save": ["norm"]}, "build": build("tone")}, "build.adapters.0", "adapter", "norm fully"),
        ({"tone": {**LORA, "target_modules": ["lm_head"]}, "build": build("tone")}, "build.adapters.0", "adapter", "lm_head"),
        ({"tone": LORA, "m": MERGE, "style": LORA, "build": build("tone", "style")}, "build.adapters.1", "contradiction", "share"),
        ({"tone": LORA, "build": build("tone", enable_cuda_graph=True)}, "build.adapters", "contradiction", "ranks differ"),
        ({"tone": LORA, "m": merge("tone", "stile"), "style": LORA}, "m.adapters.1", "unknown-reference", "no pass `stile`"),
        ({"tone": LORA, "s": {**LORA, "type": "DoRA"}, "m": merge("tone", "s")}, "m.adapters.1", "adapter", "merge it alone"),
        ({"tone": LORA, "s": {**LORA, "modules_to_save": ["norm"]}, "m": merge("tone", "s")}, "m.adapters.1", "adapter", "alone"),
        ({"tone": {**TRAIN, "type": "PromptTuning"}, "m": merge("tone")}, "m.adapters.0", "pass-order", "chat --model adapter"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_where_it_is_named(
    tmp_path: Path, passes: Passes, key: str, rule: str, said: str
) -> None:
    provider = "CUDAExecutionProvider" if "enable_cuda_graph" in str(passes) else "CPUExecutionProvider"
    found = [f for f in findings_on(tmp_path, passes, provider) if f.severity == "error"]
    assert [(f.key, f.rule) for f in found] == [(f"passes.{key}", rule)]
    assert said in found[0].message


def test_directml_has_no_adapters_beside_a_model(tmp_path: Path) -> None:
    found = findings_on(tmp_path, {"tone": LORA, "build": build("tone")}, "DmlExecutionProvider")
    assert [(f.key, f.rule) for f in found if f.severity == "error"] == [("passes.build.adapters", "adapter")]


def test_a_name_that_is_nearly_right_is_suggested(tmp_path: Path) -> None:
    found = findings_on(tmp_path, {"tone": LORA, "build": build("ton")})
    assert found[0].suggestion == "tone"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("adapter_type", "dora", "only LoRA"),
        ("make_inputs", False, "inputs of the graph"),
        ("dynamic_lora_r", False, "any rank"),
        ("optional_inputs", False, "computes the base model"),
        ("save_format", "safetensors", ".onnx_adapter"),
        ("make_input", True, "unknown key"),
    ],
)
def test_an_extraction_that_means_something_else_is_refused(tmp_path: Path, option: str, value: Any, said: str) -> None:
    passes = {
        "tone": LORA,
        "build": {"type": "ModelBuilder", "precision": "int4"},
        "extract": {"type": "ExtractAdapters", option: value},
    }
    found = [f for f in findings_on(tmp_path, passes) if f.severity == "error"]
    assert [f.key for f in found] == [f"passes.extract.{option}"]
    assert said in found[0].message
