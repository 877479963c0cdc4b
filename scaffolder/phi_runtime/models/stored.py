"""What the config.json of the base model says that a config must agree with. No ML library is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import InputModel
from phi_runtime.core.project import project_of
from phi_runtime.models.place import base_model_path


def stored_config(model: InputModel, config_path: Path) -> dict[str, Any]:
    """config.json of the workflow's base model; empty while that is not here."""
    file = base_model_path(model, project_of(config_path)) / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def rope_switch(config: dict[str, Any]) -> int | None:
    """The length in tokens past which a model turns to other rotary factors; None where it has the same ones for all lengths.

    LongRoPE (https://arxiv.org/abs/2402.13753), as the 128k models of Phi-3 to Phi-4-mini have it: transformers chooses one set of
    factors by the longest row of a batch, for all of the batch. Newer configs call the settings `rope_parameters`, and Phi-3's own
    called the kind `su` at first.
    """
    settings = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(settings, dict) or settings.get("rope_type", settings.get("type")) not in ("longrope", "su"):
        return None
    if settings.get("short_factor") == settings.get("long_factor"):
        return None
    length = settings.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return length if isinstance(length, int) else None
