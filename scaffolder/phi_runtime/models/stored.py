"""Facts of a base model that a workflow must agree with, read from its files without an ML library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phi_runtime.config.schema import InputModel
from phi_runtime.core.artifacts import read_object
from phi_runtime.core.project import project_of
from phi_runtime.models.known import known_architecture
from phi_runtime.models.modules import Modules, is_embedding, tensors
from phi_runtime.models.place import base_model_path, cached_part

_PHI3_LINEAR = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
PHI3 = Modules(
    _PHI3_LINEAR, (*_PHI3_LINEAR, "input_layernorm", "post_attention_layernorm", "embed_tokens", "norm", "lm_head")
)


def stored_config(model: InputModel, config_path: Path) -> dict[str, Any]:
    """Return the config.json of the workflow's base model; empty if it is not downloaded."""
    return read_object(base_model_path(model, project_of(config_path)) / "config.json")


def known_modules(model: InputModel, config_path: Path) -> Modules | None:
    """Return the modules of the workflow's base model; None if it is not downloaded and its architecture is unknown."""
    folder = base_model_path(model, project_of(config_path))
    names = {name[:-7]: shape for name, (shape, _) in tensors(folder).items() if name.endswith(".weight")}
    if names:
        linear = {n for n, shape in names.items() if len(shape) == 2 and not is_embedding(n)}
        all_names = {*names, "lm_head"}  # a tied head has no weight in the file
        return Modules(tuple(sorted(linear)), tuple(sorted(all_names)))
    return PHI3 if known_architecture(cached_part(model.name)) == "Phi3ForCausalLM" else None


def rope_switch(config: dict[str, Any]) -> int | None:
    """Return the length in tokens above which a model uses other rotary factors; None if they never change.

    LongRoPE (https://arxiv.org/abs/2402.13753), as in the 128k models of Phi-3 to Phi-4-mini: transformers chooses one set
    of factors for a batch by its longest row. Newer configs name the settings `rope_parameters`; Phi-3's first name of the
    type was `su`.
    """
    settings = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(settings, dict) or settings.get("rope_type", settings.get("type")) not in ("longrope", "su"):
        return None
    if settings.get("short_factor") == settings.get("long_factor"):
        return None
    length = settings.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return length if isinstance(length, int) else None
