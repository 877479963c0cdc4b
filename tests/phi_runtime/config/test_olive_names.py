"""Every name that Olive knows is translated, skipped or explained; a config for other models or hardware gets one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.dialects.pass_names import CLASSIC_EXPORT, PASS_NAMES, SKIPPED_PASSES
from phi_runtime.config.dialects.quantizers import QUANTIZER_PASSES
from phi_runtime.config.olive_names import OLIVE_NAMES, OTHER_PASSES
from phi_runtime.config.schema.registry import pass_types
from phi_runtime.pipeline.load import check_file

# The pass types of Olive 0.13.0, from its olive_config.json.
OLIVE_PASSES = [
    "AddOliveMetadata",
    "AimetQuantization",
    "AutoAWQQuantizer",
    "AutoClip",
    "CaptureLayerAnnotations",
    "CaptureSplitInfo",
    "ComposeOnnxModels",
    "DoRA",
    "DynamicToFixedShape",
    "EPContextBinaryGenerator",
    "ExtractAdapters",
    "Gptq",
    "GptqModel",
    "GptqQuantizer",
    "GraphSurgeries",
    "IncDynamicQuantization",
    "IncQuantization",
    "IncStaticQuantization",
    "InputNCHWtoNHWC",
    "KQuant",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoftQ",
    "MatMulNBitsToQDQ",
    "MergeAdapterWeights",
    "MixedPrecisionOverrides",
    "MobiusBuilder",
    "ModelBuilder",
    "NVModelOptGraphSurgery",
    "NVModelOptQuantization",
    "OnnxBlockWiseRtnQuantization",
    "OnnxBnb4Quantization",
    "OnnxConversion",
    "OnnxDiscrepancyCheck",
    "OnnxDynamicQuantization",
    "OnnxFloatToFloat16",
    "OnnxHqqQuantization",
    "OnnxIODataTypeConverter",
    "OnnxKQuantQuantization",
    "OnnxOpVersionConversion",
    "OnnxPeepholeOptimizer",
    "OnnxQuantization",
    "OnnxQuantizationPreprocess",
    "OnnxScriptFusion",
    "OnnxStaticQuantization",
    "OpenVINOConversion",
    "OpenVINOEncapsulation",
    "OpenVINOIoUpdate",
    "OpenVINOOptimumConversion",
    "OpenVINOQuantization",
    "OpenVINOQuantizationWithAccuracy",
    "OpenVINOWeightCompression",
    "OptimumConversion",
    "OptimumMerging",
    "OrtMixedPrecision",
    "OrtSessionParamsTuning",
    "OrtTransformersOptimization",
    "QLoRA",
    "QNNContextBinaryGenerator",
    "QNNConversion",
    "QNNModelLibGenerator",
    "QNNPreprocess",
    "QairtEncapsulation",
    "QairtGenAIBuilder",
    "QairtMHA2SHA",
    "QairtPipelinePass",
    "QairtPreparation",
    "QuaRot",
    "QuarkQuantization",
    "Rtn",
    "SDLoRA",
    "SelectiveMixedPrecision",
    "SliceGPT",
    "SparseGPT",
    "SpinQuant",
    "SplitModel",
    "StaticLLM",
    "VitisAIAddMetaData",
    "VitisGenerateModelLLM",
    "VitisGenerateModelSD",
]
# Pass types of earlier releases.
OLDER_PASSES = [
    "GenAIModelExporter",
    "InsertBeamSearch",
    "OnnxMatMul4Quantizer",
    "OnnxModelOptimizer",
    "OrtPerfTuning",
    "PyTorchTensorParallel",
    "QuantizationAwareTraining",
    "SNPEConversion",
    "TorchTRTConversion",
    "VitisAIQuantization",
    "MoEExpertsDistributor",
]


def config(**changes: Any) -> dict[str, Any]:
    return {
        "input_model": {"type": "HfModel", "model_path": "acme/tiny-parrot"},
        "passes": {"build": {"type": "ModelBuilder", "precision": "int4"}},
        **changes,
    }


def errors(folder: Path, value: dict[str, Any]) -> list[Finding]:
    path = folder / "olive-config.json"
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
    return [f for f in check_file(path).findings if f.severity == "error"]


@pytest.mark.parametrize("name", [*OLIVE_PASSES, *OLDER_PASSES])
def test_every_pass_type_of_olive_is_translated_or_explained(name: str) -> None:
    here = {*pass_types(), *CLASSIC_EXPORT, *SKIPPED_PASSES, *QUANTIZER_PASSES, *PASS_NAMES}
    assert (name in here) != (name in OTHER_PASSES)


def test_the_names_of_the_table_are_distinct_and_none_is_ours() -> None:
    assert not {name.casefold() for name in pass_types()} & set(OLIVE_NAMES)
    assert all(entry.reason and entry.fix for entry in OLIVE_NAMES.values())


@pytest.mark.parametrize(
    "change",
    [
        {"passes": {"q": {"type": name}, "build": {"type": "ModelBuilder", "precision": "int4"}}}
        for name in OTHER_PASSES
        if not OTHER_PASSES[name].other_domain
    ]
    + [{"systems": {"here": {"type": "Docker"}}}, {"passes": {"a": {"type": "Gptq"}}}],
    ids=str,
)
def test_a_name_that_is_not_supported_gets_its_reason_and_no_suggestion(change: dict[str, Any], tmp_path: Path) -> None:
    (error, *_) = found = errors(tmp_path, config(**change))
    assert [(f.rule, f.suggestion) for f in found] == [("not-supported", "")]
    assert error.fix


OTHER: list[tuple[str, dict[str, Any], str]] = [
    (
        "task",
        {"input_model": {"type": "HfModel", "model_path": "a/b", "task": "text-classification"}},
        "input_model.task",
    ),
    (
        "older task",
        {"input_model": {"type": "PyTorchModel", "config": {"hf_config": {"model_name": "a/b", "task": "ner"}}}},
        "input_model.config.hf_config.task",
    ),
    ("ONNX model", {"input_model": {"type": "onnxmodel", "model_path": "model.onnx"}}, "input_model.type"),
    (
        "loader",
        {"input_model": {"type": "PyTorchModel", "model_loader": "load", "model_script": "user_script.py"}},
        "input_model.model_loader",
    ),
    (
        "images",
        {"input_model": {"type": "HfModel", "model_path": "a/b", "io_config": {"input_names": ["pixel_values"]}}},
        "input_model.io_config.input_names.0",
    ),
    ("no pass of ours", {"passes": {"a": {"type": "SparseGPT"}, "b": {"type": "OnnxConversion"}}}, "passes.a.type"),
    ("automatic passes", {"passes": {}, "auto_optimizer_config": {"opt_level": 0}}, "auto_optimizer_config"),
    ("file", {"input_model": {"type": "PyTorchModel", "model_path": "models/resnet.pt"}}, "input_model.model_path"),
    ("NPU pass", {"passes": {"a": {"type": "StaticLLM"}, "b": {"type": "QNNPreprocess"}}}, "passes.a.type"),
    (
        "encoder",
        {"passes": {"a": {"type": "OrtTransformersOptimization", "config": {"model_type": "bert"}}}},
        "passes.a.config.model_type",
    ),
    (
        "provider",
        {
            "systems": {
                "t": {"type": "LocalSystem", "accelerators": [{"execution_providers": ["QNNExecutionProvider"]}]}
            },
            "engine": {"target": "t"},
        },
        "systems.t.accelerators.0.execution_providers.0",
    ),
    (
        "device",
        {"systems": {"t": {"type": "LocalSystem", "accelerators": [{"device": "NPU"}]}}},
        "systems.t.accelerators.0.device",
    ),
    (
        "older device",
        {"systems": {"t": {"type": "LocalSystem", "config": {"accelerators": ["npu"]}}}},
        "systems.t.config.accelerators.0",
    ),
]


@pytest.mark.parametrize(("change", "key"), [case[1:] for case in OTHER], ids=[case[0] for case in OTHER])
def test_a_config_for_other_models_or_hardware_gets_one_error(change: dict[str, Any], key: str, tmp_path: Path) -> None:
    unknown = {
        "data_configs": [{"name": "x", "type": "MyContainer"}],
        "evaluators": {"e": {"metrics": []}},
        "colours": 1,
    }
    found = errors(tmp_path, config(**unknown) | change)
    assert [(f.rule, f.key) for f in found] == [("other-domain", key)]
    assert found[0].fix


def test_a_file_of_another_kind_gets_one_error(tmp_path: Path) -> None:
    found = errors(tmp_path, {"definitions": {}, "title": "RunConfig", "type": "object"})
    assert [(f.rule, f.key) for f in found] == [("other-domain", "")]


def test_a_config_without_passes_is_not_of_another_domain(tmp_path: Path) -> None:
    assert [(f.rule, f.key) for f in errors(tmp_path, config(passes={}))] == [("out-of-range", "passes")]


def test_alternative_passes_are_one_error(tmp_path: Path) -> None:
    merged = {
        "tune": [{"type": "LoRA", "r": 8, "train_data_config": "d"}] * 2,
        "merge": {"type": "MergeAdapterWeights"},
    }
    data = [
        {
            "name": "d",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "acme/rows", "split": "train"},
        }
    ]
    found = errors(tmp_path, config(passes=merged, data_configs=data))
    assert [(f.rule, f.key) for f in found] == [("not-supported", "passes.tune")]


def test_a_provider_that_is_not_used_does_not_make_a_config_foreign(tmp_path: Path) -> None:
    def system(device: str, *providers: str) -> dict[str, Any]:
        return {"type": "LocalSystem", "accelerators": [{"device": device, "execution_providers": list(providers)}]}

    systems = {"npu": system("npu", "QNNExecutionProvider"), "here": system("cpu", "CPUExecutionProvider")}
    assert "other-domain" not in [f.rule for f in errors(tmp_path, config(systems=systems, target="here", host="here"))]
