"""Execution providers: the precisions that each can run, its short name, and the package that brings it."""

RUNNABLE = {
    "CPUExecutionProvider": ("fp32", "int8", "int4"),
    "CUDAExecutionProvider": ("fp32", "fp16", "bf16", "int8", "int4"),
    "DmlExecutionProvider": ("fp16", "int4"),
    "WebGpuExecutionProvider": ("int8", "int4"),
}
"""Precisions that the builder of onnxruntime-genai 0.18 builds *and* that run (fp16 and bf16 for the CPU are built, but fail to
load)."""

SHORT = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
    "WebGpuExecutionProvider": "webgpu",
}
"""Names of the providers in ONNX Runtime GenAI and its builder."""

PACKAGES = {
    "CPUExecutionProvider": "onnxruntime-genai",
    "CUDAExecutionProvider": "onnxruntime-genai-cuda",
    "DmlExecutionProvider": "onnxruntime-genai-directml",
    "WebGpuExecutionProvider": "onnxruntime-genai",
}
"""Distributions of ONNX Runtime GenAI that include the provider."""
