"""What runs where."""

RUNNABLE = {
    "CPUExecutionProvider": ("fp32", "int8", "int4"),
    "CUDAExecutionProvider": ("fp32", "fp16", "bf16", "int8", "int4"),
    "DmlExecutionProvider": ("fp16", "int4"),
    "WebGpuExecutionProvider": ("int8", "int4"),
}
"""The precisions that the builder of onnxruntime-genai 0.18 builds *and* that run, by execution provider (fp16 and bf16 for the CPU
are built, but fail when they are loaded)."""

SHORT = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
    "WebGpuExecutionProvider": "webgpu",
}
"""What ONNX Runtime GenAI and its builder call the execution providers."""
