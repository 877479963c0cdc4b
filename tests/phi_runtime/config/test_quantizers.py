"""Passes of Olive that quantize weights become options of ModelBuilder; what the builder cannot do is marked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.pipeline.load import LoadedConfig, check_file

BUILD = {"type": "ModelBuilder", "precision": "int4"}
HEAD = {"matmul_mixed_precision": "last_matmul:int8"}
MIXED = {"matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"}


def checked(folder: Path, *steps: dict[str, Any]) -> LoadedConfig:
    passes = {f"p{i}": step for i, step in enumerate(steps)}
    path = folder / "olive-config.json"
    config = {"input_model": {"type": "HfModel", "model_path": "acme/tiny-parrot"}, "passes": passes}
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return check_file(path)


def errors(config: LoadedConfig) -> list[tuple[str, str]]:
    return [(f.rule, f.key) for f in config.findings if f.severity == "error"]


def changed(config: LoadedConfig) -> list[str]:
    """The keys of the warnings that the result changes."""
    return [f.key for f in config.findings if f.changes_result]


EXACT: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    (
        [{"type": "Rtn"}, BUILD],
        {"precision": "int4", "int4_algo_config": "rtn", "int4_block_size": 128, "int4_is_symmetric": False},
    ),
    (
        [{"type": "rtn", "sym": True, "group_size": 32, "bits": "4"}, BUILD],
        {"precision": "int4", "int4_algo_config": "rtn"},
    ),
    (
        [{"type": "KQuant", "config": {"bits": 8, "group_size": 32}}, BUILD],
        {"precision": "int8", "int4_algo_config": "k_quant"},
    ),
    (
        [{"type": "Rtn", "sym": True, "group_size": 32}, {"type": "ModelBuilder", "precision": "fp32"}],
        {"precision": "int4", "int4_algo_config": "rtn"},
    ),
    (
        [
            {"type": "SelectiveMixedPrecision", "algorithm": "k_quant_last"},
            {"type": "KQuant", "group_size": 32, "lm_head": True},
            BUILD,
        ],
        {"precision": "int4", "int4_algo_config": "k_quant", "extra_options": HEAD},
    ),
    (
        [
            {"type": "KQuant", "group_size": 32},
            {"type": "Rtn", "bits": 8, "group_size": 32, "lm_head": True, "embeds": True},
            BUILD,
        ],
        {
            "precision": "int4",
            "int4_algo_config": "k_quant",
            "int4_op_types_to_quantize": ["MatMul", "Gather"],
            "extra_options": HEAD,
        },
    ),
    ([{"type": "SelectiveMixedPrecision", "algorithm": "k_quant_mixed"}, BUILD], {"precision": "int4"}),
    (
        [{"type": "ModelBuilder", "precision": "fp32"}, {"type": "OnnxKQuantQuantization", "accuracy_level": 4}],
        {"precision": "int4", "int4_algo_config": "k_quant", "int4_accuracy_level": 4},
    ),
    (
        [
            {"type": "ModelBuilder", "precision": "fp32"},
            {"type": "OnnxBlockWiseRtnQuantization", "nodes_to_exclude": ["n"]},
        ],
        {
            "precision": "int4",
            "int4_algo_config": "rtn",
            "int4_block_size": 128,
            "int4_nodes_to_exclude": ["n"],
            "int4_op_types_to_quantize": ["MatMul", "Gather"],
        },
    ),
    ([BUILD, {"type": "OnnxBlockWiseRtnQuantization"}], {"precision": "int4"}),
    (
        [{"type": "KQuant", "group_size": 32}, {"type": "ModelBuilder", "precision": "bf16", "int4_block_size": 64}],
        {"precision": "int4", "int4_block_size": 32, "use_cuda_bf16": True, "int4_algo_config": "k_quant"},
    ),
]


@pytest.mark.parametrize(("steps", "options"), EXACT)
def test_what_the_builder_does_too_is_translated(
    steps: list[dict[str, Any]], options: dict[str, Any], tmp_path: Path
) -> None:
    config = checked(tmp_path, *steps)
    assert list(config.draft.value["passes"].values()) == [{"type": "ModelBuilder", **options}]
    assert errors(config) == []
    assert changed(config) == []


@pytest.mark.parametrize(
    ("steps", "options", "marked"),
    [
        ([{"type": "Gptq", "group_size": 32}, BUILD], {"int4_algo_config": "k_quant"}, ["passes.p0"]),
        ([{"type": "GptqModel", "group_size": 32}, BUILD], {"int4_algo_config": "rtn"}, ["passes.p0"]),
        (
            [{"type": "AutoAWQQuantizer", "zero_point": False, "q_group_size": 64}, BUILD],
            {"int4_algo_config": "rtn", "int4_block_size": 64},
            ["passes.p0"],
        ),
        (
            [{"type": "QuaRot"}, {"type": "SpinQuant"}, {"type": "AutoClip"}, BUILD],
            {},
            ["passes.p0", "passes.p1", "passes.p2"],
        ),
        (
            [
                {"type": "SelectiveMixedPrecision", "algorithm": "kld_gradient", "ratio": 0.6},
                {"type": "KQuant", "group_size": 32},
                BUILD,
            ],
            {"int4_algo_config": "k_quant", "extra_options": MIXED},
            ["passes.p0"],
        ),
        (
            [{"type": "KQuant", "group_size": -1}, BUILD],
            {"int4_algo_config": "k_quant", "int4_block_size": 256},
            ["passes.p0.group_size"],
        ),
        (
            [{"type": "KQuant", "group_size": 32, "sym": True}, BUILD],
            {"int4_algo_config": "k_quant"},
            ["passes.p0.sym"],
        ),
        (
            [{"type": "KQuant", "group_size": 32, "overrides": {"model.layers.0.mlp": {"bits": 8}}}, BUILD],
            {"int4_algo_config": "k_quant"},
            ["passes.p0.overrides"],
        ),
        (
            [{"type": "KQuant", "group_size": 32, "modules_to_not_convert": ["lm_head"]}, BUILD],
            {"int4_algo_config": "k_quant"},
            ["passes.p0.modules_to_not_convert"],
        ),
        (
            [BUILD | {"precision": "fp32"}, {"type": "OnnxHqqQuantization", "block_size": 32}],
            {"int4_algo_config": "k_quant"},
            ["passes.p1"],
        ),
    ],
)
def test_what_the_builder_does_not_do_becomes_the_nearest_and_is_marked(
    steps: list[dict[str, Any]], options: dict[str, Any], marked: list[str], tmp_path: Path
) -> None:
    config = checked(tmp_path, *steps)
    assert list(config.draft.value["passes"].values()) == [{"type": "ModelBuilder", "precision": "int4", **options}]
    assert errors(config) == []
    assert changed(config) == marked


@pytest.mark.parametrize(
    ("step", "options", "marked"),
    [
        ({"type": "GptqModel", "group_size": 32}, {}, []),
        ({"type": "Gptq", "sym": True, "desc_act": True}, {"int4_block_size": 128}, []),
        (
            {"type": "Gptq", "sym": True, "group_size": 32, "damp_percent": 0.01},
            {"int4_calibration": {"damp_percent": 0.01}},
            [],
        ),
        ({"type": "Gptq", "group_size": 32}, {}, ["passes.p2"]),
        ({"type": "Gptq", "sym": True, "group_size": 32, "data_config": "wikitext"}, {}, ["passes.p2"]),
    ],
)
def test_gptq_of_a_trained_model_becomes_the_calibration_of_the_export(
    step: dict[str, Any], options: dict[str, Any], marked: list[str], tmp_path: Path
) -> None:
    training = {"type": "LoRA", "train_data_config": "d"}
    config = checked(tmp_path, training, {"type": "MergeAdapterWeights"}, step, BUILD)
    export = list(config.draft.value["passes"].values())[-1]
    assert export == {"type": "ModelBuilder", "precision": "int4", "int4_algo_config": "gptq", **options}
    assert changed(config) == marked


@pytest.mark.parametrize(
    ("steps", "at"),
    [
        ([{"type": "Gptq", "bits": 2}, BUILD], "passes.p0.bits"),
        ([{"type": "Gptq"}], "passes.p0.type"),
        ([{"type": "Gptq"}, {"type": "LoRA", "train_data_config": "d"}, BUILD], "passes.p0"),
        ([BUILD, {"type": "GraphSurgeries", "surgeries": [{"surgeon": "RenameInputs"}]}], "passes.p1.surgeries.0"),
        ([BUILD, {"type": "GraphSurgeries", "surgeries": [{}, {"surgeon": "RenameInputs"}]}], "passes.p1.surgeries.0"),
    ],
)
def test_what_cannot_be_done_is_an_error_at_its_place(steps: list[dict[str, Any]], at: str, tmp_path: Path) -> None:
    assert at in [key for _, key in errors(checked(tmp_path, *steps))]


@pytest.mark.parametrize(
    "steps",
    [
        [BUILD, {"type": "GraphSurgeries", "surgeries": [{}]}],
        [{"type": "SelectiveMixedPrecision"}, {"type": "Rtn"}, BUILD],
    ],
)
def test_no_message_names_a_value_that_is_missing(steps: list[dict[str, Any]], tmp_path: Path) -> None:
    findings = checked(tmp_path, *steps).findings
    assert [f.message for f in findings if "object at" in f.message or "None" in f.message] == []
