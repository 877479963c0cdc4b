"""Which generator answers for which kind of model."""

from __future__ import annotations

from phi_runtime.inference.generator import Generator
from phi_runtime.models.reference import ModelRef


def open_generator(ref: ModelRef, device: str = "cpu") -> Generator:
    """Loads the model that `ref` names."""
    if ref.kind == "onnx":
        from phi_runtime.inference.onnx import OnnxGenerator

        return OnnxGenerator(ref.path)
    from phi_runtime.inference.transformers import TransformersGenerator

    return TransformersGenerator(ref, device)
