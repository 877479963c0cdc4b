"""Load any kind of model as a generator."""

from __future__ import annotations

from phi_runtime.inference.generator import Generator, GeneratorOptions
from phi_runtime.models.reference import ModelRef


def open_generator(ref: ModelRef, device: str = "cpu", options: GeneratorOptions | None = None) -> Generator:
    """Load the model of `ref`, a base, adapter, merged or ONNX model; `device` is that of a transformers model.

    Raises:
        PhiError: The model cannot be loaded.
    """
    if ref.kind == "onnx":
        from phi_runtime.inference.onnx import OnnxGenerator

        return OnnxGenerator(ref.path, options, ref.adapter)
    from phi_runtime.hardware.device import compute_dtype
    from phi_runtime.inference.transformers import TransformersGenerator
    from phi_runtime.models.load import load_reference, load_tokenizer, quiet_libraries

    quiet_libraries()
    model = load_reference(ref, compute_dtype("bfloat16", device), device).eval()
    return TransformersGenerator(model, load_tokenizer(ref), device, options)
