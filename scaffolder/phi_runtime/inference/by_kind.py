"""Which generator answers for which kind of model."""

from __future__ import annotations

from phi_runtime.inference.generator import Generator
from phi_runtime.models.reference import ModelRef


def open_generator(ref: ModelRef, device: str = "cpu", *, special: bool = True) -> Generator:
    """Loads the model that `ref` names. `special`: its prompts get the tokenizer's own BOS, which those of a chat template spell."""
    if ref.kind == "onnx":
        from phi_runtime.inference.onnx import OnnxGenerator

        return OnnxGenerator(ref.path, special=special)
    from phi_runtime.inference.transformers import TransformersGenerator

    return TransformersGenerator.of(ref, device, special=special)
