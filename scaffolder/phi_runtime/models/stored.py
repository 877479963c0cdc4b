"""Settings in the base model's config.json that a workflow must agree with. Imports no ML library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import InputModel
from phi_runtime.core.project import project_of
from phi_runtime.models.place import base_model_path


def stored_config(model: InputModel, config_path: Path) -> dict[str, Any]:
    """Return the config.json of the workflow's base model; empty if it is not downloaded."""
    file = base_model_path(model, project_of(config_path)) / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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
