"""Base models that the builder cannot map, or whose weights are quantized already, are found before anything is trained."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import ConfigError
from phi_runtime.core.project import project_of
from phi_runtime.models.builder_source import builder_folder
from phi_runtime.models.exportable import (
    ACTIVATIONS,
    OWN_ROPE_TYPES,
    ROPE_TYPES,
    check_base_model,
    why_not_exportable,
    why_not_loadable,
)
from phi_runtime.pipeline.load import load_workflow
from tests.phi_runtime.config.test_refused import refused


def model(architecture: str, **config: Any) -> dict[str, Any]:
    return {"architectures": [f"{architecture}ForCausalLM"], **config}


def phi3(length: int | None, original: int | None, **rope: Any) -> dict[str, Any]:
    lengths = {"max_position_embeddings": length, "original_max_position_embeddings": original}
    return model("Phi3", **{key: value for key, value in lengths.items() if value}, rope_parameters=rope)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (model("Bert"), "BertForCausalLM"),
        (model("Llama", hidden_act="mish"), "`mish`"),
        (phi3(128, None), "LongRoPE"),  # KeyError 'multi_cache'
        (phi3(131072, 4096, rope_type="default"), "LongRoPE"),
        (phi3(131072, 4096, rope_type="longrope"), "type of the rotary embeddings"),  # KeyError 'type'
        (phi3(4096, 4096, type="longrope"), "`longrope`"),
        (model("Qwen2", rope_scaling={"type": "dynamic", "factor": 2.0}), "`dynamic`"),
        (model("Llama", rope_parameters={"rope_type": "linear", "factor": 2.0}), "`linear`"),
    ],
)
def test_a_model_that_the_builder_cannot_map_is_refused(config: dict[str, Any], says: str) -> None:
    assert says in "; ".join(why_not_exportable(config) or ())


@pytest.mark.parametrize(
    "config",
    [
        {},
        model("Llama", hidden_act="silu", rope_scaling=None),
        model("Llama", rope_scaling={"rope_type": "llama3", "factor": 8.0}),
        model("Qwen3", rope_parameters={"rope_type": "yarn", "factor": 4.0}),
        model("Gemma2", hidden_act="silly", hidden_activation="gelu_pytorch_tanh"),
        model("Olmo", rope_parameters={"full_attention": {"rope_type": "default"}}),
        phi3(4096, 4096),
        phi3(None, None),
        phi3(131072, 4096, type="su"),
        phi3(131072, 4096, type="longrope", rope_type="longrope"),
    ],
)
def test_a_model_that_the_builder_maps_is_accepted(config: dict[str, Any]) -> None:
    assert why_not_exportable(config) is None


def source(name: str) -> str:
    folder = builder_folder()
    assert folder is not None
    return (folder / "builders" / name).read_text(encoding="utf-8")


def rope_types(text: str) -> set[str]:
    return set(re.findall(r'config\.rope_parameters\["rope_type"\] == "(\w+)"', text))


def test_the_rope_types_are_those_of_the_installed_builder() -> None:
    assert rope_types(source("base.py")) == set(ROPE_TYPES)
    assert {"default", *rope_types(source("llama.py"))} == set(OWN_ROPE_TYPES["LlamaForCausalLM"])
    assert {"default", *rope_types(source("hunyuan.py"))} == set(OWN_ROPE_TYPES["HunYuanDenseV1ForCausalLM"])
    assert rope_types(source("phi.py")) == {"longrope"}
    folder = builder_folder()
    assert folder is not None
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (folder / "builders").glob("*.py")}
    own = {stem for stem, text in texts.items() if "def make_rope_init" in text}
    assert own == {"base", "gemma", "hunyuan", "llama", "phi"}
    derived = {stem for stem, text in texts.items() if "(LlamaModel)" in text}
    assert derived == {"nemotron", "smollm"}


def test_the_activations_are_those_of_the_installed_builder() -> None:
    sets = re.findall(r"self\.activation in (\{[^}]*\})", source("base.py"))
    assert set().union(*map(ast.literal_eval, sets)) == set(ACTIVATIONS)


def test_quantized_weights_are_refused_at_validate_and_before_training(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config = model("Llama", quantization_config={"quant_method": "awq", "bits": 4})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    found, _ = refused(tmp_path, lambda c: c["input_model"].update(model_path=str(folder)))
    assert [(f.rule, f.key) for f in found if f.severity == "error"] == [("quantized-base", "input_model.model_path")]
    assert found[0].fix

    (folder / "config.json").write_text("{}", encoding="utf-8")
    workflow = load_workflow(tmp_path / "olive-config.json")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError, match="awq, 4 bits"):
        check_base_model(workflow, project_of(tmp_path / "olive-config.json"))


def test_weights_that_are_loaded_as_floats_are_accepted() -> None:
    assert why_not_loadable({"quantization_config": {"quant_method": "mxfp4"}}) is None
    assert why_not_loadable({"quantization_config": None}) is None
