"""Tables of Olive's passes: older names, passes that one ModelBuilder replaces, and passes that change no model."""

from __future__ import annotations

from typing import NamedTuple

# Olive passes that make or change an ONNX graph, with the precision they imply; one ModelBuilder pass replaces them.
CLASSIC_EXPORT = {
    "OnnxConversion": "",
    "DeviceSpecificOnnxConversion": "",
    "OptimumConversion": "",
    "OptimumMerging": "",
    "OrtTransformersOptimization": "",
    "OnnxPeepholeOptimizer": "",
    "OnnxModelOptimizer": "",
    "OnnxCastChainElimination": "",
    "OnnxOpVersionConversion": "",
    "OnnxScriptFusion": "",
    "GraphSurgeries": "",
    "MatMulNBitsToQDQ": "",
    "OnnxFloatToFloat16": "fp16",
    "OrtMixedPrecision": "fp16",
    "ExtractAdapters": "",
}

PASS_NAMES = {"GenAIModelExporter": "ModelBuilder", "LoftQ": "QLoRA", "ONNXModelOptimizer": "OnnxModelOptimizer"}
"""Older names of passes."""
PASS_SETTINGS = {"LoftQ": {"init_lora_weights": "loftq"}}
"""Settings that the older name of a pass implied."""

_SESSION = "ONNX Runtime GenAI has its own session options"
_TYPES = "ONNX Runtime GenAI converts inputs and outputs"
SKIPPED_PASSES = {
    **dict.fromkeys(("OrtPerfTuning", "OrtSessionParamsTuning"), _SESSION),
    **dict.fromkeys(("OnnxIODataTypeConverter", "OnnxIOFloat16ToFloat32"), _TYPES),
    "AddOliveMetadata": "it adds no weights and no operators",
    "OnnxDiscrepancyCheck": "`gate` of ModelBuilder compares the models",
}
"""Passes that change no model, and the reason."""

EMBEDDING_SURGERY = "QuantizeEmbeddingInt8"
SURGERIES = (
    EMBEDDING_SURGERY,
    "ShareEmbeddingLmHead",
    "TieWordEmbeddings",
    "DeduplicateNodes",
    "DeduplicateSubgraphInitializers",
    "GemmToMatMulAdd",
    "InferShapes",
    "MatMulAddToGemm",
    "PowReduceSumPowDiv2LpNorm",
    "ReciprocalMulToDiv",
    "RemoveGidxFromMatMulNBits",
    "RemoveInitializerFromInputs",
    "RemoveMemcpy",
    "RemoveShapes",
    "RenameInputDims",
    "RenameOutputDims",
    "ReplaceAttentionMaskValue",
    "ReplaceAttentionMaskValueTensor",
    "SimplifiedLayerNormToL2Norm",
    "SimplifiedLayerNormToRMSNorm",
)
"""Surgeries of GraphSurgeries after which the graph computes the same, or that are options of the builder."""


class Option(NamedTuple):
    """An option that has no effect: its accepted values in lower case (empty: any value), and the reason."""

    values: tuple[str, ...]
    reason: str


_EXTERNAL = "the builder stores weights in a file next to the graph"
EXTRACT_OPTIONS = {
    "adapter_type": Option(
        ("lora",), "only LoRA weights can be graph inputs; merge other adapters into their base model"
    ),
    "make_inputs": Option(("true",), "adapter weights are inputs of the graph"),
    "dynamic_lora_r": Option(("true",), "the graph accepts adapters of any rank"),
    "optional_inputs": Option(("true",), "without an adapter the graph computes the base model"),
    "save_format": Option(("onnx_adapter",), "adapters are .onnx_adapter files"),
    **dict.fromkeys(("pack_inputs", "pack_weights"), Option((), "each MatMul of the graph has separate inputs")),
    **dict.fromkeys(
        (
            "save_as_external_data",
            "all_tensors_to_one_file",
            "external_data_name",
            "size_threshold",
            "convert_attribute",
        ),
        Option((), _EXTERNAL),
    ),
}
"""Options of ExtractAdapters."""
