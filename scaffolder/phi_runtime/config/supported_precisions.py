"""Execution providers: the precisions that each can run, its name in ONNX Runtime GenAI, and its package."""

SUPPORTED_PRECISIONS = {
    "CPUExecutionProvider": ("fp32", "int8", "int4"),
    "CUDAExecutionProvider": ("fp32", "fp16", "bf16", "int8", "int4"),
    "DmlExecutionProvider": ("fp16", "int4"),
    "WebGpuExecutionProvider": ("fp32", "fp16", "int8", "int4"),
}
"""Precisions, by execution provider, that the builder of onnxruntime-genai 0.18 builds and that run.

fp16 and bf16 for the CPU build, but fail to load. For WebGPU, fp16 and fp32 build with attention operators of that type, as
Microsoft publishes such models; a GPU without fp16 needs fp32, or `use_webgpu_fp32` for int4."""

PROVIDER_NAMES = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
    "WebGpuExecutionProvider": "webgpu",
}
"""Names of the execution providers in ONNX Runtime GenAI and its builder."""

PACKAGES = {
    "CPUExecutionProvider": "onnxruntime-genai",
    "CUDAExecutionProvider": "onnxruntime-genai-cuda",
    "DmlExecutionProvider": "onnxruntime-genai-directml",
    "WebGpuExecutionProvider": "onnxruntime-genai",
}
"""Distributions of ONNX Runtime GenAI that include the provider."""
