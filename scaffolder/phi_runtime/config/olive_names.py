"""Names that Olive knows and that are not supported here: one table, with the reason and the fix of each.

Sources: the passes, model types, systems, execution providers and data containers of all Olive releases up to 0.13, and those in
configs that Microsoft published. Passes that can be translated are in `dialects/export.py` and `dialects/quantizers.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class OliveName(NamedTuple):
    """A name of Olive that is not supported.

    Attributes:
        reason: Predicate of a sentence whose subject is the name.
        fix: Instruction for the user.
        other_domain: A config that names it has nothing that can run here, so that it gets this error only.
    """

    reason: str
    fix: str
    other_domain: bool = False


_OLIVE = "use Olive for this config; here, models that generate text are fine-tuned and exported with ModelBuilder"


def _domain(reason: str, *names: str, fix: str = _OLIVE) -> dict[str, OliveName]:
    return dict.fromkeys(names, OliveName(reason, fix, other_domain=True))


def _unsupported(reason: str, fix: str, *names: str) -> dict[str, OliveName]:
    return dict.fromkeys(names, OliveName(reason, fix))


_NPU_PASSES = {
    **_domain(
        "prepares a model for Qualcomm hardware",
        *("QNNPreprocess", "QnnPreprocess", "QNNConversion", "QNNModelLibGenerator", "QNNContextBinaryGenerator"),
        *("SNPEConversion", "SNPEQuantization", "SNPEtoONNXConversion", "AimetQuantization", "MixedPrecisionOverrides"),
        *("QairtPreparation", "QairtEncapsulation", "QairtGenAIBuilder", "QairtMHA2SHA", "QairtPipelinePass"),
        *("QNPUEPContextGenerator", "EstimateNPULatency"),
    ),
    **_domain(
        "prepares a model for an NPU",
        *("StaticLLM", "EPContextBinaryGenerator", "SplitModel", "CaptureSplitInfo", "ComposeOnnxModels"),
        *("DynamicToFixedShape", "CompositeToOnnxPackage"),
    ),
    **_domain(
        "exports a model for Intel's OpenVINO",
        *("OpenVINOConversion", "OpenVINOOptimumConversion", "OpenVINOQuantization", "OpenVINOWeightCompression"),
        *("OpenVINOQuantizationWithAccuracy", "OpenVINOIoUpdate", "OpenVINOEncapsulation"),
    ),
    **_domain(
        "prepares a model for AMD hardware",
        *("VitisAIQuantization", "VitisQuantization", "VitisAIAddMetaData", "VitisGenerateModelLLM"),
        *("VitisGenerateModelSD", "VitisGenerateModel", "VitisAIUpdateGenAIProviderOpts"),
        *("VitisAIAddProviderGenAIConfig", "RyzenGenerateModel", "RyzenGenerateModelLLM"),
        *("QuarkQuantization", "QuarkQuantizationPass", "QuarkQuantizationVitisAI"),
    ),
    **_domain(
        "prepares a model for NVIDIA TensorRT",
        *("NVModelOptQuantization", "NVModelOptGraphSurgery", "TorchTRTConversion", "TrtMatMulToConvTransform"),
    ),
}

_OTHER_MODEL_PASSES = {
    **_domain("is for diffusion models", "OrtStableDiffusionOptimization", "SDLoRA", "AutoFusion"),
    **_domain(
        "is for speech or vision models",
        *("AppendPrePostProcessingOps", "PrePostProcessing", "InputNCHWtoNHWC", "InsertBeamSearch", "NemotronExport"),
        *("NemotronKQuantQuantization", "MultiModalMixedPrecision", "Mbq", "MultimodalActivationRangeCalibration"),
    ),
    **_domain("runs a Python script of AI Toolkit", "AitkPython"),
}

_QUANTIZE = "set `precision` of ModelBuilder to `int4` or `int8`"

_MODEL_PASSES = {
    **_unsupported(
        "quantizes activations, which ONNX Runtime GenAI does not use",
        f"remove this pass and {_QUANTIZE}",
        *("OnnxQuantization", "OnnxStaticQuantization", "OnnxDynamicQuantization", "OnnxQuantizationPreprocess"),
        *("IncQuantization", "IncStaticQuantization", "IncDynamicQuantization"),
    ),
    **_unsupported(
        "removes weights, which is not implemented",
        "remove this pass, or run it with Olive and set `model_path` to its output",
        *("SparseGPT", "SliceGPT"),
    ),
    **_unsupported(
        "trains a model with rounded weights, which is not implemented",
        "use a pass of type QLoRA and export it with `precision: int4`",
        "QuantizationAwareTraining",
    ),
    **_unsupported(
        "distributes a model over several devices",
        "remove this pass; `device_map` of a training pass spreads a model over several GPUs",
        *("PyTorchTensorParallel", "LlamaPyTorchTensorParallel", "PyTorchPipelineParallel", "Sharding"),
        *("MoEExpertsDistributor", "OrtMoEExpertsDistributor"),
    ),
    **_unsupported(
        "exports a model with another builder", "use a pass of type ModelBuilder", "MobiusBuilder", "MobiusModelBuilder"
    ),
    **_unsupported(
        "exports a GGUF file", "use ModelBuilder, or llama.cpp on the output of MergeAdapterWeights", "ConvertHfToGGUF"
    ),
    **_unsupported("writes a config with random weights for tests", "remove this pass", "SaveTestModelConfig"),
    **_unsupported(
        "assigns layers to devices", "remove this pass; an ONNX model runs on one device", "CaptureLayerAnnotations"
    ),
    **_unsupported(
        "is an older name of a training pass", "use a pass of type LoRA or QLoRA", "HFLoRA", "HFTrainingArguments"
    ),
}

_QUANTIZERS = _unsupported(
    "quantizes the weights that ModelBuilder exports, and there is no ModelBuilder",
    'add a pass {"type": "ModelBuilder", "precision": "int4"} after it',
    *("Rtn", "KQuant", "Gptq", "GptqQuantizer", "GptqModel", "AutoAWQQuantizer", "SelectiveMixedPrecision", "AutoClip"),
    *("QuaRot", "SpinQuant", "OnnxKQuantQuantization", "OnnxBlockWiseRtnQuantization", "OnnxMatMul4Quantizer"),
    *("OnnxHqqQuantization", "OnnxBnb4Quantization"),
)

OTHER_PASSES: dict[str, OliveName] = {**_NPU_PASSES, **_OTHER_MODEL_PASSES, **_MODEL_PASSES}
"""Passes that are never translated."""

PASSES: dict[str, OliveName] = {**OTHER_PASSES, **_QUANTIZERS}

MODEL_TYPES: dict[str, OliveName] = {
    **_domain(
        "is an ONNX model, which cannot be fine-tuned or quantized here",
        *("ONNXModel", "OnnxModel", "DistributedOnnxModel"),
        fix="start from the Hugging Face model: set `type` to `HfModel` and `model_path` to its folder or Hub id",
    ),
    **_domain("is a model for Intel's OpenVINO", "OpenVINOModel"),
    **_domain(
        "is a model for Qualcomm hardware",
        "QNNModel",
        "SNPEModel",
        "QairtModel",
        "QairtPreparedModel",
        "QairtContainer",
    ),
    **_domain("is a TensorFlow model", "TensorFlowModel"),
    **_domain("is a diffusion model", "DiffusersModel", "DiffusersPipeline"),
    **_domain("consists of several models", "CompositeModel", "CompositePyTorchModel"),
    **_domain(
        "is a model exported with Optimum, for tasks other than text generation",
        "OptimumModel",
        fix="for a model that generates text, set `type` to `HfModel`; otherwise use Olive",
    ),
    **_domain("is spread over several devices", "DistributedHfModel", "DistributedPyTorchModel"),
}

_TARGETS = "set `execution_providers` to CPU-, CUDA-, Dml- or WebGpuExecutionProvider; for other hardware use Olive"


def _provider(hardware: str, *names: str, fix: str = _TARGETS) -> dict[str, OliveName]:
    return _domain(f"runs on {hardware}, for which no model can be built here", *names, fix=fix)


PROVIDERS: dict[str, OliveName] = {
    **_provider("Qualcomm NPUs", "QNNExecutionProvider", "SNPEExecutionProvider"),
    **_provider("Intel hardware", "OpenVINOExecutionProvider"),
    **_provider("AMD NPUs", "VitisAIExecutionProvider"),
    **_provider("NPUs", "NPUExecutionProvider"),
    **_provider(
        "NVIDIA GPUs through TensorRT",
        *("NvTensorRTRTXExecutionProvider", "TensorrtExecutionProvider"),
        fix="set `execution_providers` to CUDAExecutionProvider, which runs on the same GPUs",
    ),
    **_provider(
        "AMD GPUs",
        *("MIGraphXExecutionProvider", "ROCMExecutionProvider"),
        fix="set `execution_providers` to DmlExecutionProvider (Windows) or WebGpuExecutionProvider",
    ),
    **_provider(
        "web browsers",
        *("JsExecutionProvider", "WebNNExecutionProvider"),
        fix="set `execution_providers` to WebGpuExecutionProvider",
    ),
    **_provider("Apple hardware", "CoreMLExecutionProvider"),
    **_provider("mobile CPUs", "XnnpackExecutionProvider", fix="set `execution_providers` to CPUExecutionProvider"),
    **_provider("a remote service", "AzureExecutionProvider"),
}

DEVICES: dict[str, OliveName] = _domain(
    "is hardware for which no model can be built here",
    *("npu", "intel_myriad"),
    fix="set `device` to `cpu` or `gpu`; for an NPU use Olive",
)

SYSTEM_TYPES: dict[str, OliveName] = _unsupported(
    "runs passes in a container", "use `LocalSystem`, and run the command in the container", "Docker"
)

DATA_CONTAINERS: dict[str, OliveName] = {
    **_unsupported(
        "creates random data, on which nothing can be trained",
        "use `HuggingfaceContainer` with `load_dataset_config`",
        *("DummyDataContainer", "TransformersDummyDataContainer", "TransformersPromptDummyDataContainer"),
        *("TransformersTokenDummyDataContainer",),
    ),
    **_unsupported(
        "holds data for other tasks than text generation",
        "write the rows to a JSON Lines file and use `HuggingfaceContainer`",
        *("DefaultDataContainer", "RawDataContainer", "ImageDataContainer"),
    ),
}

OTHER_TASKS = {
    "audio-classification": "audio classification",
    "automatic-speech-recognition": "speech recognition",
    "depth-estimation": "depth estimation",
    "feature-extraction": "embeddings",
    "sentence-similarity": "embeddings",
    "sentence-embedding": "embeddings",
    "fill-mask": "masked language models",
    "image-classification": "image classification",
    "image-segmentation": "image segmentation",
    "semantic-segmentation": "image segmentation",
    "image-text-to-text": "vision and language",
    "image-to-text": "vision and language",
    "visual-question-answering": "vision and language",
    "mask-generation": "image segmentation",
    "masked-im": "images",
    "image-to-image": "images",
    "multiple-choice": "multiple choice",
    "ner": "token classification",
    "token-classification": "token classification",
    "object-detection": "object detection",
    "zero-shot-image-classification": "image classification",
    "zero-shot-object-detection": "object detection",
    "question-answering": "extractive question answering",
    "stable-diffusion": "diffusion",
    "stable-diffusion-xl": "diffusion",
    "text-to-image": "diffusion",
    "summarization": "encoder-decoder models",
    "text2text-generation": "encoder-decoder models",
    "text2text-generation-with-past": "encoder-decoder models",
    "translation": "encoder-decoder models",
    "text-classification": "text classification",
    "sequence-classification": "text classification",
    "zero-shot-classification": "text classification",
    "text-to-audio": "speech",
    "text-to-speech": "speech",
}
"""Tasks of Hugging Face models, other than text generation, and their subject."""

OTHER_GRAPHS = {
    **dict.fromkeys(("bert", "bert_tf", "bert_keras", "tnlr"), "BERT and other encoders"),
    **dict.fromkeys(("bart", "t5", "whisper", "conformer"), "encoder-decoder and speech models"),
    **dict.fromkeys(("clip", "vit", "swin", "sam2", "qwen2_vl", "phi4mm"), "vision models"),
    **dict.fromkeys(("unet", "vae", "mmdit", "dit"), "diffusion models"),
}
"""Values of `model_type` of OrtTransformersOptimization for models that do not generate text."""

OTHER_INPUTS = {
    **dict.fromkeys(("pixel_values", "image", "images", "image_features"), "images"),
    **dict.fromkeys(("input_features", "input_values", "audio", "audio_pcm"), "audio"),
    **dict.fromkeys(("token_type_ids", "decoder_input_ids"), "encoders"),
    **dict.fromkeys(("timestep", "latent_sample", "encoder_hidden_states"), "diffusion"),
}
"""Inputs of graphs, as `io_config` names them, of models that do not generate text, and their subject."""

OLIVE_NAMES: dict[str, OliveName] = {
    name.casefold(): entry
    for table in (PASSES, MODEL_TYPES, PROVIDERS, DEVICES, SYSTEM_TYPES, DATA_CONTAINERS)
    for name, entry in table.items()
}


def known_to_olive(name: object) -> OliveName | None:
    """Return the entry of a name, in any case, that Olive knows and that is not supported here."""
    return OLIVE_NAMES.get(name.strip().casefold()) if isinstance(name, str) else None
