"""Load any kind of model as a generator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from phi_runtime.inference.generator import Generator
from phi_runtime.models.reference import ModelRef


def open_generator(
    ref: ModelRef,
    device: str = "cpu",
    *,
    add_special_tokens: bool = True,
    special_tokens_by_adapter: Mapping[str, bool] | None = None,
    conversations: int = 0,
    adapters: Mapping[str, Path] | None = None,
) -> Generator:
    """Load the model of `ref`.

    Args:
        ref: A base, adapter, merged or ONNX model.
        device: Device of a transformers model.
        add_special_tokens: Add the tokenizer's special tokens (BOS) to prompts; chat templates spell them out.
        special_tokens_by_adapter: Exceptions from `add_special_tokens`, by adapter.
        conversations: Number of sequences whose KV cache is kept for their next turn.
        adapters: More adapters, by name: .onnx_adapter files for an ONNX model, in addition to those in its folder; peft
            folders for the others.

    Raises:
        PhiError: The model cannot be loaded.
    """
    if ref.kind == "onnx":
        from phi_runtime.inference.onnx import OnnxGenerator

        return OnnxGenerator(
            ref.path,
            add_special_tokens=add_special_tokens,
            special_tokens_by_adapter=special_tokens_by_adapter,
            conversations=conversations,
            adapter=ref.adapter,
            adapters=adapters,
        )
    from phi_runtime.hardware.device import compute_dtype
    from phi_runtime.inference.transformers import TransformersGenerator
    from phi_runtime.models.load import load_reference, load_tokenizer, quiet_libraries

    quiet_libraries()
    return TransformersGenerator(
        load_reference(ref, compute_dtype("bfloat16", device), device).eval(),
        load_tokenizer(ref),
        device,
        add_special_tokens=add_special_tokens,
        special_tokens_by_adapter=special_tokens_by_adapter,
        conversations=conversations,
        adapters=adapters,
    )
