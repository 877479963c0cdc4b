"""Load any kind of model as a generator."""

from __future__ import annotations

import sys

from phi_runtime.core.artifacts import read_json
from phi_runtime.inference.generator import Generator, GeneratorOptions
from phi_runtime.models.reference import ModelRef
from phi_runtime.models.shape import text_config


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


def context_length(ref: ModelRef) -> int:
    """Return the tokens of prompt and answer together that the model of `ref` accepts, without loading it."""
    if ref.kind == "onnx":
        return int(read_json(ref.path / "genai_config.json")["model"]["context_length"])
    config = text_config(read_json(ref.full.path / "config.json"))
    return int(config.get("max_position_embeddings") or config.get("n_positions") or sys.maxsize)


def uses_gpu(ref: ModelRef, device: str) -> bool:
    """Return True if the model of `ref` runs on a GPU: one that is not ONNX on the torch `device`, an ONNX model by its files."""
    if ref.kind != "onnx":
        return device != "cpu"
    from phi_runtime.inference.onnx_folder import runtime_providers

    return bool(runtime_providers(read_json(ref.path / "genai_config.json")))
