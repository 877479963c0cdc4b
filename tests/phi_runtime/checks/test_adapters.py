"""What `validate` says of adapters that cannot be, and of a base model that does not suit the data."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.diagnostics import Finding
from tests.phi_runtime.config.test_refused import refused

LONG_ROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0],
    "long_factor": [2.0],
    "original_max_position_embeddings": 256,
}
AFTER = ("MergeAdapterWeights", "ModelBuilder")


def put_model(folder: Path, **config: Any) -> None:
    """A model folder with the names of Phi-3's modules in the header of its weights, and no weights."""
    linear = [f"model.layers.0.{n}.weight" for n in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.down_proj")]
    shapes = {"model.embed_tokens.weight": [8, 8], "model.norm.weight": [8], **{name: [8, 8] for name in linear}}
    header = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    content = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "phi3", "num_hidden_layers": 2, **config}), encoding="utf-8"
    )


def findings_on(
    tmp_path: Path, passes: dict[str, Any], config: dict[str, Any] | None = None, **data: Any
) -> list[Finding]:
    """The findings on a workflow of these passes, over a base model of this config.json."""
    put_model(tmp_path / "model", **(config or {}))

    def change(workflow: dict[str, Any]) -> None:
        workflow["input_model"]["model_path"] = "model"
        workflow["data_configs"][0]["pre_process_data_config"].update(data)
        data_of = {
            name: {} if step["type"] in AFTER else {"train_data_config": "train"} for name, step in passes.items()
        }
        workflow["passes"] = {name: {**step, **data_of[name]} for name, step in passes.items()}

    return refused(tmp_path, change)[0]


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "LoHa", "LoKr", "IA3", "PEANuT", "PromptTuning"])
def test_every_kind_of_adapter_is_valid_with_nothing_but_its_data(tmp_path: Path, kind: str) -> None:
    assert findings_on(tmp_path, {"tune": {"type": kind}}) == []


@pytest.mark.parametrize("after", [{"type": "MergeAdapterWeights"}, {"type": "ModelBuilder", "precision": "int4"}])
def test_learned_tokens_cannot_be_merged_and_it_is_said_what_to_do(tmp_path: Path, after: dict[str, Any]) -> None:
    found = findings_on(tmp_path, {"tune": {"type": "PromptTuning"}, "next": after})
    assert [(f.rule, f.key) for f in found] == [("pass-order", "passes.next")]
    assert "phi-scaffold chat --model adapter" in found[0].message


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "QLoRA", "LoHa", "LoKr", "IA3", "PEANuT"])
def test_any_other_adapter_is_merged_before_it_is_exported(tmp_path: Path, kind: str) -> None:
    passes = {"tune": {"type": kind}, "build": {"type": "ModelBuilder", "precision": "int4"}}
    found = findings_on(tmp_path, passes)
    assert [f.rule for f in found if f.severity == "error"] == []
    assert any("MergeAdapterWeights" in f.message or "merged" in f.message for f in found)


@pytest.mark.parametrize(
    ("step", "key", "rule"),
    [
        ({"type": "DoRA", "target_modules": ["q_proj"]}, "target_modules.0", "target-module"),
        ({"type": "LoHa", "exclude_modules": ["v_proj"]}, "exclude_modules.0", "target-module"),
        ({"type": "IA3", "feedforward_modules": ["fc2"]}, "feedforward_modules.0", "target-module"),
        (
            {"type": "IA3", "target_modules": ["qkv_proj"], "feedforward_modules": ["down_proj"]},
            "feedforward_modules.0",
            "contradiction",
        ),
        ({"type": "PromptTuning", "prompt_tuning_init": "text"}, "prompt_tuning_init", "contradiction"),
        ({"type": "PromptTuning", "prompt_tuning_init_text": "x"}, "prompt_tuning_init_text", "contradiction"),
        ({"type": "PromptTuning", "packing": True}, "packing", "wrong-type"),
        ({"type": "LoHa", "rank_pattern": {"qkv_proj": 0}}, "rank_pattern.qkv_proj", "out-of-range"),
        ({"type": "LoKr", "layers_to_transform": [-1]}, "layers_to_transform.0", "out-of-range"),
        ({"type": "LoRA", "layers_to_transform": [1, 2]}, "layers_to_transform.1", "out-of-range"),
        ({"type": "DoRA", "layers": "upper-half", "layers_to_transform": [1]}, "layers", "contradiction"),
    ],
)
def test_what_an_adapter_cannot_be_is_an_error_where_it_stands(
    tmp_path: Path, step: dict[str, Any], key: str, rule: str
) -> None:
    found = [f for f in findings_on(tmp_path, {"tune": step}) if f.severity == "error"]
    assert [(f.key, f.rule) for f in found] == [(f"passes.tune.{key}", rule)]


@pytest.mark.parametrize(
    ("exports", "rules"),
    [
        ([{"int4_block_size": 128}], []),
        ([{"int4_algo_config": "k_quant_mixed"}], ["int4_aware"]),
        ([{"int4_algo_config": "rtn"}], ["int4_aware"]),
        ([{"int4_op_types_to_quantize": ["Gather"]}], ["int4_aware"]),
        ([{"extra_options": {"matmul_mixed_precision": "linear_attn:int8"}}], ["int4_aware"]),
        ([{"int4_accuracy_level": 1, "extra_options": {"matmul_mixed_precision": "mixed_layers:int8"}}], []),
        ([{"int4_block_size": 64}, {"int4_block_size": 128, "adapters": ["tune"]}], ["int4_aware"]),
        ([{"int4_block_size": 64}, {"precision": "int8", "int4_block_size": 128, "adapters": ["tune"]}], []),
    ],
)
@pytest.mark.parametrize("kind", ["LoRA", "QLoRA"])
def test_an_int4_aware_training_rounds_as_its_export_or_is_refused(
    tmp_path: Path, kind: str, exports: list[dict[str, Any]], rules: list[str]
) -> None:
    builders = {f"build{i}": {"type": "ModelBuilder", "precision": "int4", **step} for i, step in enumerate(exports)}
    passes = {"tune": {"type": kind, "int4_aware": True}, "merge": {"type": "MergeAdapterWeights"}, **builders}
    found = [f for f in findings_on(tmp_path, passes) if f.severity == "error"]
    assert [f.key for f in found] == [f"passes.tune.{rule}" for rule in rules]


@pytest.mark.parametrize(
    ("step", "keys"),
    [
        ({"type": "LoRA", "int4_aware": True}, ["int4_aware"]),
        (
            {"type": "QLoRA", "int4_aware": True, "quant_type": "fp4", "double_quant": True},
            ["double_quant", "quant_type"],
        ),
        ({"type": "QLoRA", "int4_aware": True, "quant_type": "nf4"}, []),
        ({"type": "QLoRA", "quant_type": "fp4"}, []),
    ],
)
def test_a_rounding_that_is_not_trained_for_is_a_warning(tmp_path: Path, step: dict[str, Any], keys: list[str]) -> None:
    precision = "int8" if step["type"] == "LoRA" else "int4"
    build = {"type": "ModelBuilder", "precision": precision}
    found = findings_on(tmp_path, {"tune": step, "merge": {"type": "MergeAdapterWeights"}, "build": build})
    assert sorted(f.key for f in found if f.rule == "no-effect") == [f"passes.tune.{key}" for key in keys]


def test_a_wrong_name_lists_those_that_the_model_has(tmp_path: Path) -> None:
    (found,) = findings_on(tmp_path, {"tune": {"type": "LoKr", "target_modules": ["qkv_prj"]}})
    assert "it has down_proj, o_proj, qkv_proj" in found.message
    assert found.suggestion == "qkv_proj"


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_an_embedding_that_is_the_output_head_too_is_only_trained_where_both_stay_one(
    tmp_path: Path, name: str
) -> None:
    saved = {"modules_to_save": [name]}
    tied = {"tie_word_embeddings": True}
    (found,) = findings_on(tmp_path / "a", {"tune": {"type": "LoHa", **saved}}, tied)
    assert found.key == "passes.tune.modules_to_save.0"
    assert "LoRA" in found.message
    assert findings_on(tmp_path / "b", {"tune": {"type": "LoRA", **saved}}, tied) == []
    assert findings_on(tmp_path / "c", {"tune": {"type": "LoHa", **saved}}, {"tie_word_embeddings": False}) == []


@pytest.mark.parametrize(
    ("config", "length", "warned"),
    [
        ({"rope_parameters": LONG_ROPE}, 512, True),
        ({"rope_parameters": LONG_ROPE}, 256, False),
        ({"rope_scaling": {**LONG_ROPE, "rope_type": "su"}}, 512, True),
        (
            {
                "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
                "original_max_position_embeddings": 256,
            },
            512,
            True,
        ),
        ({"rope_parameters": {**LONG_ROPE, "long_factor": [1.0]}}, 512, False),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 512, False),
        ({"rope_scaling": None, "original_max_position_embeddings": 256}, 512, False),
    ],
)
def test_rows_on_both_sides_of_the_switch_of_long_rope_are_warned_of(
    tmp_path: Path, config: dict[str, Any], length: int, warned: bool
) -> None:
    passes = {"tune": {"type": "LoRA"}, "other": {"type": "LoRA"}}  # both on the same data
    found = findings_on(tmp_path, passes, config, max_seq_len=length)
    assert [f.rule for f in found] == (["long-rope"] if warned else [])
    assert all("Set max_seq_len to 256" in f.message and f.severity == "warning" for f in found)
