"""Which generator answers for which kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from phi_runtime.inference.generator import Generator
from phi_runtime.models.reference import ModelRef


def open_generator(
    ref: ModelRef,
    device: str = "cpu",
    *,
    special: bool = True,
    specials: Mapping[str, bool] | None = None,
    conversations: int = 0,
    adapter: str | None = None,
    adapters: Mapping[str, Path] | None = None,
) -> Generator:
    """Loads the model that `ref` names.

    `special`: its prompts get the tokenizer's own BOS, which those of a chat template spell; `specials` says so of adapters that were
    trained otherwise. `conversations`: how many it remembers.
    `adapter`: the one that is active unless an answer asks for another; `adapters` are those it can be asked for, by name, beside
    those that lie in an ONNX model's folder: .onnx_adapter files there, folders of peft elsewhere. Raises PhiError.
    """
    adapter = adapter or ref.adapter
    if ref.kind == "onnx":
        from phi_runtime.inference.onnx import OnnxGenerator

        return OnnxGenerator(
            ref.path,
            special=special,
            specials=specials,
            conversations=conversations,
            adapter=adapter,
            adapters=adapters,
        )
    from phi_runtime.inference.transformers import TransformersGenerator

    return TransformersGenerator.of(
        ref, device, special=special, specials=specials, conversations=conversations, adapter=adapter, adapters=adapters
    )
