"""Check that the model builder can export the base model, before anything is trained."""

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
    "PhimoeForCausalLM": "it knows this model only by its name in older versions of transformers",
}
_INSTEAD = (
    "remove the ModelBuilder pass and use the model through transformers (`phi-scaffold chat --model merged`, or adapter), or "
    "start from a model that can be exported, such as a text model of Phi, Llama or Qwen (`phi-scaffold models`)"
)


def why_not_exportable(config: dict[str, Any]) -> str | None:
    """Return why the model with this config.json cannot be exported; None if it can, or if that is not known."""
    named = config.get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        return None
    name: str = named[0]
    if name in _BROKEN:
        return f"the model builder cannot export {name}: {_BROKEN[name]}; {_INSTEAD}"
    if name not in text_models():
        return f"the model builder cannot export {name}; {_INSTEAD}"
    return None


def check_exportable(workflow: Workflow, project: ProjectFolder) -> None:
    """Raise ConfigError if the workflow exports and its downloaded base model cannot be exported."""
    if not any(step.produces == "onnx" for step in workflow.passes.values()):
        return
    if reason := why_not_exportable(stored_config(workflow.input_model, project.config)):
        what, _, fix = reason.partition("; ")
        raise ConfigError(what, fix=fix)


def needed_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return options that the model of this config.json needs to run: Gemma 2's cache must hold the full window."""
    return {"windowed_kv_cache": False} if config.get("model_type") == "gemma2" else {}
