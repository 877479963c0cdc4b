"""Describe why a stage is stale: the inputs that changed. Imports no ML library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from phi_runtime.config.paths import data_paths
from phi_runtime.config.schema import FinetunePass, Workflow
from phi_runtime.core.artifacts import digest, file_digest
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.hooks import functions_key
from phi_runtime.models.reference import ModelRef

_MAX_SHOWN = 60  # characters; a longer value is named without its old and new content
_MESSAGES = {
    "chat_template": "the chat template changed",
    "hooks": "hooks.py changed",
    "base": "the base model changed",
    "rounding": "the rounding of its int4 export changed",
}
_ABSENT = {"hooks": "", "rounding": ""}  # inputs that are absent if there are none
_OTHER_VERSION = "built by another version of phi-scaffold"


def input_origins(
    workflow: Workflow, training: FinetunePass, project: ProjectFolder, source: ModelRef
) -> dict[str, str]:
    """Return one digest per origin of a training's inputs, where the inputs hold a digest of several.

    They are kept next to the inputs and tell whether the data `files`, the `functions` over their rows,
    or the `tokenizer` of the source model changed.
    """
    from phi_runtime.data.prepare import tokenizer_key

    configs = [workflow.data_config(name) for name in training.data_names]
    paths = [file.path for data in configs for file in data_paths(data, project.config)]
    return {
        "files": digest([file_digest(path) for path in paths if path.is_file()]),
        "functions": digest([functions_key(project.config, data) for data in configs]),
        "tokenizer": tokenizer_key(source.path),
    }


def describe_changes(
    previous: Mapping[str, Any],
    current: Mapping[str, Any],
    previous_origins: Mapping[str, str],
    current_origins: Mapping[str, str],
) -> str:
    """Describe how the `current` inputs of a stage differ from the `previous` ones.

    The origins are those of `input_origins`, as far as known.
    """

    def origin_changed(name: str) -> bool:
        return name in previous_origins and previous_origins[name] != current_origins.get(name, previous_origins[name])

    if not previous:
        return _OTHER_VERSION
    changes = []
    if previous.get("input") != current["input"]:
        changes.append("its input model changed" + (" (with its tokenizer)" if origin_changed("tokenizer") else ""))
    if previous.get("data", current.get("data")) != current.get("data"):
        functions = origin_changed("functions")
        changes += ["the functions over the rows changed"] if functions else []
        changes += ["the data changed"] if origin_changed("files") or not functions else []
    previous, current = {**_ABSENT, **previous}, {**_ABSENT, **current}
    for part in current.keys() - {"input", "data"}:
        changes += _differences(part, previous.get(part, current[part]), current[part])
    return "; ".join(sorted(changes)) or _OTHER_VERSION


def _differences(name: str, previous: Any, current: Any) -> list[str]:
    if previous == current:
        return []
    if name in _MESSAGES:
        return [_MESSAGES[name]]
    if isinstance(previous, dict) and isinstance(current, dict):
        return [d for key in {**previous, **current} for d in _differences(key, previous.get(key), current.get(key))]
    old, new = (json.dumps(value, ensure_ascii=False) for value in (previous, current))
    return [f"{name}: {old} → {new}" if max(len(old), len(new)) <= _MAX_SHOWN else f"{name} changed"]
