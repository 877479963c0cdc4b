"""Check that the base model can be loaded and that the model builder can export it, before anything is trained.

The tables repeat what the builder's source decides; a test compares them with the installed release.
"""

from __future__ import annotations

from typing import Any

from phi_runtime.config.schema import Workflow
from phi_runtime.core.errors import ConfigError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models.builder_source import text_models
from phi_runtime.models.stored import stored_config

# Builders that exist and fail (seen in onnxruntime-genai 0.18 with transformers 5.23).
_BROKEN = {
    "Gemma3ForCausalLM": "it fails on the rope_parameters that transformers 5 writes",
    "PhiMoEForCausalLM": "transformers 5 saves this model under a name that it does not know",
    "SmolLM3ForCausalLM": "it fails on the layers without rotary embeddings",
    "PhimoeForCausalLM": "it knows this model only by its name in older versions of transformers",
}
_INSTEAD = (
    "remove the ModelBuilder pass and use the model through transformers (`phi-scaffold chat --model merged`, or adapter), or "
    "start from a model that can be exported, such as a text model of Phi, Llama or Qwen (`phi-scaffold models`)"
)


ROPE_TYPES: tuple[str, ...] = ("default", "linear", "yarn")
"""Rotary embeddings of most architectures, by their type in config.json."""
OWN_ROPE_TYPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("LlamaForCausalLM", "NemotronForCausalLM", "SmolLM3ForCausalLM"), ("default", "llama3")),
    "HunYuanDenseV1ForCausalLM": ("default", "dynamic"),
}
"""Rotary embeddings of other architectures. The builder ignores every other type of theirs, so that the graph computes another
model (seen in onnxruntime-genai 0.18)."""
ACTIVATIONS = (
    *("silu", "swish", "swiglu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu", "gegelu", "geglu"),
    *("relu", "relu2"),
)
"""Activation functions that the builder has."""
_LONG_ROPE = ("Phi3ForCausalLM", "Phi3SmallForCausalLM")
_PHI3_LENGTH = 4096  # default of both lengths in transformers' Phi3Config

_LOADED_AS_FLOATS = ("mxfp4",)  # transformers dequantizes it

Reason = tuple[str, str]
"""Why a model cannot be used, and what to do."""


def why_not_exportable(config: dict[str, Any]) -> Reason | None:
    """Return why the model with this config.json cannot be exported; None if it can, or if that is not known."""
    named = config.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        return None
    name: str = named[0]
    if name in _BROKEN:
        return f"the model builder cannot export {name}: {_BROKEN[name]}", _INSTEAD
    if name not in text_models():
        return f"the model builder cannot export {name}", _INSTEAD
    activation = config.get("hidden_activation") or config.get("hidden_act")
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        return f"the model builder does not have the activation function `{activation}`", _INSTEAD
    return _rope(name, config)


def _rope(name: str, config: dict[str, Any]) -> Reason | None:
    """Return why the rotary embeddings of the architecture `name` cannot be exported."""
    settings = config.get("rope_parameters") or config.get("rope_scaling")
    settings = settings if isinstance(settings, dict) else {}
    kind = settings.get("rope_type", settings.get("type")) or "default"
    if not isinstance(kind, str):
        return None
    kind = "longrope" if kind == "su" else kind  # its first name
    allowed = OWN_ROPE_TYPES.get(name, ROPE_TYPES)
    if name in _LONG_ROPE:
        length = config.get("max_position_embeddings", _PHI3_LENGTH)
        original = config.get("original_max_position_embeddings", _PHI3_LENGTH)
        if length != original and kind != "longrope":
            return (
                f"the model builder takes {name} with two lengths ({length} and originally {original} tokens) for one with "
                "LongRoPE, and fails",
                f'set "original_max_position_embeddings": {length} in its config.json',
            )
        if length != original and "type" not in settings:
            return (
                "the model builder does not find the type of the rotary embeddings",
                'add "type": "longrope" to "rope_parameters" in its config.json',
            )
        allowed = allowed if length == original else ("longrope",)
    if kind not in allowed:
        return f"the model builder cannot export rotary embeddings of the type `{kind}` for {name}", _INSTEAD
    return None


def why_not_loadable(config: dict[str, Any]) -> Reason | None:
    """Return why the model with this config.json cannot be loaded: its weights are quantized already."""
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        return None
    method = str(settings.get("quant_method") or settings.get("quant_algo") or "an unknown method")
    if method in _LOADED_AS_FLOATS:
        return None
    bits = settings.get("bits") or settings.get("w_bit")
    size = f", {bits} bits" if isinstance(bits, int) else ""
    return (
        f"the weights of this model are quantized ({method}{size}): they cannot be trained, merged or exported",
        "set `model_path` to the model that it was quantized from",
    )


def check_base_model(workflow: Workflow, project: ProjectFolder) -> None:
    """Raise ConfigError if the downloaded base model cannot be loaded, or exported although the workflow does so."""
    config = stored_config(workflow.input_model, project.config)
    exports = any(step.produces == "onnx" for step in workflow.passes.values())
    if reason := why_not_loadable(config) or (why_not_exportable(config) if exports else None):
        what, fix = reason
        raise ConfigError(what, fix=fix)


def needed_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return options that the model of this config.json needs to run: Gemma 2's cache must hold the full window."""
    return {"windowed_kv_cache": False} if config.get("model_type") == "gemma2" else {}
