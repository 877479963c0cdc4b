"""Whether the builder can make an ONNX model of the base model: asked before anything is trained."""

from __future__ import annotations

from typing import Any

from phi_runtime.config.schema import Workflow
from phi_runtime.core.errors import ConfigError
from phi_runtime.core.project import Project
from phi_runtime.models.builder_source import text_models
from phi_runtime.models.stored import stored_config

# Builders that are there and fail all the same (seen in onnxruntime-genai 0.18 with transformers 5.23).
_BROKEN = {
    "Gemma3ForCausalLM": "it fails on the rope_parameters that transformers 5 writes",
    "PhiMoEForCausalLM": "transformers 5 saves this model under another name, which it does not know",
    "PhimoeForCausalLM": "it knows this model by the name of an older transformers alone",
}
_INSTEAD = (
    "take the ModelBuilder pass out and use the model through transformers (`phi-scaffold chat --model merged`, or adapter), or "
    "start from a model that can be exported, such as the text models of Phi, Llama and Qwen (`phi-scaffold models`)"
)


def why_not_exportable(config: dict[str, Any]) -> str | None:
    """Why no ONNX model can be built of the model with this config.json, in words; None where one can, or where nothing is known."""
    named = config.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        return None
    name: str = named[0]
    if name in _BROKEN:
        return f"the model builder cannot export {name}: {_BROKEN[name]}; {_INSTEAD}"
    if name not in text_models():
        return f"the model builder cannot export {name}; {_INSTEAD}"
    return None


def check_exportable(workflow: Workflow, project: Project) -> None:
    """Raises ConfigError when the workflow exports and its base model, which is here, cannot be; before training starts."""
    if not any(step.produces == "onnx" for step in workflow.passes.values()):
        return
    if reason := why_not_exportable(stored_config(workflow.input_model, project.config)):
        what, _, fix = reason.partition("; ")
        raise ConfigError(what, fix=fix)


def needed_options(config: dict[str, Any]) -> dict[str, Any]:
    """Options without which the model of this config.json does not run: Gemma 2's windowed cache needs room for the whole window."""
    return {"windowed_kv_cache": False} if config.get("model_type") == "gemma2" else {}
